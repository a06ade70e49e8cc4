"""Shards put into a request. Pure: a new request comes of it.

What was given with a turn of a conversation stands in the same place, byte for byte, at all later turns, so that a
model need not read again what it has read. Worked examples stand as turns in front of the user's turn that they came
with. Facts that come with the first turn stand at the end of the system message; those that come later, end users' own
words, and all that very small models are given stand in front of the user's words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.chat import ChatRequest, Json
from gateway.shards import Example
from gateway.shards.rendering import READING, Rendering

SYSTEM_ROLES = ("system", "developer")
NOTES = "Notes:"
Placed = Mapping[int, Sequence[Rendering]]
"""By turn of the user, the first being 1."""


def turn_of(messages: Sequence[Json]) -> int:
    """Which turn of the user the conversation is at; 0 before the first."""
    return sum(message.get("role") == "user" for message in messages)


def inject(request: ChatRequest, placed: Placed) -> ChatRequest:
    """The request with what was given at each of its turns."""
    head, rest = _parted(request.messages)
    out: list[Json] = _noted(head, _sorted(placed.get(1, ())))
    turn, can_read = 0, False
    for message in rest:
        if message.get("role") == "user":
            turn += 1
            some = _sorted(placed.get(turn, ()))
            if not can_read and any(one.is_read for one in some):
                can_read = True
                out += _as_turns(READING)
            for one in some:
                out += _as_turns(one.turns)
            message = _with_notes(message, some, turn)
        out.append(message)
    return request.with_body(messages=out)


def _parted(messages: Sequence[Json]) -> tuple[list[Json], list[Json]]:
    """The system messages that it begins with, and all others."""
    place = next((n for n, message in enumerate(messages) if message.get("role") not in SYSTEM_ROLES), len(messages))
    return list(messages[:place]), list(messages[place:])


def _sorted(renderings: Sequence[Rendering]) -> list[Rendering]:
    """In an order that does not hang on how well each was found: the same set reads the same."""
    return sorted(renderings, key=lambda one: one.shard)


def _as_turns(examples: Sequence[Example]) -> list[Json]:
    out: list[Json] = []
    for example in examples:
        out.append({"role": "user", "content": example.user})
        out.append({"role": "assistant", "content": example.assistant})
    return out


def _noted(head: list[Json], renderings: Sequence[Rendering]) -> list[Json]:
    """The system messages with the first turn's notes at the end of the last one."""
    notes = [note for one in renderings if not one.in_user_turn for note in one.notes]
    if not notes:
        return head
    text = "\n".join((NOTES, *notes))
    if not head:
        return [{"role": "system", "content": text}]
    *before, last = head
    return [*before, {**last, "content": _joined(last.get("content"), text, after=True)}]


def _with_notes(message: Json, renderings: Sequence[Rendering], turn: int) -> Json:
    own = [one for one in renderings if one.notes and (turn > 1 or one.in_user_turn)]
    if not own:
        return message
    notes = [note for one in own for note in one.notes]
    lines = notes if all(one.is_read for one in own) else [NOTES, *notes]  # as the reading examples have it
    return {**message, "content": _joined(message.get("content"), "\n".join(lines), after=False)}


def _joined(content: Any, text: str, *, after: bool) -> Any:
    """The content with a text of ours before or after it; it may be text, parts, or nothing."""
    if isinstance(content, list):
        part = {"type": "text", "text": text}
        return [*content, part] if after else [part, *content]
    if not content:
        return text
    return f"{content}\n\n{text}" if after else f"{text}\n\n{content}"
