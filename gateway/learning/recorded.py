"""What models have answered before: recordings, read from a workload file."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gateway.chat import ChatRequest, Json
from gateway.checks import Check
from gateway.errors import GatewayError

FIELDS = ("messages", "max_tokens", "max_completion_tokens", "temperature", "tools", "tool_choice", "response_format")
MAX_LINE_BYTES = 8 * 2**20


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, bool) else value


Quality = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]


class Outcome(BaseModel):
    """What one model made of one request. What is None is not known.

    Args:
        quality: 0 to 1, from wrong to right.
        logprobs: of the answer's tokens, or their mean alone.
        checks: whether an answer whose words are not known passed a check, by its name.
        error: why it gave no answer.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    answer: str | None = Field(default=None, validation_alias=AliasChoices("answer", "x"))
    tool_calls: tuple[dict[str, Any], ...] = ()
    quality: Quality | None = Field(default=None, validation_alias=AliasChoices("quality", "s"))
    cost_usd: float | None = Field(default=None, ge=0, validation_alias=AliasChoices("cost_usd", "c"))
    latency_s: float | None = Field(default=None, ge=0)
    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0, validation_alias=AliasChoices("output_tokens", "t"))
    logprobs: tuple[float, ...] | float | None = None
    finish_reason: str | None = None
    checks: dict[str, bool] = Field(default_factory=dict)
    error: str | None = None

    @property
    def has_words(self) -> bool:
        return self.answer is not None or bool(self.tool_calls)


@dataclass(frozen=True)
class Recording:
    """A request, and what each model that was asked made of it.

    Args:
        body: None where nobody kept its words.
        signals: those that were read of it then, by name and argument (as text), where it has one.
        judged_by: checks that judged each model's answer then, by name; what they said is in its `Outcome`.
        was: how it went; None where it went nowhere.
    """

    id: str
    body: Json | None
    outcomes: Mapping[str, Outcome]
    signals: Mapping[tuple[str, str | None], Any] = field(default_factory=dict)
    judged_by: Mapping[str, Mapping[str, Check]] = field(default_factory=dict)
    key: str | None = None
    was: Was | None = None

    def request(self, policy: str) -> ChatRequest:
        body = {"messages": Unwritten()} if self.body is None else self.body
        return ChatRequest({**body, "model": policy}, key=self.key)


@dataclass(frozen=True)
class Was:
    """How a request of the journal went."""

    model: str | None
    path: str
    cost_usd: float | None
    latency_s: float


class NotRecorded(BaseException):
    """Nobody knows what would have come of it. Nothing between here and the replay may make something else of that: not
    a cascade that goes on from errors, nor a hold that takes a check's error for its word."""


class Unwritten(list[Any]):
    """Messages whose words nobody kept: whoever looks at them is told so."""

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        raise NotRecorded("the request's words")

    def __iter__(self) -> Iterator[Any]:
        raise NotRecorded("the request's words")

    def __reversed__(self) -> Iterator[Any]:
        raise NotRecorded("the request's words")

    def __getitem__(self, place: Any) -> Any:
        raise NotRecorded("the request's words")


class _Line(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str | int | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    models: dict[str, Outcome] = Field(min_length=1)


def read_workload(path: Path) -> Iterator[Recording]:
    """A JSON object a line, in a file that may be gzipped. Raises: GatewayError naming file and line."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if line.strip():
                    yield _recording(line, number)
    except (OSError, EOFError) as exc:
        raise GatewayError(f"cannot read {path}: {getattr(exc, 'strerror', None) or exc}") from None
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise GatewayError(f"{path}:{number}: {place}: {first['msg']}") from None
    except ValueError as exc:
        raise GatewayError(f"{path}:{number}: {exc}") from None


def _recording(text: bytes, number: int) -> Recording:
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ValueError("not a JSON object, or longer than 8 MiB") from None
    line = _Line.model_validate(data)
    if (line.messages is None) == (line.prompt is None):
        raise ValueError("wants 'messages', or a 'prompt' that one user says")
    messages = line.messages if line.messages is not None else [{"role": "user", "content": line.prompt}]
    if not messages or not all(isinstance(message.get("role"), str) for message in messages):
        raise ValueError("messages: each wants a role")
    body = {name: data[name] for name in FIELDS if data.get(name) is not None}
    return Recording(str(line.id if line.id is not None else number), {**body, "messages": messages}, line.models)
