"""Prompts on their way to an upstream: OpenAI's older `/completions`, Mistral's `/fim/completions`, llama.cpp's
`/infill`; and as a message, where a model takes chats alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.backends.refusals import read_error, refused_in_reply
from gateway.backends.replies import check_completion, check_event, parse_event, parse_reply
from gateway.backends.wire import CHAT, DONE, Reader, Secrets, Wire
from gateway.chat import ChatRequest, Json
from gateway.errors import BackendError, BadBackendReply, PromptRefused, UpstreamRefused
from gateway.prompts import as_chat
from gateway.providers import CHANGES_NOTHING, Provider

ONLY_OF_PROMPTS = ("prompt", "suffix", "echo", "best_of", "logprobs")
ONLY_OF_CHATS = frozenset({"messages", "max_completion_tokens", "top_logprobs"})
TAKEN_BY_MISTRAL = frozenset(  # it answers 422 to every other
    "max_tokens metadata min_tokens model prompt random_seed stop stream suffix temperature top_p".split()
)
IGNORED_BY_LLAMA_CPP = ("echo", "best_of")


def as_message(request: ChatRequest, name: str) -> ChatRequest:
    """For a model that takes chats alone: a plain prompt as what a user says. Raises: PromptRefused."""
    body = request.body
    prompt, *more = request.prompts
    asks_too_much = {
        "prompt": not isinstance(prompt, str) or bool(more),
        "suffix": bool(body.get("suffix")),
        "echo": bool(body.get("echo")),
        "best_of": _matters(body, "best_of"),
    }
    for field, is_too_much in asks_too_much.items():
        if is_too_much:
            what = "token ids or several prompts" if field == "prompt" else f"'{field}'"
            raise PromptRefused(f"model '{name}' takes chats: it cannot be given {what}", param=field)
    chat = {field: value for field, value in body.items() if field not in ONLY_OF_PROMPTS}
    chat["messages"] = [{"role": "user", "content": prompt}]
    if request.wants_logprobs:
        chat["logprobs"] = True
        if body["logprobs"] is not True and body["logprobs"] > 0:
            chat["top_logprobs"] = body["logprobs"]
    return replace(request, body=chat)


def wire_for(request: ChatRequest, provider: Provider, own: Wire, name: str) -> Wire:
    """The wire for this request to the model called `name`, which speaks `own` in a chat."""
    if not request.is_prompt:
        return own
    if provider.prompts == "mistral":
        return FimWire(name)
    is_llama_cpp, choices_each = provider.prompts == "llama.cpp", request.body.get("n") or 1
    if is_llama_cpp and request.body.get("suffix"):
        return InfillWire(name, choices_each)
    return CompletionsWire(choices_each, of_llama_cpp=is_llama_cpp)


def address(url: str, wire: Wire) -> str:
    """Args: `url` is where chats hang."""
    return (url.removesuffix("/v1") if isinstance(wire, InfillWire) else url) + wire.path


def about_prompt(error: BackendError, request: ChatRequest) -> BackendError:
    """The same error in terms of a request that has no messages. llama.cpp's 501 says that this model cannot fill in:
    nothing that a retry helps with."""
    if error.param == "messages":
        error.param = "prompt"
    if isinstance(error, UpstreamRefused) and error.status == 501:
        return PromptRefused(error.message, param="suffix" if request.body.get("suffix") else "prompt")
    return error


class _PromptWire:
    def told(self, request: ChatRequest, lost: Iterable[str]) -> tuple[str, ...]:
        """What was left out, with what the client's own dialect had no place for."""
        return (*lost, *(request.extra.lost if request.extra else ()))

    def headers(self, request: ChatRequest) -> Mapping[str, str]:
        return {}


