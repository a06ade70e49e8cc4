"""What lists of models tell of one, or of a policy, beside its name: taken from cards, files and running servers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.api.residency import engine_of
from gateway.embedding.minilm import CONTEXT, NAMES
from gateway.engines import Engine, Residency
from gateway.engines.footprint import NOTHING, Footprint
from gateway.errors import UnknownModel
from gateway.gateway import Gateway, Model
from gateway.runtime import Runtime
from gateway.sources.split import nth_part, split_of

# Names of GGUF files, by ggml's `docs/gguf.md`: BaseName-SizeLabel-FineTune-Version-Encoding.gguf
SIZE_LABEL = re.compile(r"(?<![a-z0-9.])((?:\d+x)?\d+(?:\.\d+)?[qtbmk])(?![a-z0-9])", re.IGNORECASE)
ENCODING = re.compile(r"(?<![a-z0-9])((?:i?q|tq)\d\w*|bf16|f16|f32|mxfp4)(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """None, empty or 0 where nobody knows. Of a policy: what the best of its active models has.

    Args:
        tools: False where none of them would be shown the tools of a request.
        context: tokens of one request, prompt and answer together.
        size_bytes, modified: of the model's file.
        is_ours: it runs in an engine of this gateway.
        is_loaded: it is in memory, or somebody else's to load.
        memory: what it takes there.
        goes_in_s: it is dropped then if nobody asks for it; None: it stays.
        chats: False for models that only make vectors, such as the built-in one.
    """

    name: str
    accepts: frozenset[str] = frozenset({"text"})
    tools: bool = True
    context: int | None = None
    path: Path | None = None
    size_bytes: int = 0
    modified: float | None = None
    is_ours: bool = False
    is_loaded: bool = True
    memory: Footprint = NOTHING
    goes_in_s: float | None = None
    chats: bool = True

    @property
    def format(self) -> str:
        return "gguf" if self.path is not None and self.path.suffix == ".gguf" else ""

    @property
    def parameter_size(self) -> str:
        return self._in_name(SIZE_LABEL).upper()

    @property
    def quantization(self) -> str:
        return self._in_name(ENCODING).upper()

    def _in_name(self, pattern: re.Pattern[str]) -> str:
        found = pattern.search(self.path.stem) if self.path is not None and self.format else None
        return found[1] if found else ""


def listed(gateway: Gateway, runtime: Runtime) -> list[ModelFacts]:
    """Policies under all their names, and active models: what may be asked."""
    active = (name for name, model in gateway.models.items() if model.responder is not None)
    return [facts_of(gateway, runtime, name) for name in (*gateway.policies, *active)]


def facts_of(gateway: Gateway, runtime: Runtime, name: str) -> ModelFacts:
    """Raises: UnknownModel, also for a model that is switched off."""
    policy = gateway.policies.get(name)
    if policy is None and name in NAMES and name not in gateway.models:
        return ModelFacts(name, tools=False, context=CONTEXT, chats=False)
    if policy is None:
        return _of_model(gateway, runtime, gateway.model(name))
    named = dict.fromkeys(model for route in policy.routes for model in _named_in(route.plan))
    models = [gateway.models[model] for model in named if model in gateway.models]
    active = [_of_model(gateway, runtime, model) for model in models if model.responder is not None]
    if not active:
        return ModelFacts(name)
    return ModelFacts(
        name,
        accepts=frozenset().union(*(facts.accepts for facts in active)),
        tools=any(facts.tools for facts in active),
        context=max((facts.context for facts in active if facts.context is not None), default=None),
        is_loaded=any(facts.is_loaded for facts in active),
    )


def in_memory(gateway: Gateway, runtime: Runtime) -> list[ModelFacts]:
    """Local models that are loaded now. What an adapter takes is its base's."""
    active = (model for model in gateway.models.values() if model.responder is not None and "base" not in model.card)
    facts = (_of_model(gateway, runtime, model) for model in active)
    return [model for model in facts if model.is_ours and model.is_loaded]


def known(gateway: Gateway, name: str) -> bool:
    if name in gateway.policies or name in NAMES:
        return True
    try:
        gateway.model(name)
    except UnknownModel:
        return False
    return True


def _named_in(plan: Any) -> Iterator[str]:
    """Models of an answer's tree."""
    if isinstance(plan, list):
        for item in plan:
            yield from _named_in(item)
    elif isinstance(plan, dict):
        for key, value in plan.items():
            if key == "model" and isinstance(value, str):
                yield value
            else:
                yield from _named_in(value)


def _of_model(gateway: Gateway, runtime: Runtime, model: Model) -> ModelFacts:
    card = model.card
    chats = card.get("chats") is not False
    engine = engine_of(gateway, model)
    path = getattr(engine, "path", None)
    size_bytes, modified = file_facts(path) if isinstance(path, Path) else (0, None)
    is_loaded, memory, goes_in_s = True, NOTHING, None
    if engine is not None:
        is_loaded, told_bytes = _at_its_server(runtime, engine)
        size_bytes = size_bytes or told_bytes
        state = runtime.pool.state_of(engine)
        memory = state.footprint if is_loaded else NOTHING
        if engine.residency is Residency.ON_DEMAND:
            goes_in_s = max(0.0, engine.idle_ttl_s - (state.idle_s or 0.0))
    return ModelFacts(
        model.name,
        accepts=frozenset(card.get("accepts") or ("text",)),
        tools=chats and card.get("tools") is not False,
        context=card.get("context"),
        path=path if isinstance(path, Path) else None,
        size_bytes=size_bytes,
        modified=modified,
        is_ours=engine is not None,
        is_loaded=is_loaded,
        memory=memory,
        goes_in_s=goes_in_s,
        chats=chats,
    )


def _at_its_server(runtime: Runtime, engine: Engine) -> tuple[bool, int]:
    """Is it in memory there, and how many bytes its weights have, 0 where the server does not tell."""
    found = runtime.pool.found(engine)
    model = found.models[0] if found is not None and found.models else None
    is_ready = runtime.pool.state_of(engine).is_ready
    if model is None:
        return is_ready, 0
    return is_ready and model.is_loaded is not False, model.size_bytes or 0


def file_facts(path: Path) -> tuple[int, float | None]:
    """Bytes of all its parts, and when it was changed; nothing of one that is not there any more."""
    split = split_of(path.name)
    parts = [nth_part(str(path), number + 1) for number in range(split.count)] if split else [str(path)]
    try:
        found = [Path(part).stat() for part in parts]
    except OSError:
        return 0, None
    return sum(status.st_size for status in found), found[0].st_mtime
