"""The order of roles that models' chat templates take.

Those of Qwen (since 3.5), Gemma and Mistral raise an error at a system message that is not the first; those of Gemma
and Mistral where two of one role follow each other, too. What is in order stays the very list that it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.chat import Json, text_of
from gateway.tool_loops import unless_same

SYSTEM_ROLES = frozenset({"system", "developer"})
BRIDGE = "OK."  # said by the model between a tool's result and the user's next word, where it must say something
CUT_OFF = "(What was said before is not shown.)"
BARE = {"role", "content"}


def in_turns(messages: list[Json], *, strictly: bool) -> list[Json]:
    """One system message, at the beginning. A later one is said by the user, marked as the system's, and what the user
    says twice in a row is one message.

    Args: `strictly`: a user speaks first, and between a tool's result and the user the model says a word.
    """
    return unless_same(_InTurns(messages, strictly).messages, messages) if _may_be_out(messages, strictly) else messages


def begun(messages: list[Json]) -> list[Json]:
    """With a word of the user's before the first answer."""
    for i, message in enumerate(messages):
        if message.get("role") == "assistant":
            return [*messages[:i], {"role": "user", "content": CUT_OFF}, *messages[i:]]
        if message.get("role") not in SYSTEM_ROLES:
            break
    return messages


def _may_be_out(messages: Sequence[Json], strictly: bool) -> bool:
    before: object = "system" if strictly else ""
    for i, message in enumerate(messages):
        role = message.get("role")
        if role in SYSTEM_ROLES and (i or role == "developer"):
            return True
        if role == before == "user":
            return True
        if strictly and (role, before) in (("user", "tool"), ("assistant", "assistant"), ("assistant", "system")):
            return True
        before = role
    return False


class _InTurns:
    """`messages` are the ones given, in turns."""

    def __init__(self, messages: Sequence[Json], strictly: bool) -> None:
        self._strictly = strictly
        self._turns: list[list[Json]] = []  # each of one role
        for message in messages:
            self._add(_as_system(message, is_first=self._role in (None, "system")))
        joined = [turn[0] if len(turn) == 1 else _joined(turn) for turn in self._turns]
        self.messages = begun(joined) if strictly else joined

    @property
    def _role(self) -> object:
        return self._turns[-1][0].get("role") if self._turns else None

    def _add(self, message: Json) -> None:
        role, before = message.get("role"), self._role
        if role == before and (role in ("system", "user") or self._is_said_twice(message)):
            self._turns[-1].append(message)
            return
        if self._strictly and role == "user" and before == "tool":
            self._turns.append([{"role": "assistant", "content": BRIDGE}])
        self._turns.append([message])

    def _is_said_twice(self, message: Json) -> bool:
        """An answer and another, with no calls in them."""
        is_answer = self._strictly and message.get("role") == "assistant"
        return is_answer and message.keys() == self._turns[-1][0].keys() == BARE


def _as_system(message: Json, *, is_first: bool) -> Json:
    if message.get("role") not in SYSTEM_ROLES or (is_first and message["role"] == "system"):
        return message
    if is_first:
        return {**message, "role": "system"}
    return {"role": "user", "content": f"<system>\n{text_of(message.get('content'))}\n</system>"}


def _joined(turn: Sequence[Json]) -> Json:
    contents = [message.get("content") for message in turn]
    if all(isinstance(content, str) for content in contents):
        return {**turn[0], "content": "\n\n".join(filter(None, contents))}
    return {**turn[0], "content": [part for content in contents for part in _parts(content)]}


def _parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content if isinstance(content, list) else []
