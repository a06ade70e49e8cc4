"""Requests whose answer is one of a few stated options: labels, letters, yes or no, an enum.

Read from the request alone, by rules that would rather miss a request than take an open one for closed: who lists
things in passing, wants several of them, or wants reasons as well, is to be answered in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.chat import ChatRequest
from gateway.closed.labels import stated
from gateway.closed.letters import lettered
from gateway.closed.schemas import values_of, written
from gateway.closed.wording import tidied

LONGEST_CHARS = 20_000  # of an instruction, or of a question
Form = Literal["label", "letter", "json"]


@dataclass(frozen=True)
class Closed:
    """Args:
    options: the whole answers that would do, as they are to be written: two at least.
    form: a `label` as the prompt states it, the `letter` (or number) of a listed option, or `json`.
    stands_apart: they are said outside of the last thing the user says, so other questions have the same.
    """

    options: tuple[str, ...]
    form: Form = "label"
    stands_apart: bool = True


def closed_answer(request: ChatRequest) -> Closed | None:
    """None where the request is not sure to want exactly one of some options and nothing else."""
    body = request.body
    if request.is_prompt or not request.messages or request.turns[-1][0] != "user":
        return None
    if (body.get("tools") or body.get("functions")) and body.get("tool_choice") != "none":
        return None
    wanted = body.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind == "json_schema":
        values = values_of(request.json_schema)
        return Closed(tuple(map(written, values)), "json") if values else None
    if kind not in (None, "text"):
        return None
    told = "\n\n".join(text for role, text in request.turns if role in ("system", "developer"))
    if max(len(told), len(request.last_user_text)) > LONGEST_CHARS:
        return None
    told, asked = tidied(told), tidied(request.last_user_text)
    said = [text for role, text in request.turns if role == "assistant"]
    letters = lettered(told, asked, said)
    if letters:
        return Closed(letters, "letter", stands_apart=False)
    if labels := stated(told, is_told=True):
        return Closed(labels)
    labels = stated(asked, is_told=False)
    return Closed(labels, stands_apart=False) if labels else None
