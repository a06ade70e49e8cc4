"""Tool calls and their results in a conversation: each call followed by its result, under ids that a provider takes.

Nothing here changes a message in place, and what is in order stays the very object that it was.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import is_
from typing import Any

from gateway.chat import Json
from gateway.past import CallIds
from gateway.tools import objects_in

NO_RESULT = "No result: the call was not carried out."
OWN_FIELDS = frozenset({"role", "content", "tool_calls", "name", "refusal", "annotations", "audio", "function_call"})
SAYS_SOMETHING = ("content", "tool_calls", "function_call", "refusal", "audio", "thinking_blocks", "reasoning_items")
ALPHABET = string.ascii_letters + string.digits
ANY_ID = CallIds(re.compile(r"(?s).+"), prefix="call_", length=29)


def unless_same(out: list[Json], messages: list[Json]) -> list[Json]:
    """The list that it was made from, where it holds the same objects."""
    return messages if len(out) == len(messages) and all(map(is_, out, messages)) else out


def text_in(value: object) -> str:
    return value if isinstance(value, str) else ""


# -- calls and results ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Survey:
    """What there is to do about a conversation. `ids`: of its calls; `has_extras`: fields beside a chat's own, in its
    answers or their calls."""

    is_closed: bool
    ids: list[str]
    has_extras: bool = False


def survey(messages: Sequence[Json], *, in_order: bool = False) -> Survey:
    """One look, for every conversation that is not plain passes through here: 0.1 us a message, 0.2 us where there are
    calls."""
    found = Survey(True, [])
    due: list[str] = []
    for message in messages:
        role = message["role"]
        if role == "tool":
            id = message.get("tool_call_id")
            if due and id == due[0]:
                del due[0]
            elif id in due and not in_order:
                due.remove(id)
            else:
                found.is_closed = False
            continue
        if due:
            found.is_closed, due = False, []
        if role != "assistant" or (len(message) == 2 and "content" in message and message["content"]):
            continue
        calls = message.get("tool_calls")
        if calls:
            due = _ids_in(calls, found)
            found.ids += due
        elif not message.get("content") and _is_empty(message):
            found.is_closed = False
        if not message.keys() <= OWN_FIELDS:
            found.has_extras = True
    found.is_closed = found.is_closed and not due
    return found


def _ids_in(calls: Any, found: Survey) -> list[str]:
    """One to each call."""
    if isinstance(calls, list) and len(calls) == 1 and isinstance(calls[0], dict) and len(calls[0]) == 3:
        id = calls[0].get("id")
        if id and isinstance(id, str):  # as most are
            return [id]
    ids: list[str] = []
    for call in calls if isinstance(calls, list) else (None,):
        if not isinstance(call, dict):
            found.is_closed = False
            continue
        id = call.get("id")
        if not id or not isinstance(id, str) or id in ids:
            found.is_closed = False
        if len(call) > 3:  # id, type, function
            found.has_extras = True
        ids.append(text_in(id))
    return ids


def closed(messages: list[Json], *, in_order: bool = False) -> list[Json]:
    """Each call followed by its result, one for one. A result that is not there is made up, one that stands elsewhere
    moved, a second one left out, and one of no call said by the user; an answer with nothing in it is left out.

    Args: `in_order`: results are to stand in the order of their calls.
    """
    is_closed = survey(messages, in_order=in_order).is_closed
    return messages if is_closed else _Closing(messages).messages or messages


def _is_empty(message: Mapping[str, Any]) -> bool:
    return not any(message.get(field) for field in SAYS_SOMETHING)


class _Slot:
    """The place of a result, behind its call."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.result: Json | None = None

    @property
    def message(self) -> Json:
        if self.result is None:
            return {"role": "tool", "tool_call_id": self.id, "content": NO_RESULT}
        return self.result if self.result.get("tool_call_id") == self.id else {**self.result, "tool_call_id": self.id}


