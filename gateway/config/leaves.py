"""From an entry of models.yaml to the live model: one function per engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.backends.openai import OpenAIBackend, Standing
from gateway.backends.script import Script, ScriptSpec
from gateway.backends.scripted import ScriptedClient
from gateway.chat import Json, Responder
from gateway.config.files import Config, ModelEntry
from gateway.config.lines import Document, Loc, read
from gateway.config.model_specs import LlamaCppSpec, ModelSpec, OpenAISpec, ScriptedSpec
from gateway.config.problems import problems_of
from gateway.engines import Lease
from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.errors import ConfigError, Problem
from gateway.gateway import Model
from gateway.runtime import Runtime
from gateway.sources import parse as parse_source
from gateway.sources import path_of
from gateway.trace import Price
from gateway.transport import Timeouts


@dataclass(frozen=True)
class Surroundings:
    """What a leaf may need beside its own entry. Faults found while it is built go into `problems`."""

    config: Config
    runtime: Runtime
    problems: list[Problem]


def model_of(entry: ModelEntry, around: Surroundings) -> Model:
    """The model of an entry; without a responder where it is switched off or at fault."""
    spec = entry.spec
    if spec is None:
        return Model(entry.name, entry.engine, None, entry.why)
    responder, card = LEAVES[entry.engine](entry.name, spec, around)
    card = {"accepts": list(spec.accepts), "good_at": list(spec.good_at), **card}
    if spec.price is not None:
        card["price"] = spec.price.model_dump(exclude_defaults=True)
    return Model(entry.name, entry.engine, responder, card=card)


def common(name: str, spec: ModelSpec) -> Json:
    """What every leaf takes from its entry, as keyword arguments."""
    return {
        "name": name,
        "timeouts": Timeouts(**spec.timeouts.model_dump()),
        "price": Price(**spec.price.model_dump()) if spec.price else None,
        "defaults": spec.defaults,
        "accepts": frozenset(spec.accepts),
    }


def _llama_cpp(name: str, spec: LlamaCppSpec, around: Surroundings) -> tuple[Responder, Json]:
    runtime = around.runtime
    path = path_of(parse_source(spec.source), runtime.home, spec.sha256)
    runtime.pool.add(
        LlamaCppSettings(name=name, path=path, context=spec.context, slots=spec.slots, threads=spec.threads),
    )
    leaf = OpenAIBackend(
        **common(name, spec), take_lease=partial(runtime.pool.lease, name), client=runtime.client, local=True
    )
    return leaf, {"context": spec.context, "slots": spec.slots}


def _openai(name: str, spec: OpenAISpec, around: Surroundings) -> tuple[Responder, Json]:
    lease = Lease(url=spec.base_url, key=spec.api_key, id=spec.model)
    leaf = OpenAIBackend(
        **common(name, spec), take_lease=Standing(lease), client=around.runtime.client, headers=spec.headers
    )
    return leaf, {}


def _scripted(name: str, spec: ScriptedSpec, around: Surroundings) -> tuple[Responder | None, Json]:
    config = around.config
    try:
        if spec.script is not None:
            script = read_script(config.folder / spec.script)
        else:
            script = _parse_script(config.models_document, ("models", name), {"replies": spec.replies})
    except ConfigError as exc:
        around.problems.extend(exc.problems)
        return None, {}
    lease = Lease(url="scripted:", key=None, id=name)
    return OpenAIBackend(**common(name, spec), take_lease=Standing(lease), client=ScriptedClient(script)), {}


def read_script(path: Path) -> Script:
    """Raises: ConfigError."""
    document = read(path)
    return _parse_script(document, (), document.data)


def _parse_script(document: Document, at: Loc, data: Any) -> Script:
    try:
        return Script(ScriptSpec.model_validate(data))
    except ValidationError as exc:
        raise ConfigError(list(problems_of(exc, document, at, ScriptSpec))) from None


Leaf = Callable[[str, Any, Surroundings], tuple[Responder | None, Json]]
LEAVES: dict[str, Leaf] = {"llama.cpp": _llama_cpp, "openai": _openai, "scripted": _scripted}
"""By engine: builds the responder, None where it is at fault, and what its card says beside the common keys."""
