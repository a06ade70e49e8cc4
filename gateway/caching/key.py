"""What makes two requests the same: hashes of all that shapes the answer, and of whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

from gateway.caching.wording import signature
from gateway.chat import ChatRequest

HASH_BYTES = 16
UNSHAPING = frozenset(
    "client_metadata keep_alive messages metadata model prompt_cache_key prompt_cache_options prompt_cache_retention "
    "safety_identifier store stream stream_options user".split()
)
"""Fields of a body that change nothing in the answer, or (`messages`, `model`) are looked at by themselves: the policy
has chosen who is asked by the time that a cache is."""
SHAPING_HEADERS = ("anthropic-beta",)


def tenant_of(request: ChatRequest) -> str:
    """Whose cached answers a request may be given; "" where the server asks for no keys."""
    return request.owner or ""


@dataclass(frozen=True, slots=True)
class Key:
    """`exact`: of the same request. `group`: of those that differ in the last words of the user alone, and in nothing
    there that tells requests apart; None where it cannot be formed. `text`: these words."""

    exact: bytes
    group: bytes | None = None
    text: str = ""


def key_of(request: ChatRequest, place: str, about: object, *, groups: bool) -> Key:
    """Args:
    place: names the node, as it is configured now.
    about: JSON of what else it hangs on, such as the user.
    groups: a group is wanted too.
    """
    told = [request.headers.get(name) for name in SHAPING_HEADERS]
    scope = orjson.dumps([tenant_of(request), place, about, told])
    rest = _fields(request.body)
    extra = request.extra
    more = [extra.dialect.encode(), _fields(extra.body, "messages")] if extra is not None else []
    exact = _digest(scope, rest, _messages(request.messages), *more)
    text = last_words(request) if groups else ""
    if not text:
        return Key(exact)
    *before, last = request.messages
    literal = orjson.dumps(text)
    more = [part.replace(literal, b'""') for part in more]  # another dialect's body says them again
    blank = _messages([*before, {**last, "content": ""}])
    return Key(exact, _digest(b"group", scope, rest, blank, signature(text), *more), text)


def last_words(request: ChatRequest) -> str:
    """Of the user, where the conversation ends with them and they are a text alone."""
    last = request.messages[-1] if request.messages else {}
    content = last.get("content")
    if isinstance(content, list) and len(content) == 1 and content[0].get("type") == "text":
        content = content[0].get("text")
    return content if last.get("role") == "user" and isinstance(content, str) else ""


def _messages(messages: list[Any]) -> bytes:
    return orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)


def _fields(body: Mapping[str, Any], *also: str) -> bytes:
    """In one order; those within them stay as they are, for a model writes the properties of a schema in its order.
    A field that is null might as well not be there."""
    shaping = (name for name in sorted(body) if body[name] is not None and (name not in UNSHAPING or name in also))
    return orjson.dumps([(name, body[name]) for name in shaping])


def _digest(*parts: bytes) -> bytes:
    found = blake2b(digest_size=HASH_BYTES)
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.digest()