class _Closing:
    """`messages` are the ones given, closed."""

    def __init__(self, messages: Sequence[Json]) -> None:
        self._out: list[Json | _Slot] = []
        # What waits for a result, by the id that it came with, turn by turn: an id may come again in a later one
        self._open: dict[str, list[list[_Slot]]] = {}
        for message in messages:
            role = message.get("role")
            if role == "tool":
                self._take_result(message)
            elif role == "assistant":
                self._take_answer(message)
            else:
                self._out.append(message)
        self.messages = [entry.message if isinstance(entry, _Slot) else entry for entry in self._out]

    def _take_answer(self, message: Json) -> None:
        calls = objects_in(message.get("tool_calls"))
        slots = self._slots(calls)
        if calls != (message.get("tool_calls") or []) or any(
            call.get("id") != slot.id for call, slot in zip(calls, slots, strict=True)
        ):
            message = {name: value for name, value in message.items() if name != "tool_calls"}
            if calls:
                message["tool_calls"] = [{**call, "id": slot.id} for call, slot in zip(calls, slots, strict=True)]
        if not _is_empty(message):
            self._out += [message, *slots]

    def _slots(self, calls: Sequence[Json]) -> list[_Slot]:
        taken = {text_in(call.get("id")) for call in calls}
        slots: list[_Slot] = []
        of_this_turn: dict[str, list[_Slot]] = defaultdict(list)
        for i, call in enumerate(calls):
            id = text_in(call.get("id"))
            is_good = bool(id) and id not in of_this_turn
            slots.append(_Slot(id if is_good else _new_id(f"{id}\n{len(self._out)}\n{i}", ANY_ID, taken)))
            of_this_turn[id].append(slots[-1])
        for id, waiting in of_this_turn.items():
            self._open.setdefault(id, []).append(waiting)
        return slots

    def _take_result(self, message: Json) -> None:
        turns = self._open.get(text_in(message.get("tool_call_id")))
        if turns:
            turns[-1].pop(0).result = message
            if not turns[-1]:
                turns.pop()
        elif turns is None and message.get("content"):  # of a call that is not there
            self._out.append({"role": "user", "content": message["content"]})


# -- ids -----------------------------------------------------------------------------------------------------------


def fit(ids: Sequence[str], rule: CallIds) -> bool:
    return all(map(rule.pattern.fullmatch, ids)) and not (rule.are_unique and len(set(ids)) < len(ids))


def renamed(messages: list[Json], rule: CallIds) -> list[Json]:
    """Calls and results of a closed conversation under ids that fit the rule. Those that do keep theirs; the same id
    becomes the same new one each time, but where no two turns may share one."""
    ids = survey(messages).ids
    if fit(ids, rule):
        return messages
    taken, times = {id for id in ids if rule.allow(id)}, dict[str, int]()
    names: dict[str, str] = {}

    def name(id: str) -> str:
        times[id] = times.get(id, 0) + 1
        again = rule.are_unique and times[id] > 1
        if rule.allow(id) and not again:
            return id
        key = f"{id}\n{times[id]}" if again else id
        if key not in names:
            names[key] = _new_id(key, rule, taken)
        return names[key]

    out: list[Json] = []
    of_turn: dict[str, str] = {}
    for message in messages:
        calls = message.get("tool_calls")
        if calls:
            of_turn = {call["id"]: name(call["id"]) for call in calls}
            if any(map(str.__ne__, of_turn.keys(), of_turn.values())):
                message = {**message, "tool_calls": [{**call, "id": of_turn[call["id"]]} for call in calls]}
        elif message.get("role") == "tool" and of_turn[message["tool_call_id"]] != message["tool_call_id"]:
            message = {**message, "tool_call_id": of_turn[message["tool_call_id"]]}
        out.append(message)
    return out


def _new_id(old: str, rule: CallIds, taken: set[str]) -> str:
    new = _hashed(old, rule.prefix, rule.length)
    while new in taken:
        new = _hashed(old + new, rule.prefix, rule.length)
    taken.add(new)
    return new


@lru_cache(4096)
def _hashed(old: str, prefix: str, length: int) -> str:
    number = int.from_bytes(hashlib.sha256(old.encode("utf-8", "surrogatepass")).digest(), "big")
    letters = []
    for _ in range(length - len(prefix)):
        number, digit = divmod(number, len(ALPHABET))
        letters.append(ALPHABET[digit])
    return prefix + "".join(letters)
