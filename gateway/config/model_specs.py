"""What an entry of models.yaml may say: one class per engine. Pydantic only, no I/O."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gateway.config.address_specs import (
    Addresses,
    AddressSpec,
    ApiKey,
    ApiKeys,
    HeaderName,
    HeaderValue,
    Spec,
    WebAddress,
    addresses_of,
    with_a_choice,
)
from gateway.config.failover_specs import OFF, Fallbacks, Hedge, Retries, by_cause
from gateway.engines.balance import Way
from gateway.errors import SourceError
from gateway.sources import parse as parse_source
from gateway.sources import parse_sha256s

Modality = Literal["text", "image", "audio", "file"]
Seconds = Annotated[float, Field(gt=0)]
Dollars = Annotated[float, Field(ge=0)]
Tokens = Annotated[int, Field(ge=64)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"
Language = Annotated[str, Field(pattern=r"^[a-z]{2}$")]  # ISO 639-1


def _as_text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value  # what YAML makes of 2026-01-01


def _may_be_left_out(value: str) -> str:
    if value in ("messages", "model", "stream"):
        raise ValueError(f"'{value}' must be sent")
    return value


FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_may_be_left_out)]
Kind = Literal[  # those that `gateway.providers` knows
    "openai",
    "anthropic",
    "azure",
    "openrouter",
    "mistral",
    "deepseek",
    "groq",
    "together",
    "fireworks",
    "cerebras",
    "xai",
    "perplexity",
    "ollama",
    "lm-studio",
    "llama-server",
    "vllm",
    "onion-gateway",
]


def as_written(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Word = Annotated[str, BeforeValidator(as_written, json_schema_input_type=str | int | float)]  # as YAML reads numbers
Program = Annotated[str, Field(pattern=r"^[^-\s][^\n]*$")]  # a path, or a name on PATH


def _sendable(value: dict[str, Any]) -> dict[str, Any]:
    for name in ("messages", "model", "n", "stream", "stream_options"):
        if name in value:
            raise ValueError(f"'{name}' is the request's own")
    try:
        orjson.dumps(value)
    except TypeError as exc:
        raise ValueError(f"cannot be sent as JSON: {exc}") from None
    return value


def _a_source(value: str) -> str:
    try:
        parse_source(value)
    except SourceError as exc:
        raise ValueError(exc.message) from None
    return value


def _sha256_of(value: str | None, source: str | None) -> str | None:
    """Checked against its source, None where that is at fault itself."""
    if value is not None and source is not None:
        try:
            parse_sha256s(value, parse_source(source))
        except SourceError as exc:
            raise ValueError(exc.message) from None
    return value


class PriceSpec(Spec):
    input_usd_per_mtok: Dollars = 0.0
    output_usd_per_mtok: Dollars = 0.0
    cached_input_usd_per_mtok: Dollars | None = None
    usd_per_hour: Dollars = 0.0


class EnergySpec(Spec):
    """What a model draws, for where that cannot be measured; one of them."""

    watts: float | None = Field(default=None, gt=0)  # of the machine, while a request keeps the model busy
    joules_per_token: float | None = Field(default=None, gt=0)  # that it writes

    @model_validator(mode="after")
    def _one_of(self) -> EnergySpec:
        if (self.watts is None) == (self.joules_per_token is None):
            raise ValueError("wants exactly one of 'watts' and 'joules_per_token'")
        return self


class TimeoutsSpec(Spec):
    connect_s: Seconds = 10.0
    first_token_s: Seconds = 120.0
    between_tokens_s: Seconds = 60.0
    total_s: Seconds = 600.0


class ModelSpec(Spec):
    """What an entry of any engine may say."""

    engine: str
    price: PriceSpec | None = None
    energy: EnergySpec | None = None  # else by the threads of a model that runs here, and unknown of others
    accepts: tuple[Modality, ...] = ("text",)
    good_at: tuple[str, ...] = ()
    languages: tuple[Language, ...] = ()  # that it is good in; else nobody knows
    parameters: Annotated[str, Field(pattern=r"^\d+(\.\d+)?[KMBT]$")] | None = None  # else as its file says
    distillable: bool = True  # may other models be trained on its answers? Some licences forbid it
    defaults: dict[str, Any] = Field(default_factory=dict)
    timeouts: TimeoutsSpec = TimeoutsSpec()
    fallbacks: Fallbacks = ()  # models that are asked where this one fails
    hedge: Hedge = OFF  # after so long, or as long as so many percent take, somebody else is asked beside it

    @property
    def has_others(self) -> bool:
        """Are other models asked where this one is busy or away?"""
        return bool(by_cause(self.fallbacks).keys() & {"rate", "down", "any"})

    @field_validator("defaults")
    @classmethod
    def _no_reserved(cls, value: dict[str, Any]) -> dict[str, Any]:
        return _sendable(value)


class LocalSpec(ModelSpec):
    """A model whose server runs here as a child process."""

    residency: Literal["always", "on_demand"] = "always"
    idle_ttl_s: Seconds = 300.0  # on demand: dropped after
    preload: bool = False  # on demand: loaded at the start, if there is room

    @model_validator(mode="after")
    def _only_on_demand(self) -> Self:
        for key in ("idle_ttl_s", "preload"):
            if key in self.model_fields_set and self.residency == "always":
                raise ValueError(f"'{key}' is for 'residency: on_demand'")
        return self


class GgufSpec(LocalSpec):
    """A GGUF file on this machine, and perhaps the projector that makes tokens of its images."""

    timeouts: TimeoutsSpec = TimeoutsSpec(first_token_s=300, total_s=1200)  # a long prompt on a slow core takes minutes
    source: str
    sha256: str | tuple[str, ...] | None = None  # one for each part of a split file
    mmproj: str | None = None
    mmproj_sha256: str | None = None
    context: int = Field(default=4096, ge=256)
    threads: int | None = Field(default=None, ge=1)
    cpus: tuple[Annotated[int, Field(ge=0)], ...] = ()  # those that its threads may run on; else all
    gpu_layers: int | None = Field(default=None, ge=0)  # else all that fit

    @model_validator(mode="before")
    @classmethod
    def _sees_with_a_projector(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("mmproj") is not None and "accepts" not in data:
            return {**data, "accepts": ["text", "image"]}
        return data

    @property
    def files(self) -> tuple[tuple[str, str | tuple[str, ...] | None], ...]:
        """(source, sha256) of the model and, where it has one, of its projector."""
        own = (self.source, self.sha256)
        return (own, (self.mmproj, self.mmproj_sha256)) if self.mmproj else (own,)

    @property
    def sha256_keys(self) -> tuple[str, ...]:
        """Where each of `files` has its own."""
        return ("sha256", "mmproj_sha256") if self.mmproj else ("sha256",)

    @field_validator("source", "mmproj")
    @classmethod
    def _known_source(cls, value: str | None) -> str | None:
        return value if value is None else _a_source(value)

    @field_validator("sha256", mode="before")
    @classmethod
    def _sha256_of_each_file(cls, value: Any, info: ValidationInfo) -> Any:
        is_list = isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
        if not (is_list or isinstance(value, str | None)):
            raise ValueError("wants 64 hex digits in quotes, or for a split file a list of them, one for each part")
        if "source" not in info.data:
            return None  # its own fault is told, and how many are wanted is not known
        try:
            parse_sha256s(value, parse_source(info.data["source"]))
        except SourceError as exc:
            raise ValueError(exc.message) from None
        return value

    @field_validator("mmproj_sha256")
    @classmethod
    def _sha256_of_the_projector(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and "mmproj" in info.data:
            if info.data["mmproj"] is None:
                raise ValueError("is of the file that 'mmproj' names, and there is none")
            _sha256_of(value, info.data["mmproj"])
        return value


class AdapterSpec(Spec):
    """A LoRA adapter over the model that it stands under. To users it is a model of its own, called MODEL:NAME."""

    source: Annotated[str, AfterValidator(_a_source)]
    sha256: str | None = None
    scale: float = 1.0
    price: PriceSpec | None = None  # else the model's
    good_at: tuple[str, ...] = ()
    defaults: Annotated[dict[str, Any], AfterValidator(_sendable)] = Field(default_factory=dict)  # over the model's

    @field_validator("sha256")
    @classmethod
    def _of_one_file(cls, value: str | None, info: ValidationInfo) -> str | None:
        return _sha256_of(value, info.data.get("source"))


def _no_tag_for_none(value: str) -> str:
    if value == "latest":
        raise ValueError("clients of Ollama's API call the model itself so: call the adapter otherwise")
    return value


AdapterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"), AfterValidator(_no_tag_for_none)]


class LlamaCppSpec(GgufSpec):
    engine: Literal["llama.cpp"]
    adapters: dict[AdapterName, AdapterSpec] = Field(default_factory=dict)
    slots: int = Field(default=1, ge=1, le=64)
    server: Literal["auto", "xllamacpp", "llama-cpp-python", "llama-server"] = "auto"
    command: Program = "llama-server"

    @property
    def files(self) -> tuple[tuple[str, str | tuple[str, ...] | None], ...]:
        return (*super().files, *((adapter.source, adapter.sha256) for adapter in self.adapters.values()))

    @property
    def sha256_keys(self) -> tuple[str, ...]:
        return (*super().sha256_keys, *(f"adapters.{name}.sha256" for name in self.adapters))

    def adapted(self, name: str) -> LlamaCppSpec:
        """The entry of the model that this adapter makes of it."""
        adapter = self.adapters[name]
        defaults = {key: value for key, value in self.defaults.items() if key != "lora"}
        own = {"price": adapter.price or self.price, "good_at": adapter.good_at or self.good_at}
        return self.model_copy(update={**own, "defaults": {**defaults, **adapter.defaults}})

    @model_validator(mode="after")
    def _can_adapt(self) -> LlamaCppSpec:
        if self.server == "llama-cpp-python" and self.adapters:
            raise ValueError("'adapters' are for other servers: llama-cpp-python cannot choose one for a request")
        return self

    @model_validator(mode="after")
    def _can_see(self) -> LlamaCppSpec:
        if self.server == "llama-cpp-python" and self.mmproj is not None:
            raise ValueError("with 'mmproj' it is 'engine: llama-cpp-python', which has the key 'chat_format'")
        return self


class LlamaCppPythonSpec(GgufSpec):
    engine: Literal["llama-cpp-python"]
    slots: int = 1
    chat_format: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$")
    logprobs: bool = False
    python: Program | None = None  # else this environment's

    @model_validator(mode="before")
    @classmethod
    def _has_no_adapters(cls, data: Any) -> Any:
        if isinstance(data, dict) and "adapters" in data:
            raise ValueError("'adapters' are for 'engine: llama.cpp': this one cannot choose one for a request")
        return data

    @field_validator("slots")
    @classmethod
    def _one_at_a_time(cls, value: int) -> int:
        if value != 1:
            raise ValueError("llama-cpp-python answers one request at a time: leave it out, or use 'engine: llama.cpp'")
        return value

    @model_validator(mode="after")
    def _knows_its_projector(self) -> LlamaCppPythonSpec:
        if self.mmproj is not None and self.chat_format is None:
            raise ValueError("'mmproj' wants 'chat_format' too, the name of the model's kind, such as qwen2.5-vl")
        return self


# Options of `vllm serve` that the gateway sets: the key to use, or None where it is not for the file to say.
VLLM_RESERVED = {
    "api-key": None,
    "data-parallel-external-lb": None,
    "dtype": "dtype",
    "enable-sleep-mode": "sleep",
    "enable-ssl-refresh": None,
    "gpu-memory-utilization": "gpu_memory",
    "headless": None,
    "host": None,
    "max-model-len": "context",
    "max-num-seqs": "slots",
    "model": "model",
    "port": None,
    "root-path": None,
    "served-model-name": None,
    "ssl-certfile": None,
    "ssl-keyfile": None,
    "tensor-parallel-size": "tensor_parallel",
    "uds": None,
}


class VllmSpec(LocalSpec):
    engine: Literal["vllm"]
    timeouts: TimeoutsSpec = TimeoutsSpec(first_token_s=300, total_s=1200)
    model: str = Field(pattern=r"^[^-\s][^\n]*$")
    context: int | None = Field(default=None, ge=256)  # else the model's own
    slots: int = Field(default=32, ge=1, le=4096)
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] | None = None
    gpu_memory: float | None = Field(default=None, gt=0, le=1)
    tensor_parallel: int = Field(default=1, ge=1)
    command: Program | None = None  # else vllm of this environment, or on PATH
    args: tuple[Word, ...] = ()
    env: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Word] = Field(default_factory=dict)
    start_timeout_s: Seconds = 1200.0
    sleep: Literal[1, 2] | None = None  # on demand: level at which it makes room for others, before it is stopped

    @model_validator(mode="after")
    def _sleeps_on_demand(self) -> Self:
        if self.sleep is not None and self.residency == "always":
            raise ValueError("'sleep' is for 'residency: on_demand'")
        return self

    @field_validator("args")
    @classmethod
    def _not_ours(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            option = word.partition("=")[0].removeprefix("--").replace("_", "-")
            if word.startswith("--") and option in VLLM_RESERVED:
                key = VLLM_RESERVED[option]
                raise ValueError(f"'--{option}' is " + (f"the key '{key}'" if key else "not for the file to set"))
        return value

    @field_validator("env")
    @classmethod
    def _not_our_key(cls, value: dict[str, str]) -> dict[str, str]:
        if "VLLM_API_KEY" in value:
            raise ValueError("'VLLM_API_KEY' is new at each start: not for the file to set")
        return value


class OpenAISpec(ModelSpec):
    engine: Literal["openai"]
    base_url: Addresses
    model: str
    api_key: ApiKeys | None = None
    retries: Retries = 2
    balance: Way = "affine"
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    context: Tokens | None = None  # else as litellm's list of models has it
    provider: Kind | None = None  # else by the host of base_url
    speaks: Literal["chat", "responses", "messages"] | None = None  # else as the provider does, mostly chat
    drop: tuple[FieldName, ...] = ()  # request fields that this server refuses
    api_version: Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^[A-Za-z0-9.-]+$")] | None = None  # Azure's
    accepts: tuple[Modality, ...] = ("text", "image", "audio", "file")

    @property
    def addresses(self) -> tuple[AddressSpec, ...]:
        keys = self.api_key if isinstance(self.api_key, tuple) else (self.api_key,)
        return addresses_of(self.base_url, keys)

    @model_validator(mode="after")
    def _balances_several(self) -> Self:
        with_a_choice("balance" in self.model_fields_set, self.addresses)
        return self


class AttachSpec(ModelSpec):
    """A server that somebody else runs. What is left out is asked of it."""

    engine: Literal["attach"]
    timeouts: TimeoutsSpec = TimeoutsSpec(first_token_s=300, total_s=1200)  # it may have to load the model first
    url: Addresses
    model: str
    key: ApiKey | None = None
    retries: Retries = 0  # it is watched, and mostly fails for a reason that stays
    balance: Way = "affine"
    kind: Kind | None = None
    slots: int | None = Field(default=None, ge=1, le=4096)
    context: int | None = Field(default=None, ge=256)
    accepts: tuple[Modality, ...] = ()

    @property
    def addresses(self) -> tuple[AddressSpec, ...]:
        return addresses_of(self.url, (self.key,))

    @model_validator(mode="after")
    def _balances_several(self) -> Self:
        with_a_choice("balance" in self.model_fields_set, self.addresses)
        return self


# What the gateway itself tells litellm, what has a key of its own, and what would make it do more than one call.
LITELLM_RESERVED = frozenset(
    "acompletion api_base api_key base_url cache caching callbacks client custom_llm_provider drop_params "
    "extra_headers failure_callback fallbacks headers logger_fn max_retries messages mock_response mock_timeout "
    "mock_tool_calls model model_list n no-log num_retries shared_session stream stream_options success_callback "
    "timeout".split()
)


class LiteLLMSpec(ModelSpec):
    engine: Literal["litellm"]
    model: str = Field(pattern=r"^[a-z0-9_-]+/\S+$")  # litellm's name: provider/model
    api_key: ApiKeys | None = None
    retries: Retries = 2
    base_url: WebAddress | None = None
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    context: Tokens | None = None  # else as the list of models has it
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _not_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in LITELLM_RESERVED or name.startswith("litellm_"):
                raise ValueError(f"'{name}' is not for the file to set")
        return value


class ScriptedSpec(ModelSpec):
    engine: Literal["scripted"]
    script: str | None = None  # a file, relative to models.yaml
    replies: list[dict[str, Any]] | None = None
    context: Tokens | None = None
    accepts: tuple[Modality, ...] = ("text", "image", "audio", "file")

    @model_validator(mode="after")
    def _one_of(self) -> ScriptedSpec:
        if (self.script is None) == (self.replies is None):
            raise ValueError("wants either 'script' (a file) or 'replies'")
        return self


MODEL_SPECS: dict[str, type[ModelSpec]] = {
    "llama.cpp": LlamaCppSpec,
    "llama-cpp-python": LlamaCppPythonSpec,
    "vllm": VllmSpec,
    "openai": OpenAISpec,
    "attach": AttachSpec,
    "litellm": LiteLLMSpec,
    "scripted": ScriptedSpec,
}
