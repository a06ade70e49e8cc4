"""From an entry of models.yaml to the live model: one function per engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from gateway import catalogue
from gateway.backends.counting import Asked, Estimator, ScriptedCounter, ServerCounter, counter_for, counter_of
from gateway.backends.litellm import Keyed, LiteLLMBackend
from gateway.backends.llama_cpp_python import LLAMA_CPP_PYTHON, LlamaCppPythonBackend
from gateway.backends.marks import MARKED_CHAT, takes_marks
from gateway.backends.messages import MAX_TOKENS, MessagesWire
from gateway.backends.openai import Facts, OpenAIBackend, Standing
from gateway.backends.responses import ResponsesWire
from gateway.backends.script import Script, ScriptSpec
from gateway.backends.scripted import ScriptedClient
from gateway.backends.vectors import UpstreamVectors
from gateway.backends.wire import CHAT, Wire
from gateway.chat import Json, Responder
from gateway.config.adapters import adapted, adapter_files, adapters_of, faults
from gateway.config.address_specs import AddressSpec
from gateway.config.addresses import balance_of, balanced, balanced_attached
from gateway.config.failover_specs import by_cause
from gateway.config.files import Config, ModelEntry
from gateway.config.lines import Document, Loc, read
from gateway.config.model_specs import (
    AttachSpec,
    GgufSpec,
    LiteLLMSpec,
    LlamaCppPythonSpec,
    LlamaCppSpec,
    LocalSpec,
    Modality,
    ModelSpec,
    OpenAISpec,
    ScriptedSpec,
    VllmSpec,
)
from gateway.config.problems import problems_of
from gateway.config.used import used_of
from gateway.engines import Engine, Lease, Residency
from gateway.engines.attach import AttachSettings
from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.engines.llama_cpp_python import LlamaCppPythonSettings
from gateway.engines.vllm import VllmSettings
from gateway.errors import ConfigError, Problem
from gateway.gateway import Model
from gateway.providers import ANY, KINDS, LLAMA_SERVER, UNKNOWN_SERVER, api_base, recognise
from gateway.quality.promises import Pledge
from gateway.runtime import Runtime
from gateway.sources import parse as parse_source
from gateway.sources import path_of
from gateway.trace import Price
from gateway.training.specialists import Place
from gateway.transport import Timeouts

ALL_KINDS: frozenset[str] = frozenset(get_args(Modality))
WITHOUT_AUDIO: frozenset[str] = ALL_KINDS - {"audio"}
"""What protocols other than chat have a place for."""
MOST_OF_ANSWERS = 32_000  # tokens, where nobody said how many; some models take 128 thousand
EMBEDDING_ENGINES = frozenset({"attach", "openai", "vllm"})


@dataclass(frozen=True)
class Surroundings:
    """What a leaf may need beside its own entry. Faults found while it is built go into `problems`, servers that it
    needs into `engines`, each of them into `leaves`, by its model's name, what policies promise into `pledges`, and
    where adapters may answer into `places`. `trainable`: models that can have adapters, `trained`: full names of those
    that policies may use, by model."""

    config: Config
    runtime: Runtime
    problems: list[Problem]
    engines: list[Engine]
    leaves: dict[str, Responder | None] = field(default_factory=dict)
    pledges: list[Pledge] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    trainable: frozenset[str] = frozenset()
    trained: dict[str, list[str]] = field(default_factory=dict)


def model_of(entry: ModelEntry, around: Surroundings) -> Model:
    """The model of an entry; without a responder where it is switched off or at fault."""
    spec = entry.spec
    if spec is None:
        return Model(entry.name, entry.engine, None, entry.why, {"accepts": list(entry.accepts)})
    responder, card = _adapter(entry, around) if entry.adapter else LEAVES[entry.engine](entry.name, spec, around)
    around.leaves[entry.name] = responder
    if isinstance(spec, LlamaCppSpec) and spec.adapters:
        around.problems.extend(faults(entry, spec, around.config, around.runtime.home))
    card = {"accepts": list(spec.accepts), "good_at": list(spec.good_at), **card}
    if spec.languages:
        card["languages"] = list(spec.languages)
    if spec.price is not None:
        card["price"] = spec.price.model_dump(exclude_defaults=True)
    if spec.fallbacks:
        card["fallbacks"] = list(dict.fromkeys(name for names in by_cause(spec.fallbacks).values() for name in names))
    counter = responder.counter if isinstance(responder, OpenAIBackend | LiteLLMBackend) else None
    look = responder.card if isinstance(responder, OpenAIBackend) and responder.has_news else None
    vectors = _vectors(entry, responder)
    return Model(
        entry.name, entry.engine, responder, stated=card, counter=counter, look=look, vectors=vectors, owner=entry.owner
    )


def _vectors(entry: ModelEntry, responder: Responder | None) -> UpstreamVectors | None:
    """What asks the same upstream for embeddings. Our own servers of GGUF files are started for chats."""
    if isinstance(responder, LiteLLMBackend):
        return UpstreamVectors(entry.name, responder.leaf)
    if entry.engine not in EMBEDDING_ENGINES or not isinstance(responder, OpenAIBackend):
        return None
    leaf = responder
    return None if isinstance(leaf.wire, MessagesWire) else UpstreamVectors(entry.name, lambda trace: leaf)


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
    path, mmproj = _paths_of(spec, runtime)
    engine = LlamaCppSettings(
        name=name,
        path=path,
        mmproj=mmproj,
        context=spec.context,
        slots=spec.slots,
        threads=spec.threads,
        gpu_layers=spec.gpu_layers,
        server=None if spec.server == "auto" else spec.server,
        command=spec.command,
        cpus=spec.cpus,
        adapters=adapter_files(spec, runtime.home),
        prefixes=runtime.prefixes.root if around.config.settings.prefix_cache_mb else None,
        **_life(spec),
    )
    if engine.served_by == "llama-cpp-python":
        only = {"engine": "llama-cpp-python", "slots": 1}
        kept = spec.model_dump(include=set(LlamaCppPythonSpec.model_fields), exclude_unset=True)
        return _llama_cpp_python(name, LlamaCppPythonSpec.model_validate({**kept, **only}), around)
    around.engines.append(engine)
    address = partial(runtime.pool.address, engine)
    given = common(name, spec)

    def look() -> Facts:
        found = runtime.pool.found(engine)
        tools = found.models[0].tools if found is not None and found.models else None
        return Facts(LLAMA_SERVER, given["accepts"], spec.context, tools, given["price"])

    leaf = OpenAIBackend(
        **given,
        take_lease=partial(runtime.pool.lease, engine),
        client=runtime.client,
        look=look,
        counter=counter_of(spec.engine, name, runtime.client, address, defaults=spec.defaults),
        adapters=adapters_of(spec),
        can_score=True,
        used=used_of(name, spec, runtime),
    )
    return leaf, {"context": spec.context, "slots": spec.slots}


def _adapter(entry: ModelEntry, around: Surroundings) -> tuple[Responder | None, Json]:
    leaf, spec = around.leaves[entry.base], entry.spec
    assert isinstance(leaf, OpenAIBackend) and isinstance(spec, LlamaCppSpec)
    card = {"context": spec.context, "slots": spec.slots, "base": entry.base, "adapter": entry.adapter}
    return adapted(leaf, entry.adapter, common(entry.name, spec)), card


def _life(spec: LocalSpec) -> dict[str, Any]:
    """When its server runs."""
    return {"residency": Residency(spec.residency), "idle_ttl_s": spec.idle_ttl_s, "preload": spec.preload}


def _paths_of(spec: GgufSpec, runtime: Runtime) -> tuple[Path, Path | None]:
    """Of the model's file and its projector's."""
    path, *more = (path_of(parse_source(source), runtime.home, sha256) for source, sha256 in spec.files)
    return path, more[0] if spec.mmproj else None


def _llama_cpp_python(name: str, spec: LlamaCppPythonSpec, around: Surroundings) -> tuple[Responder, Json]:
    runtime = around.runtime
    path, mmproj = _paths_of(spec, runtime)
    engine = LlamaCppPythonSettings(
        name=name,
        path=path,
        mmproj=mmproj,
        chat_format=spec.chat_format,
        context=spec.context,
        threads=spec.threads,
        gpu_layers=spec.gpu_layers,
        logprobs=spec.logprobs,
        python=spec.python,
        cpus=spec.cpus,
        **_life(spec),
    )
    around.engines.append(engine)
    leaf = LlamaCppPythonBackend(
        **common(name, spec),
        take_lease=partial(runtime.pool.lease, engine),
        client=runtime.client,
        provider=LLAMA_CPP_PYTHON,
        context=spec.context,
        counter=Estimator(name),
        used=used_of(name, spec, runtime),
    )
    return leaf, {"context": spec.context, "slots": 1}


def _vllm(name: str, spec: VllmSpec, around: Surroundings) -> tuple[Responder, Json]:
    runtime = around.runtime
    engine = VllmSettings(
        name=name,
        model=str(Path(spec.model).expanduser()) if spec.model.startswith("~") else spec.model,
        context=spec.context,
        slots=spec.slots,
        dtype=spec.dtype,
        gpu_memory=spec.gpu_memory,
        tensor_parallel=spec.tensor_parallel,
        command=spec.command,
        args=spec.args,
        env=tuple(spec.env.items()),
        start_s=spec.start_timeout_s,
        sleep=spec.sleep,
        **_life(spec),
    )
    around.engines.append(engine)
    address = partial(runtime.pool.address, engine)
    leaf = OpenAIBackend(
        **common(name, spec),
        take_lease=partial(runtime.pool.lease, engine),
        client=runtime.client,
        provider=KINDS["vllm"],
        context=spec.context,
        counter=counter_of(spec.engine, name, runtime.client, address, defaults=spec.defaults),
        used=used_of(name, spec, runtime),
    )
    return leaf, {"slots": spec.slots, **({"context": spec.context} if spec.context else {})}


def _openai(name: str, spec: OpenAISpec, around: Surroundings) -> tuple[Responder, Json]:
    first = spec.addresses[0].url
    provider = KINDS[spec.provider] if spec.provider else recognise(first)
    given, card = common(name, spec), Json()
    speaks = spec.speaks or provider.speaks
    if speaks != "chat" and "accepts" not in spec.model_fields_set:
        given["accepts"] = WITHOUT_AUDIO
        card["accepts"] = [modality for modality in get_args(Modality) if modality in WITHOUT_AUDIO]
    says_all = spec.price is not None and spec.context is not None and speaks != "messages"
    found = None if says_all else catalogue.known_at(first, spec.model)
    if spec.price is None:
        given["price"], listed = _listed_price(found)
        card |= listed
    context = spec.context or (found.context if found is not None else None)
    if context is not None:
        card["context"] = context
    client, wire = around.runtime.client, _wire(speaks, found)
    if wire is CHAT and provider.name == "openrouter" and takes_marks(spec.model):
        wire = MARKED_CHAT

    def leaf_at(number: int, address: AddressSpec) -> OpenAIBackend:
        there = KINDS[spec.provider] if spec.provider else recognise(address.url)
        url, query = api_base(there, address.url, spec.model, spec.api_version)
        lease = Lease(url=url, key=address.key, id=spec.model)
        asked = counter_of(there.name, name, client, lambda: lease, defaults=spec.defaults, headers=spec.headers)
        return OpenAIBackend(
            **given,
            take_lease=Standing(lease),
            client=client,
            headers=spec.headers,
            context=context,
            counter=asked or counter_for(name, spec.model),
            provider=there,
            drops=spec.drop,
            wire=wire,
            query=query,
            retries=spec.retries,
            has_others=spec.has_others,
            used=used_of(f"{name}#{number}", spec, around.runtime),
        )

    leaves = [leaf_at(number, address) for number, address in enumerate(spec.addresses, 1)]
    return (leaves[0] if len(leaves) == 1 else balanced(leaves, spec.addresses, spec.balance, around.runtime)), card


def _wire(speaks: str, found: catalogue.Known | None) -> Wire:
    if speaks == "messages":
        longest = found.max_output_tokens if found is not None else None
        return MessagesWire(min(longest, MOST_OF_ANSWERS) if longest else MAX_TOKENS)
    return ResponsesWire() if speaks == "responses" else CHAT


def _attach(name: str, spec: AttachSpec, around: Surroundings) -> tuple[Responder, Json]:
    runtime = around.runtime
    several = len(spec.addresses) > 1
    engines = [
        AttachSettings(
            name=f"{name}#{number}" if several else name,
            url=address.url,
            model=spec.model,
            key=address.key,
            kind=spec.kind,
            own_slots=spec.slots,
            context=spec.context,
            accepts=frozenset(spec.accepts),
        )
        for number, address in enumerate(spec.addresses, 1)
    ]
    around.engines.extend(engines)
    leaves = [_attached(name, spec, engine, runtime) for engine in engines]
    leaf = balanced_attached(leaves, spec.addresses, engines, spec.balance, runtime) if several else leaves[0]
    return leaf, {"slots": spec.slots} if spec.slots is not None else {}


def _attached(name: str, spec: AttachSpec, engine: AttachSettings, runtime: Runtime) -> OpenAIBackend:
    given = common(name, spec)

    def look() -> Facts:
        found = runtime.pool.found(engine)
        if found is None:  # it is away, or being asked: who waits for it learns more
            return Facts(UNKNOWN_SERVER, engine.accepts or ALL_KINDS, engine.context, price=given["price"])
        kind = engine.kind or found.kind
        provider = recognise(found.base_url) if kind == ANY.name else KINDS[kind]
        model = found.models[0]
        provider = provider if provider is not ANY else UNKNOWN_SERVER
        price = given["price"] or model.price
        return Facts(provider, model.accepts or ALL_KINDS, model.context, model.tools, price, model.chats)

    asked = Asked(runtime.client, partial(runtime.pool.address, engine))
    return OpenAIBackend(
        **given,
        take_lease=partial(runtime.pool.lease, engine),
        client=runtime.client,
        look=look,
        counter=ServerCounter(name, asked, lambda: look().provider.name, spec.defaults),
        retries=spec.retries,
        has_others=spec.has_others,
        used=used_of(engine.name, spec, runtime),
    )


def _litellm(name: str, spec: LiteLLMSpec, around: Surroundings) -> tuple[Responder, Json]:
    given, card = common(name, spec), Json()
    found = catalogue.known(spec.model)
    if spec.price is None:
        given["price"], card = _listed_price(found)
    if found is not None and "accepts" not in spec.model_fields_set:
        given["accepts"] = found.accepts
        card["accepts"] = [modality for modality in get_args(Modality) if modality in found.accepts]
    context = spec.context or (found.context if found is not None else None)
    if context is not None:
        card["context"] = context
    leaf = LiteLLMBackend(
        **given,
        model=spec.model,
        api_key=spec.api_key if isinstance(spec.api_key, str) else None,
        base_url=spec.base_url,
        headers=spec.headers,
        options=spec.options,
        context=context,
        counter=counter_for(name, spec.model),
        retries=spec.retries,
        has_others=spec.has_others,
        keyed=_keyed(name, spec, around.runtime) if isinstance(spec.api_key, tuple) else None,
        used=used_of(name, spec, around.runtime),
    )
    return leaf, card


def _keyed(name: str, spec: LiteLLMSpec, runtime: Runtime) -> Keyed:
    deployments = [AddressSpec.model_construct(url=spec.base_url or "", key=key) for key in spec.api_key or ()]
    return Keyed(tuple(spec.api_key or ()), balance_of(name, deployments, "affine", runtime))


def _listed_price(found: catalogue.Known | None) -> tuple[Price | None, Json]:
    """The price that the list of models gives, and what a card says of it."""
    if found is None or found.price is None:
        return None, {}
    price = {name: value for name, value in asdict(found.price).items() if value}
    return found.price, {"price": price}


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
    leaf = OpenAIBackend(
        **common(name, spec),
        take_lease=Standing(lease),
        client=ScriptedClient(script),
        context=spec.context,
        counter=ScriptedCounter(name),
        used=used_of(name, spec, around.runtime),
    )
    return leaf, {"context": spec.context} if spec.context else {}


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
LEAVES: dict[str, Leaf] = {
    "llama.cpp": _llama_cpp,
    "llama-cpp-python": _llama_cpp_python,
    "vllm": _vllm,
    "openai": _openai,
    "attach": _attach,
    "litellm": _litellm,
    "scripted": _scripted,
}
"""By engine: builds the responder, None where it is at fault, and what its card says beside the common keys."""
