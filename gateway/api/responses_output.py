"""The output of a response, item by item, out of chat deltas: its items, and the events that tell them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.api.responses_items import item_id, reasoning_text, seal, without_seal
from gateway.api.responses_tools import Tool, Tools, input_of
from gateway.chat import Json, text_of

PART_EVENTS = {"output_text": "response.output_text", "refusal": "response.refusal"}
PART_TEXTS = {"output_text": "text", "refusal": "refusal"}
SUMMARY, PLAIN = "response.reasoning_summary", "response.reasoning"


@dataclass
class _Part:
    """A part of the message that is being written, or the text of a reasoning."""

    kind: str
    texts: list[str] = field(default_factory=list)
    logprobs: list[Json] = field(default_factory=list)
    annotations: list[Json] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def as_json(self) -> Json:
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": self.text}
        annotations, logprobs = self.annotations.copy(), self.logprobs.copy()  # an event is written later
        return {"type": self.kind, "text": self.text, "annotations": annotations, "logprobs": logprobs}


@dataclass
class _Call:
    id: str
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    place: int | None = None  # once it has been told
    tool: Tool = Tool("")


class Output:
    """Args:
    summarizes: the client asked for a summary of the reasoning, and is told the reasoning as one: clients that show any
        show summaries.
    shows_logprobs, shows_sealed: the client asked for them in `include`.
    """

    def __init__(
        self, trace_id: str, tools: Tools, *, summarizes: bool, shows_logprobs: bool, shows_sealed: bool
    ) -> None:
        self.items: list[Json] = []  # by output_index, as they stand; what is sealed is in them
        self.is_closed = False
        self._trace_id, self._tools = trace_id, tools
        self._summarizes, self._shows_logprobs, self._shows_sealed = summarizes, shows_logprobs, shows_sealed
        self._events: list[Json] = []
        self._message: int | None = None  # its place; the same for reasoning
        self._part: _Part | None = None
        self._reasoning: int | None = None
        self._thought = _Part("reasoning_text")
        self._carried: dict[str, list[Json]] = {}
        self._calls: dict[int, _Call] = {}
        self._finished: set[int] = set()

    @property
    def shown(self) -> list[Json]:
        return [self._shown(item) for item in self.items]

    @property
    def shown_finished(self) -> list[Json]:
        """Of an answer that broke off, the items that were told to their end."""
        return [self._shown(item) for place, item in enumerate(self.items) if place in self._finished]

    def _shown(self, item: Json) -> Json:
        return item if self._shows_sealed else without_seal(item)

    # -- in ------------------------------------------------------------------------------------------------------

    def take(self, choice: Mapping[str, Any]) -> list[Json]:
        """One choice of a chunk. Returns: the events for it, without their numbers."""
        delta = choice.get("delta") or {}
        if delta.get("reasoning_items") or delta.get("thinking_blocks"):
            self._carry(delta)
        elif thought := delta.get("reasoning_content") or delta.get("reasoning"):
            if isinstance(thought, str):
                self._think(thought)
        content = delta.get("content")
        if text := content if isinstance(content, str) else text_of(content):
            self._write("output_text", text, self._logprobs_of(choice))
        if isinstance(refusal := delta.get("refusal"), str) and refusal:
            self._write("refusal", refusal, [])
        self._annotate(delta.get("annotations"))
        for number, piece in enumerate(delta.get("tool_calls") or ()):
            self._take_call(piece, piece.get("index", number))
        return self._drain()

    def close(self, finish: str) -> list[Json]:
        """The answer has ended, for this `finish_reason`."""
        self.is_closed = True
        is_whole = finish not in ("length", "content_filter")
        self._end_reasoning()
        self._end_message("completed" if is_whole else "incomplete")
        calls = list(self._calls.values())
        for call in calls:
            if call.place is None:
                self._tell_call(call)
        for call in calls:
            self._end_call(call, "completed" if is_whole or call is not calls[-1] else "incomplete")
        if is_whole and all(item["type"] == "reasoning" for item in self.items):
            self._open_message()  # it said nothing, and clients look for a message
            self._open_part("output_text")
            self._end_message("completed")
        return self._drain()

    def _drain(self) -> list[Json]:
        events, self._events = self._events, []
        return events

    def _tell(self, kind: str, place: int, **fields: Any) -> None:
        self._events.append({"type": kind, "item_id": self.items[place]["id"], "output_index": place, **fields})

    def _add_item(self, kind: str, item: Json) -> int:
        place = len(self.items)
        item = {"id": item_id(kind, self._trace_id, place), "type": kind, **item}
        self.items.append(item)
        self._events.append({"type": "response.output_item.added", "output_index": place, "item": item})
        return place

    def _finish_item(self, place: int, **fields: Any) -> None:
        item = self.items[place] = {**self.items[place], **fields}
        self._finished.add(place)
        self._events.append({"type": "response.output_item.done", "output_index": place, "item": self._shown(item)})

    # -- messages ------------------------------------------------------------------------------------------------

    def _open_message(self) -> int:
        if self._message is None:
            self._end_reasoning()
            self._message = self._add_item("message", {"status": "in_progress", "role": "assistant", "content": []})
        return self._message

    def _open_part(self, kind: str) -> _Part:
        if self._part is None or self._part.kind != kind:
            self._end_part()
            self._part = _Part(kind)
            self._tell_part("response.content_part.added", self._part)
        return self._part

    def _tell_part(self, kind: str, part: _Part) -> None:
        place = self._open_message()
        self._tell(kind, place, content_index=len(self.items[place]["content"]), part=part.as_json())

    def _write(self, kind: str, text: str, logprobs: list[Json]) -> None:
        place = self._open_message()
        part = self._open_part(kind)
        part.texts.append(text)
        part.logprobs += logprobs
        more: Json = {"logprobs": logprobs} if kind == "output_text" else {}
        at = len(self.items[place]["content"])
        self._tell(f"{PART_EVENTS[kind]}.delta", place, content_index=at, delta=text, **more)

    def _annotate(self, annotations: Any) -> None:
        for annotation in annotations if isinstance(annotations, list) else ():
            flat = _flat_annotation(annotation)
            if flat is None:
                continue
            place, part = self._open_message(), self._open_part("output_text")
            at = {"content_index": len(self.items[place]["content"]), "annotation_index": len(part.annotations)}
            part.annotations.append(flat)
            self._tell("response.output_text.annotation.added", place, **at, annotation=flat)

    def _end_part(self) -> None:
        part, place = self._part, self._message
        if part is None or place is None:
            return
        more: Json = {"logprobs": part.logprobs} if part.kind == "output_text" else {}
        at = len(self.items[place]["content"])
        said = {PART_TEXTS[part.kind]: part.text}
        self._tell(f"{PART_EVENTS[part.kind]}.done", place, content_index=at, **said, **more)
        self._tell_part("response.content_part.done", part)
        self.items[place] = {**self.items[place], "content": [*self.items[place]["content"], part.as_json()]}
        self._part = None

    def _end_message(self, status: str = "completed") -> None:
        if self._message is not None:
            self._end_part()
            self._finish_item(self._message, status=status)
            self._message = None

    def _logprobs_of(self, choice: Mapping[str, Any]) -> list[Json]:
        logprobs = choice.get("logprobs")
        tokens = logprobs.get("content") if isinstance(logprobs, Mapping) and self._shows_logprobs else None
        return [_logprob(token) for token in tokens or () if isinstance(token, dict)]

    # -- reasoning -----------------------------------------------------------------------------------------------

    def _open_reasoning(self) -> int:
        if self._reasoning is None:
            self._end_message()
            self._thought, self._carried = _Part("reasoning_text"), {}
            self._reasoning = self._add_item("reasoning", {"summary": []})
        return self._reasoning

    def _think(self, text: str) -> None:
        place = self._open_reasoning()
        if not self._thought.texts:
            if self._summarizes:
                part = {"type": "summary_text", "text": ""}
                self._tell(f"{SUMMARY}_part.added", place, summary_index=0, part=part)
            else:
                part = {"type": "reasoning_text", "text": ""}
                self._tell("response.content_part.added", place, content_index=0, part=part)
        self._thought.texts.append(text)
        if self._summarizes:
            self._tell(f"{SUMMARY}_text.delta", place, summary_index=0, delta=text)
        else:
            self._tell(f"{PLAIN}_text.delta", place, content_index=0, delta=text)

    def _carry(self, delta: Json) -> None:
        """What the upstream wants to see again. A block that comes signed but empty signs what was said before it."""
        self._open_reasoning()
        plain = delta.get("reasoning_content") or delta.get("reasoning")
        blocks, items = _objects(delta.get("thinking_blocks")), _objects(delta.get("reasoning_items"))
        if not plain and not self._thought.texts:
            plain = "\n\n".join(filter(None, map(reasoning_text, items)))
            plain = plain or "".join(str(block.get("thinking") or "") for block in blocks)
        if isinstance(plain, str) and plain:
            self._think(plain)
        for block in blocks:
            if block.get("signature") and not block.get("thinking"):
                block = {**block, "thinking": self._thought.text}
            if block.get("signature") or block.get("data"):
                self._carried.setdefault("thinking_blocks", []).append(block)
        if items:
            self._carried.setdefault("reasoning_items", []).extend(items)

    def _end_reasoning(self) -> None:
        place, text = self._reasoning, self._thought.text
        if place is None:
            return
        fields: Json = {"encrypted_content": seal(self._carried)} if self._carried else {}
        if text and self._summarizes:
            part = {"type": "summary_text", "text": text}
            self._tell(f"{SUMMARY}_text.done", place, summary_index=0, text=text)
            self._tell(f"{SUMMARY}_part.done", place, summary_index=0, part=part)
            fields["summary"] = [part]
        elif text:
            part = {"type": "reasoning_text", "text": text}
            self._tell(f"{PLAIN}_text.done", place, content_index=0, text=text)
            self._tell("response.content_part.done", place, content_index=0, part=part)
            fields["content"] = [part]
        self._finish_item(place, **fields)
        self._reasoning = None

    # -- calls ---------------------------------------------------------------------------------------------------

    def _take_call(self, piece: Json, number: int) -> None:
        """A call is told with its first argument: until then its name may go on."""
        function = piece.get("function") or {}
        call = self._calls.get(number)
        if call is None:
            call = self._calls[number] = _Call(str(piece.get("id") or ""))
        if isinstance(name := function.get("name"), str):
            call.name += name
        arguments = function.get("arguments")
        if not arguments:
            return
        if call.place is None:
            self._tell_call(call)
        call.arguments.append(arguments)
        if call.place is not None and call.tool.kind == "function":
            self._tell("response.function_call_arguments.delta", call.place, delta=arguments)

    def _tell_call(self, call: _Call) -> None:
        self._end_reasoning()
        self._end_message()
        tool = call.tool = self._tools.called(call.name)
        named: Json = {"call_id": call.id, "name": tool.name}
        if tool.namespace:
            named["namespace"] = tool.namespace
        if tool.kind == "custom":
            call.place = self._add_item("custom_tool_call", {"status": "in_progress", **named, "input": ""})
        else:
            call.place = self._add_item("function_call", {"status": "in_progress", **named, "arguments": ""})

    def _end_call(self, call: _Call, status: str) -> None:
        place, arguments = call.place, "".join(call.arguments)
        if place is None:
            return
        if call.tool.kind == "custom":
            said = input_of(arguments)
            self._tell("response.custom_tool_call_input.delta", place, delta=said)
            self._tell("response.custom_tool_call_input.done", place, input=said)
            self._finish_item(place, status=status, input=said)
        else:
            self._tell("response.function_call_arguments.done", place, name=call.tool.name, arguments=arguments)
            self._finish_item(place, status=status, arguments=arguments)


def _objects(value: Any) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _flat_annotation(annotation: Any) -> Json | None:
    """A chat's citation of an address as a response has it; None for what it has no place for."""
    inner = annotation.get("url_citation") if isinstance(annotation, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("url"), str):
        return None
    defaults: Json = {"title": "", "start_index": 0, "end_index": 0}
    given = {name: inner[name] for name, value in defaults.items() if isinstance(inner.get(name), type(value))}
    return {"type": "url_citation", "url": inner["url"], **defaults, **given}


def _logprob(token: Json) -> Json:
    top = [_logprob_of(one) for one in _objects(token.get("top_logprobs"))]
    return {**_logprob_of(token), "top_logprobs": top}


def _logprob_of(token: Json) -> Json:
    text = str(token.get("token") or "")
    written = token.get("bytes")
    return {
        "token": text,
        "logprob": token.get("logprob"),
        "bytes": written if isinstance(written, list) else list(text.encode("utf-8", "surrogatepass")),
    }
