"""What an entry of models.yaml may say: one class per engine. Pydantic only, no I/O."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import orjson
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from gateway.errors import SourceError
from gateway.sources import parse as parse_source

Modality = Literal["text", "image", "audio", "file"]
Seconds = Annotated[float, Field(gt=0)]
Dollars = Annotated[float, Field(ge=0)]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
HeaderValue = Annotated[str, Field(pattern=r"^[\x20-\x7e]*$")]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PriceSpec(Spec):
    input_usd_per_mtok: Dollars = 0.0
    output_usd_per_mtok: Dollars = 0.0
    cached_input_usd_per_mtok: Dollars | None = None
    usd_per_hour: Dollars = 0.0


class TimeoutsSpec(Spec):
    connect_s: Seconds = 10.0
    first_token_s: Seconds = 120.0
    between_tokens_s: Seconds = 60.0
    total_s: Seconds = 600.0


class ModelSpec(Spec):
    """What an entry of any engine may say."""

    engine: str
    price: PriceSpec | None = None
    accepts: tuple[Modality, ...] = ("text",)
    good_at: tuple[str, ...] = ()
    defaults: dict[str, Any] = Field(default_factory=dict)
    timeouts: TimeoutsSpec = TimeoutsSpec()

    @field_validator("defaults")
    @classmethod
    def _no_reserved(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in ("messages", "model", "n", "stream", "stream_options"):
            if name in value:
                raise ValueError(f"'{name}' is the request's own")
        try:
            orjson.dumps(value)
        except TypeError as exc:
            raise ValueError(f"cannot be sent as JSON: {exc}") from None
        return value


class LlamaCppSpec(ModelSpec):
    engine: Literal["llama.cpp"]
    timeouts: TimeoutsSpec = TimeoutsSpec(first_token_s=300, total_s=1200)  # a long prompt on a slow core takes minutes
    source: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    context: int = Field(default=4096, ge=256)
    slots: int = Field(default=1, ge=1, le=64)
    threads: int | None = Field(default=None, ge=1)
    residency: Literal["always"] = "always"

    @field_validator("source")
    @classmethod
    def _known_source(cls, value: str) -> str:
        try:
            parse_source(value)
        except SourceError as exc:
            raise ValueError(exc.message) from None
        return value


class OpenAISpec(ModelSpec):
    engine: Literal["openai"]
    base_url: str = Field(pattern=r"^https?://[^\s/]+")
    model: str
    api_key: HeaderValue | None = None
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict)
    accepts: tuple[Modality, ...] = ("text", "image", "audio", "file")

    @field_validator("base_url")
    @classmethod
    def _an_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            is_one = parts.port != 0 and bool((parts.hostname or "").encode("idna"))
        except ValueError:
            is_one = False
        if not is_one:
            raise ValueError("is not a web address")
        return value.rstrip("/")

    @field_validator("api_key", mode="before")
    @classmethod
    def _without_line_end(cls, value: Any) -> Any:
        return value.strip() if isinstance(value, str) else value  # `$(cat key)` and files end in one


class ScriptedSpec(ModelSpec):
    engine: Literal["scripted"]
    script: str | None = None  # a file, relative to models.yaml
    replies: list[dict[str, Any]] | None = None
    accepts: tuple[Modality, ...] = ("text", "image", "audio", "file")

    @model_validator(mode="after")
    def _one_of(self) -> ScriptedSpec:
        if (self.script is None) == (self.replies is None):
            raise ValueError("wants either 'script' (a file) or 'replies'")
        return self


MODEL_SPECS: dict[str, type[ModelSpec]] = {"llama.cpp": LlamaCppSpec, "openai": OpenAISpec, "scripted": ScriptedSpec}
