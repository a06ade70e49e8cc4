"""The wire for upstreams that speak OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.backends.dialects import (
    SYSTEM_ROLES,
    Lost,
    from_defaults,
    is_untouched,
    objects,
    own_dialect,
    refused_fields,
    with_defaults,
)
from gateway.backends.responses_ask import (
    LOGPROBS,
    SEALED_REASONING,
    add_to_include,
    fields_of,
    items_of,
    reasons,
)
from gateway.backends.responses_read import ResponsesReader, completion_of
from gateway.backends.wire import Reader, Secrets
from gateway.chat import ChatRequest, Extra, Json, text_of

DIALECT = "responses"
MERGED = frozenset({"reasoning", "text"})


class ResponsesWire:
    """`POST {url}/responses`. The upstream keeps nothing, unless a chat's client asks for it: what a conversation was
    is the gateway's to know, and reasoning comes sealed, so that it can be sent back."""

    path = "/responses"

    def ask(self, body: Mapping[str, Any], request: ChatRequest) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        extra = own_dialect(request, DIALECT)
        return self._translated(body, request) if extra is None else self._as_it_came(body, request, extra)

    def _translated(self, body: Mapping[str, Any], request: ChatRequest) -> tuple[Json, tuple[str, ...]]:
        lost = Lost(request.extra.lost if request.extra else ())
        out: Json = {"model": body["model"], "input": items_of(objects(body.get("messages")), lost)}
        out |= fields_of(body, frozenset(from_defaults(body, request)), lost)
        out["store"] = body.get("store") is True
        if reasons(body["model"]) and not out["store"]:
            add_to_include(out, SEALED_REASONING)
        if body.get("stream"):
            out["stream"] = True
        return out, tuple(lost)

    def _as_it_came(self, body: Mapping[str, Any], request: ChatRequest, extra: Extra) -> tuple[Json, tuple[str, ...]]:
        lost = Lost()
        out: Json = {**extra.body, "model": body["model"]}
        out.pop("previous_response_id", None)  # ours; `input` holds what it stands for
        if not is_untouched(request, extra):
            out = _rebuilt(out, request, extra, lost)
        refused = refused_fields(body, request)
        for name in refused & out.keys():
            del out[name]
        if not reasons(body["model"]) and out.pop("reasoning", None) and "reasoning_effort" not in refused:
            lost.add("reasoning")
        text = out.get("text")
        if "verbosity" in refused and isinstance(text, Mapping):
            out["text"] = {name: value for name, value in text.items() if name != "verbosity"}
        if "logprobs" in refused and LOGPROBS in (out.get("include") or ()):
            out["include"] = [what for what in out["include"] if what != LOGPROBS]
        defaults = from_defaults(body, request)
        out = with_defaults(out, fields_of(defaults, frozenset(defaults), Lost()), MERGED)
        if body.get("logprobs") and out.get("top_logprobs") is None:
            add_to_include(out, LOGPROBS)  # a check may want them
        if out.get("store") is not False and reasons(body["model"]):
            add_to_include(out, SEALED_REASONING)  # who wanted it kept goes on with it later
        out["store"] = False
        if body.get("stream"):
            out["stream"] = True
        return out, tuple(lost)

    def headers(self, request: ChatRequest) -> Mapping[str, str]:
        return {}

    def whole(self, name: str, raw: bytes, secrets: Secrets) -> Json:
        return completion_of(name, raw, secrets)

    def reader(self, name: str, secrets: Secrets) -> Reader:
        return ResponsesReader(name, secrets)


def _rebuilt(native: Json, request: ChatRequest, extra: Extra, lost: Lost) -> Json:
    """A request some of whose messages are not its client's: the client's own are sent as the items that they came in.

    `instructions` became the first message, which was made of no item; written anew it is `instructions` again.
    """
    messages = request.messages
    instructions = next(iter(extra.pieces), None) if native.get("instructions") else None
    if instructions is not None and all(id(message) != instructions for message in messages):
        native = {name: value for name, value in native.items() if name != "instructions"}
        first = messages[0] if messages else {}
        if first.get("role") in SYSTEM_ROLES and id(first) not in extra.pieces:
            native["instructions"] = text_of(first.get("content"))
            messages = messages[1:]
    return {**native, "input": items_of(messages, lost, lambda message: extra.pieces.get(id(message)))}
