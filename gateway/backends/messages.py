"""The wire for upstreams that speak Anthropic's Messages API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.backends.dialects import (
    Lost,
    from_defaults,
    is_untouched,
    limit_of,
    objects,
    own_dialect,
    refused_fields,
    text_in,
    with_defaults,
)
from gateway.backends.messages_ask import blocks_of, is_signed, turns_of
from gateway.backends.messages_fields import add_thinking, drop_what_thinking_forbids, fields_of
from gateway.backends.messages_read import MessagesReader, completion_of
from gateway.backends.wire import Reader, Secrets
from gateway.chat import ChatRequest, Extra, Json

DIALECT = "messages"
VERSION = "2023-06-01"
PASSED_HEADERS = ("anthropic-version", "anthropic-beta")
MERGED = frozenset({"output_config"})
MAX_TOKENS = 4096
JOINTS = ("", "\n", "\n\n")  # between the texts that one system message was made of


@dataclass(frozen=True)
class MessagesWire:
    """`POST {url}/messages`

    Args:
        max_tokens: tokens of an answer where nobody said how many: the protocol wants a number.
    """

    max_tokens: int = MAX_TOKENS
    path = "/messages"

    def ask(self, body: Mapping[str, Any], request: ChatRequest) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        extra = own_dialect(request, DIALECT)
        return self._translated(body, request) if extra is None else self._as_it_came(body, request, extra)

    def _translated(self, body: Mapping[str, Any], request: ChatRequest) -> tuple[Json, tuple[str, ...]]:
        lost = Lost(request.extra.lost if request.extra else ())
        system, turns = turns_of(objects(body.get("messages")), lost)
        out: Json = {"model": body["model"], "max_tokens": limit_of(body) or self.max_tokens}
        if system:
            out["system"] = system
        out["messages"] = turns
        out |= fields_of(body, frozenset(from_defaults(body, request)), lost)
        add_thinking(out, body.get("reasoning_effort"), body["model"], lost)
        drop_what_thinking_forbids(out, lost)
        if body.get("stream"):
            out["stream"] = True
        return out, tuple(lost)

    def _as_it_came(self, body: Mapping[str, Any], request: ChatRequest, extra: Extra) -> tuple[Json, tuple[str, ...]]:
        lost = Lost()
        out: Json = {**extra.body, "model": body["model"]}
        if not is_untouched(request, extra):
            out |= _rebuilt(request, extra, lost)
            if "system" not in out or not out["system"]:
                out.pop("system", None)
        out["messages"] = list(_without_others_thoughts(out["messages"]))
        for name in refused_fields(body, request) & out.keys():
            del out[name]
        defaults = from_defaults(body, request)
        out = with_defaults(out, fields_of(defaults, frozenset(defaults), Lost()), MERGED)
        if out.get("max_tokens") is None:
            out["max_tokens"] = limit_of(body) or self.max_tokens
        add_thinking(out, defaults.get("reasoning_effort"), body["model"], Lost())
        if body.get("stream"):
            out["stream"] = True
        return out, tuple(lost)

    def headers(self, request: ChatRequest) -> Mapping[str, str]:
        if own_dialect(request, DIALECT) is None:
            return {"anthropic-version": VERSION}
        said = {name: request.headers[name] for name in PASSED_HEADERS if request.headers.get(name)}
        return {"anthropic-version": VERSION, **said}

    def whole(self, name: str, raw: bytes, secrets: Secrets) -> Json:
        return completion_of(name, raw, secrets)

    def reader(self, name: str, secrets: Secrets) -> Reader:
        return MessagesReader(name, secrets)


def _rebuilt(request: ChatRequest, extra: Extra, lost: Lost) -> Json:
    """`system` and `messages` of a request some of whose messages are not its client's: the client's own are sent in
    the blocks that they came in."""
    own_system = next(iter(extra.pieces), None) if extra.body.get("system") else None
    system: list[Json] = []
    others: list[Json] = []
    for message in request.messages:
        is_system = message.get("role") in ("system", "developer")
        if id(message) == own_system:
            system = [*system, *objects_of(extra.body["system"])]
        elif is_system and id(message) not in extra.pieces:
            system = [*system, *_extended(extra.body.get("system"), message, lost)]
        else:
            others.append(message)
    _, turns = turns_of(others, lost, lambda message: extra.pieces.get(id(message)))
    return {"system": system, "messages": turns}


def objects_of(system: object) -> list[Json]:
    return [{"type": "text", "text": system}] if isinstance(system, str) else objects(system)


def _extended(system: object, message: Json, lost: Lost) -> list[Json]:
    """A system message that was written anew: where it begins with the client's own, that is sent as it came, for it
    may be cached."""
    own, text = objects_of(system), message.get("content")
    if own and isinstance(text, str):
        for joint in JOINTS:
            before = joint.join(text_in(block.get("text")) for block in own)
            if text.startswith(before):
                rest = text.removeprefix(before).lstrip()
                return [*own, {"type": "text", "text": rest}] if rest else own
    return blocks_of(message, lost)


def _without_others_thoughts(messages: Iterable[Any]) -> Iterator[Any]:
    """Thinking that no model of Anthropic's has signed, such as a local model's, would be refused."""
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, list) or message.get("role") != "assistant":
            yield message
            continue
        kept = [block for block in content if not _is_others_thought(block)]
        if kept or not content:
            yield message if len(kept) == len(content) else {**message, "content": kept}


def _is_others_thought(block: object) -> bool:
    kinds = ("thinking", "redacted_thinking")
    return isinstance(block, Mapping) and block.get("type") in kinds and not is_signed(block)