@dataclass(frozen=True)
class CompletionsWire(_PromptWire):
    """OpenAI's `/completions`.

    Args:
        choices_each: to one prompt.
        of_llama_cpp: it ignores some fields, knows no `logprobs: 0`, and tells usage choice by choice.
    """

    choices_each: int = 1
    of_llama_cpp: bool = False
    path = "/completions"

    def ask(self, body: Mapping[str, Any], request: ChatRequest) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        out = _without_chat_fields(body)
        wanted = out.get("logprobs")
        if wanted is True or (wanted == 0 and self.of_llama_cpp and wanted is not False):
            out["logprobs"] = 1
        elif wanted is False:
            del out["logprobs"]
        lost = tuple(name for name in IGNORED_BY_LLAMA_CPP if self.of_llama_cpp and _matters(out, name))
        return {name: value for name, value in out.items() if name not in lost}, self.told(request, lost)

    def whole(self, name: str, raw: bytes, secrets: Secrets) -> Json:
        return check_completion(name, as_chat(parse_reply(name, raw), "message"), secrets)

    def reader(self, name: str, secrets: Secrets) -> Reader:
        return _TextReader(name, secrets, _Tally(self.choices_each) if self.of_llama_cpp else None)


class _TextReader:
    is_plain = False

    def __init__(self, name: str, secrets: Secrets, tally: _Tally | None) -> None:
        self._name, self._secrets, self._tally = name, secrets, tally
        self.is_done = False

    def read(self, payload: bytes) -> list[Json]:
        if payload == DONE:
            self.is_done = True
        if payload in (DONE, b"null"):  # llama.cpp begins a stream of several choices so
            return []
        event = check_event(self._name, as_chat(parse_event(self._name, payload), "delta"), self._secrets)
        if self._tally is not None and event["choices"] and "usage" in event:
            event["usage"] = self._tally.add(event["choices"][0]["index"], event["usage"])
        return [event]


class _Tally:
    """Adds up usage that is told choice by choice; a prompt counts once, however many its choices are."""

    def __init__(self, choices_each: int) -> None:
        self._choices_each = choices_each
        self._prompt = self._cached = self._said = 0

    def add(self, index: int, usage: Mapping[str, Any]) -> Json:
        if index % self._choices_each == 0:
            self._prompt += _number(usage.get("prompt_tokens"))
            details = usage.get("prompt_tokens_details")
            self._cached += _number(details.get("cached_tokens")) if isinstance(details, Mapping) else 0
        self._said += _number(usage.get("completion_tokens"))
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._said,
            "total_tokens": self._prompt + self._said,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _without_chat_fields(body: Mapping[str, Any]) -> Json:
    out = {name: value for name, value in body.items() if name not in ONLY_OF_CHATS}
    limit = body.get("max_completion_tokens")  # from a model's defaults
    return {**out, "max_tokens": limit} if limit is not None and body.get("max_tokens") is None else out


def _matters(body: Mapping[str, Any], name: str) -> bool:
    """Would an answer be another without it?"""
    value = body.get(name)
    if not value or value == CHANGES_NOTHING.get(name):
        return False
    return name != "best_of" or value > (body.get("n") or 1)


def _one_text(request: ChatRequest, name: str) -> str:
    """Raises: PromptRefused."""
    prompt, *more = request.prompts
    if more or not isinstance(prompt, str):
        raise PromptRefused(f"model '{name}' fills in one prompt at a time, given as text", param="prompt")
    return prompt


@dataclass(frozen=True)
class FimWire(_PromptWire):
    """Mistral's: a prompt with or without a suffix; answers are a chat's."""

    name: str
    path = "/fim/completions"

    def ask(self, body: Mapping[str, Any], request: ChatRequest) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        body = {**_without_chat_fields(body), "prompt": _one_text(request, self.name)}
        lost = tuple(name for name in body if name not in TAKEN_BY_MISTRAL and _matters(body, name))
        taken = {name: value for name, value in body.items() if name in TAKEN_BY_MISTRAL and value is not None}
        return taken, self.told(request, lost)

    def whole(self, name: str, raw: bytes, secrets: Secrets) -> Json:
        return CHAT.whole(name, raw, secrets)

    def reader(self, name: str, secrets: Secrets) -> Reader:
        return CHAT.reader(name, secrets)


