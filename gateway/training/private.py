"""Takes out what tells of a person: addresses and numbers, each with another of its form. Not names: for those a
model is needed, and what is trained on stays on this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

FORMS = (
    ("email", re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")),
    ("iban", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b")),
    ("card", re.compile(r"\b(?:\d[ -]?){13,18}\d\b")),
    ("ip", re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b")),
    ("phone", re.compile(r"(?<![\w.-])\+?\(?\d{1,4}\)?(?:[ .-]?\(?\d{2,4}\)?){2,5}(?![\w-]|\.\d)")),
)
DATE = re.compile(r"\A\d{4}-\d{1,2}-\d{1,2}\Z|\A\d{1,2}[.-]\d{1,2}[.-]\d{2,4}\Z")
FEWEST_DIGITS = 8  # of a phone number


def scrubbed(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same in all messages of a chat, so that an answer that copies still does."""
    places: dict[str, str] = {}
    return [_walked(message, places) for message in messages]


def _walked(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, str):
        return _replaced(value, places)
    if isinstance(value, dict):
        return {
            key: one if key in ("role", "name", "id", "type") else _walked(one, places) for key, one in value.items()
        }
    return [_walked(one, places) for one in value] if isinstance(value, list) else value


def _replaced(text: str, places: dict[str, str]) -> str:
    for kind, form in FORMS:

        def other(found: re.Match[str], kind: str = kind) -> str:
            said = found[0]
            digits = sum(map(str.isdigit, said))
            if kind == "phone" and (digits < FEWEST_DIGITS or DATE.match(said)):
                return said
            if said not in places and said not in places.values():
                places[said] = _other(kind, said, len(places) + 1)
            return places.get(said, said)

        text = form.sub(other, text)
    return text


def _other(kind: str, said: str, number: int) -> str:
    """Of the same form, and nobody's."""
    if kind == "email":
        return f"person{number}@example.com"
    if kind == "ip":
        return f"192.0.2.{number % 254 + 1}"
    digits = iter(f"{number:0{sum(map(str.isdigit, said))}}")
    return "".join(next(digits) if char.isdigit() else char for char in said)
