"""`cache:` of a node: what its cached answers hang on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, Literal

import orjson

from gateway.caching import Keeping
from gateway.chat import Responder
from gateway.config.checks import ChecksReader
from gateway.config.files import Config, ModelEntry
from gateway.config.leaves import Surroundings
from gateway.config.lines import Loc
from gateway.config.spec import CacheSpec, PolicySpec, RouteSpec, SemanticSpec
from gateway.responders.cached import Alike, Cached
from gateway.responders.cascade import responders_in
from gateway.responders.with_shards import WithShards

FORMAT = 1  # of what is kept; another one finds nothing of it


def cached(
    said: Literal[True] | CacheSpec,
    name: str,
    inner: Responder,
    at: Loc,
    policy: PolicySpec,
    around: Surroundings,
    checks: ChecksReader,
) -> Cached:
    """Before the node `inner`, which stands at `at` in its policy's file."""
    spec = CacheSpec() if said is True else said
    route = policy.routes[int(at[1])]
    below = "/".join(str(part) for part in at[3:])
    fingerprint = fingerprint_of(policy, route, around.config.models, around.trained)
    runtime = around.runtime
    return Cached(
        name,
        inner,
        runtime.answers,
        place=f"{policy.policy}/{route.name}/{below} {fingerprint}",
        ttl_s=spec.ttl_s,
        tools=spec.tools,
        per_user=spec.per_user,
        bookcase=runtime.bookcase if gives_shards(inner) else None,
        alike=_alike(spec.semantic, inner, (*at, "cache", "semantic", "checks"), around, checks),
    )


def _alike(
    spec: SemanticSpec | None, inner: Responder, at: Loc, around: Surroundings, checks: ChecksReader
) -> Alike | None:
    if spec is None:
        return None
    written = checks.read(spec.checks, at)
    for one in written:
        if one.check.asks or one.check.offers is not None:
            message = f"'{one.check.name}' reads what has to be asked of the model beforehand: a kept answer has it not"
            around.problems.append(checks.document.problem(one.loc, message, "take another, such as judge"))
    return Alike(around.runtime.embeddings, spec.above, checks.bind(written, inner))


def keeping_of(config: Config) -> Keeping:
    said = config.settings.cache
    is_used = any(_is_cached(route.model_dump()) for file in config.policies for route in file.spec.routes)
    return Keeping(is_used, said.store, int(said.max_mb * 2**20))


def fingerprint_of(
    policy: PolicySpec, route: RouteSpec, entries: Mapping[str, ModelEntry], adapters: Mapping[str, list[str]]
) -> str:
    """Changes with the route's answer, what the policy promises, and the models that either names. What models have
    learned counts by `adapters`: names of those that may answer."""
    node = route.answer.model_dump(mode="json")
    quality = policy.quality.model_dump(mode="json") if policy.quality is not None else None
    named = sorted({text for text in _strings([node, quality]) if text in entries})
    models = [(name, _said(entries[name]), sorted(adapters.get(name, ()))) for name in named]
    return blake2b(orjson.dumps([FORMAT, node, quality, models]), digest_size=16).hexdigest()


def gives_shards(responder: Responder) -> bool:
    """May a model in it be given any?"""
    return any(isinstance(one, WithShards) for one in responders_in(responder))


def _said(entry: ModelEntry) -> Any:
    spec = entry.spec.model_dump(mode="json") if entry.spec is not None else None
    return [entry.adapter, spec]


def _is_cached(said: object) -> bool:
    if isinstance(said, Mapping):
        return bool(said.get("cache")) or any(map(_is_cached, said.values()))
    return isinstance(said, (list, tuple)) and any(map(_is_cached, said))


def _strings(said: object) -> Iterator[str]:
    if isinstance(said, str):
        yield said
    elif isinstance(said, Mapping):
        for value in said.values():
            yield from _strings(value)
    elif isinstance(said, (list, tuple)):
        for value in said:
            yield from _strings(value)
