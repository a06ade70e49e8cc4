"""What the wires have in common that speak another dialect than OpenAI's chat: which request came in their own, what a
chat body says that they have no word for, and JSON read with suspicion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from gateway.chat import ChatRequest, Extra, Json
from gateway.errors import BadBackendReply
from gateway.providers import CHANGES_NOTHING

CARRIED = frozenset({"messages", "model", "stream", "stream_options"})
CHAT_FIELDS = frozenset(
    "audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens messages "
    "metadata modalities model n parallel_tool_calls prediction presence_penalty prompt_cache_key "
    "prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store stream "
    "stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options".split()
)
SAYS_NOTHING: Mapping[str, object] = {
    **CHANGES_NOTHING,
    "modalities": ["text"],
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
}
SYSTEM_ROLES = frozenset({"system", "developer"})


class Lost(dict[str, None]):
    """Names of what had no place, each once, in order."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__(dict.fromkeys(names))

    def add(self, name: str) -> None:
        self[name] = None


def own_dialect(request: ChatRequest, dialect: str) -> Extra | None:
    """What the request said, where it came in this dialect."""
    return request.extra if request.extra is not None and request.extra.dialect == dialect else None


def is_untouched(request: ChatRequest, extra: Extra) -> bool:
    """Are the request's messages those that its dialect made of the body, all of them, and no other?"""
    return [id(message) for message in request.messages] == list(extra.pieces)


def from_defaults(body: Mapping[str, Any], request: ChatRequest) -> Json:
    """The fields of a body that the model's entry set, not the client."""
    given = request.body
    return {
        name: value
        for name, value in body.items()
        if name not in CARRIED and value is not None and given.get(name) is None and not _is_limit_again(name, given)
    }


def _is_limit_again(name: str, given: Mapping[str, Any]) -> bool:
    """The client's limit under its other name, which a provider wants."""
    limits = ("max_tokens", "max_completion_tokens")
    return name in limits and any(given.get(limit) is not None for limit in limits)


def refused_fields(body: Mapping[str, Any], request: ChatRequest) -> frozenset[str]:
    """Fields that the request has and this model's body has no more: its provider does not take them."""
    return frozenset(name for name, value in request.body.items() if value is not None and name not in body) - CARRIED


def is_missed(name: str, value: object) -> bool:
    """Does an answer differ, if this field of a chat is left out?"""
    return value is not None and name not in CARRIED and not (name in SAYS_NOTHING and SAYS_NOTHING[name] == value)


def limit_of(body: Mapping[str, Any]) -> int | None:
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return limit if isinstance(limit, int) else None


def with_defaults(native: Mapping[str, Any], fields: Mapping[str, Any], merged: Iterable[str]) -> Json:
    """A body and what it leaves out; of the fields named in `merged`, also what their objects leave out."""
    out = dict(native)
    for name, value in fields.items():
        said = out.get(name)
        if said is None:
            out[name] = value
        elif name in merged and isinstance(said, Mapping) and isinstance(value, Mapping):
            out[name] = {**value, **said}
    return out


def objects(value: object) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, Sequence) else []


def split_data_url(url: str) -> tuple[str, str] | None:
    """(media type, base64 text) of a `data:` address; None for any other."""
    head, comma, data = url.partition(",")
    if not comma or not head.lower().startswith("data:") or not head.lower().endswith(";base64"):
        return None
    media_type = head[5:].split(";")[0].strip().lower()
    return {"image/jpg": "image/jpeg"}.get(media_type, media_type), data


def read_object(name: str, data: bytes, what: str) -> Json:
    """`what`: is read, for the message. Raises: BadBackendReply."""
    try:
        said = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise BadBackendReply(f"model '{name}': {what} is not JSON") from None
    if not isinstance(said, dict):
        raise BadBackendReply(f"model '{name}': {what} is not an object")
    return said


REPLY, EVENT = "the upstream's reply", "an event of the upstream's stream"


def text_in(value: object) -> str:
    return value if isinstance(value, str) else ""


def count_in(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def with_cost(usage: Json, said: Mapping[str, Any]) -> Json:
    """What an upstream charges stays beside its counts."""
    return {**usage, "cost": said["cost"]} if said.get("cost") is not None else usage