# --- llama.cpp's own

NATIVE_NAMES = {"prompt": "input_prefix", "suffix": "input_suffix", "max_tokens": "n_predict", "logprobs": "n_probs"}
NOT_NATIVE = ("echo", "best_of", "min_tokens")


@dataclass(frozen=True)
class InfillWire(_PromptWire):
    """llama.cpp's `/infill`: what stands between a prompt and its suffix. It has no `[DONE]`."""

    name: str
    choices: int = 1
    path = "/infill"

    def ask(self, body: Mapping[str, Any], request: ChatRequest) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        body = {**_without_chat_fields(body), "prompt": _one_text(request, self.name)}
        lost = tuple(name for name in NOT_NATIVE if _matters(body, name))
        out = {
            NATIVE_NAMES.get(name, name): value
            for name, value in body.items()
            if name not in (*NOT_NATIVE, "stream_options") and value is not None
        }
        if isinstance(out.get("stop"), str):
            out["stop"] = [out["stop"]]
        if "n_probs" in out:
            out["n_probs"] = max(1, int(out["n_probs"])) if request.wants_logprobs else 0
        return out, self.told(request, lost)

    def whole(self, name: str, raw: bytes, secrets: Secrets) -> Json:
        said = parse_reply(name, raw)
        tally = _Tally(self.choices)
        pieces = [_native(name, one, secrets, tally) for one in (said if isinstance(said, list) else [said])]
        choices = [{**piece["choices"][0], "message": piece["choices"][0]["delta"]} for piece in pieces]
        return check_completion(name, {**pieces[-1], "choices": choices} if pieces else said, secrets)

    def reader(self, name: str, secrets: Secrets) -> Reader:
        return _InfillReader(name, secrets, self.choices)


class _InfillReader:
    is_plain = False

    def __init__(self, name: str, secrets: Secrets, choices: int) -> None:
        self._name, self._secrets, self._open = name, secrets, choices
        self._tally = _Tally(choices)
        self.is_done = False

    def read(self, payload: bytes) -> list[Json]:
        if payload in (DONE, b"null"):
            self.is_done = payload == DONE
            return []
        event = _native(self._name, parse_event(self._name, payload), self._secrets, self._tally)
        if event["choices"][0]["finish_reason"]:
            self._open -= 1
            self.is_done = self._open <= 0
        return [event]


def _native(name: str, said: Any, secrets: Secrets, tally: _Tally) -> Json:
    """One event of llama.cpp's own, as a chat chunk. Raises: BadBackendReply, UpstreamRefused, BackendTimeout."""
    error = read_error(said)
    if error is not None:
        raise refused_in_reply(name, error, secrets)
    if not isinstance(said, dict) or not isinstance(said.get("content"), str):
        raise BadBackendReply(f"model '{name}': the upstream's reply is not one of llama.cpp's")
    index = said.get("index")
    index = index if isinstance(index, int) else 0
    choice: Json = {"index": index, "delta": {"content": said["content"]}, "finish_reason": None}
    if isinstance(said.get("completion_probabilities"), list):
        choice["logprobs"] = {"content": said["completion_probabilities"], "refusal": None}
    event: Json = {"object": "chat.completion.chunk", "choices": [choice]}
    if said.get("stop"):
        is_cut = said.get("stop_type") == "limit" or said.get("stopped_limit") is True
        choice["finish_reason"] = "length" if is_cut else "stop"
        usage = {"prompt_tokens": said.get("tokens_evaluated"), "completion_tokens": said.get("tokens_predicted")}
        event["usage"] = tally.add(index, usage)
    return check_event(name, event, secrets)
