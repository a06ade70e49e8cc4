"""The tools with which a model remembers and forgets for its user, as OpenAI's API writes tools; and the calls of them
in what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from gateway.shards import Json
from gateway.shards.memory.wording import third_person
from gateway.shards.search.words import words_of
from gateway.tools import name_of, objects_in, part_of

REMEMBER: Final = "remember"
FORGET: Final = "forget"
MAX_CALLS = 8  # of one answer

_TEXT = {"type": "string", "minLength": 1, "maxLength": 4_000}
TOOLS: tuple[Json, ...] = tuple(
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {"text": {**_TEXT, "description": of_text}},
                "required": ["text"],
                "additionalProperties": False,
            },
        },
    }
    for name, description, of_text in (
        (
            REMEMBER,
            "Keep a fact about the user for later conversations. Only when the user asks for "
            "it, in their own words, one sentence.",
            "What the user wants remembered, for example: My dog is called Rex.",
        ),
        (
            FORGET,
            "Erase what is remembered about the user. Only when the user asks for it.",
            "What the user wants forgotten, for example: my dog's name.",
        ),
    )
)


@dataclass(frozen=True)
class Call:
    """`text` is the model's: it has to stand in what the user said before it is kept, see `is_said`."""

    id: str
    action: Literal["remember", "forget"]
    text: str


def calls_of(message: Mapping[str, Any]) -> list[Call]:
    """Those of an assistant's message that are ours, in its order. Others, and broken ones, are none."""
    calls = []
    for call in objects_in(message.get("tool_calls")):
        name = name_of(call)
        text = _text_of(part_of(call).get("arguments"))
        if text and (name == REMEMBER or name == FORGET):
            calls.append(Call(str(call.get("id") or ""), "remember" if name == REMEMBER else "forget", text))
    return calls[:MAX_CALLS]


def _text_of(arguments: object) -> str:
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return ""  # cut or malformed: what it was to be cannot be known
    text = arguments.get("text") if isinstance(arguments, Mapping) else None
    return text.strip() if isinstance(text, str) else ""


def is_said(text: str, user_text: str) -> bool:
    """Do the words of a call come from the user's own turn? A model may have them from a tool's result or a document,
    and those are never remembered.

    Four fifths of its words have to stand there; "I" and "the user" are the same.
    """
    asked = set(words_of(third_person(text))) - {"user", "users"}
    said = set(words_of(third_person(user_text))) | set(words_of(user_text))
    return bool(asked) and len(asked & said) >= 0.8 * len(asked)
