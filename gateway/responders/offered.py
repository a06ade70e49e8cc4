"""Tools that checks offer a model beside the client's own. The client never sees a call of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gateway.chat import Answer, ChatRequest, Json
from gateway.checks import Check
from gateway.chunks import Chunk
from gateway.tools import name_of, tools_of
from gateway.trace import Trace


def offers_for(request: ChatRequest, checks: Sequence[Check]) -> list[Json]:
    """None where the client says which tools are called, or has one of that name itself."""
    offers = [check.offers for check in checks if check.offers is not None]
    if not offers or request.is_prompt or request.body.get("response_format") or request.body.get("functions"):
        return []
    if request.body.get("tool_choice") not in (None, "auto"):
        return []
    own = tools_of(request.body)
    return [offer for offer in offers if name_of(offer) not in own]


def offered(request: ChatRequest, offers: Sequence[Json]) -> ChatRequest:
    return request.with_body(tools=[*(request.body.get("tools") or ()), *offers]) if offers else request


class Unseen:
    """Takes the calls of our tools out of what goes to the client, chunk by chunk or whole."""

    def __init__(self, offers: Sequence[Json], request: ChatRequest) -> None:
        self._names = frozenset(map(name_of, offers))
        self._has_tools = bool(request.body.get("tools"))
        self._ours: set[tuple[int, object]] = set()  # choice and place of our calls
        self._places: dict[int, dict[object, int]] = {}  # by choice: of the client's calls, without ours

    def chunk(self, chunk: Chunk) -> Chunk | None:
        """None where nothing is left of it."""
        if chunk.shape is not None:
            return chunk
        choices = [kept for choice in chunk.choices if (kept := self._choice(choice)) is not None]
        if not choices and chunk.choices:
            return None
        out = Chunk({**chunk.data, "choices": choices})
        out.is_followed = chunk.is_followed
        return out

    def answer(self, answer: Answer) -> Answer:
        choices = []
        for choice in answer.body.get("choices") or ():
            message = dict(choice.get("message") or {})
            calls = message.pop("tool_calls", None) or []
            kept = [call for call in calls if name_of(call) not in self._names]
            message |= {"tool_calls": kept} if kept else {}
            choices.append({**choice, "message": message, "finish_reason": self._reason(choice, bool(kept))})
        return replace(answer, body={**answer.body, "choices": choices})

    def is_all(self, answer: Answer) -> bool:
        """Is there nothing in the answer but calls of our tools?"""
        messages = [choice["message"] for choice in self.answer(answer).body["choices"]]
        return not any(message.get("content") or message.get("tool_calls") for message in messages)

    def forget_drops(self, trace: Trace) -> None:
        """A model that takes no tools was not shown ours: nothing of the client's request was lost by it."""
        for hop in () if self._has_tools else trace.models():
            hop.dropped = tuple(name for name in hop.dropped if name != "tools")

    def _choice(self, choice: Json) -> Json | None:
        index, delta = choice.get("index") or 0, dict(choice.get("delta") or {})
        calls = delta.pop("tool_calls", None)
        places = self._places.setdefault(index, {})
        kept = [call for call in map(dict, calls or ()) if self._is_clients(index, call)]
        for call in kept:
            place = call.get("index")
            call["index"] = places.setdefault(place, len(places))
        if kept:
            delta["tool_calls"] = kept
        reason = self._reason(choice, bool(places))
        if calls and not kept and not delta and not reason:
            return None
        return {**choice, "delta": delta, "finish_reason": reason}

    def _is_clients(self, index: int, call: Json) -> bool:
        place = (index, call.get("index"))
        if name_of(call) in self._names:
            self._ours.add(place)
        return place not in self._ours

    def _reason(self, choice: Json, has_calls: bool) -> str | None:
        reason: str | None = choice.get("finish_reason")
        return "stop" if reason == "tool_calls" and not has_calls else reason
