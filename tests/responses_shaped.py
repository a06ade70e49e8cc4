"""A server that speaks OpenAI's Responses API, scripted like the other vendors."""

from __future__ import annotations

import orjson
from aiohttp import web

from tests.vendors import Event, Json, Say, Vendor


class ResponsesShaped(Vendor):
    name = "responses"
    model = "up"
    names_events = True

    def streams(self, request: web.Request, body: Json) -> bool:
        return bool(body.get("stream"))

    def error(self, status: int, kind: str, message: str) -> Json:
        return {"type": "error", "error": {"message": message, "type": kind, "code": kind, "param": None}}

    def _response(self, say: Say, status: str, output: list[Json]) -> Json:
        is_over = status in ("completed", "incomplete")
        given, told = say.usage or (0, 0)
        usage = {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": say.cached},
            "output_tokens": told,
            "output_tokens_details": {"reasoning_tokens": 3 if say.thinking else 0},
            "total_tokens": given + told,
        }
        return {
            "id": "resp_up",
            "object": "response",
            "created_at": 1_790_000_000,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": "up-2026",
            "output": output,
            "usage": usage if is_over and say.usage is not None else None,
        }

    def _items(self, say: Say) -> list[Json]:
        items: list[Json] = []
        if say.thinking:
            summary = [{"type": "summary_text", "text": say.thinking}]
            items.append({"id": "rs_1", "type": "reasoning", "summary": summary, "encrypted_content": "sealed"})
        if say.words:
            text = {"type": "output_text", "text": "".join(say.words), "annotations": [], "logprobs": []}
            items.append(
                {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [text]}
            )
        if say.call:
            arguments = orjson.dumps(say.call[1]).decode()
            call = {"id": "fc_1", "type": "function_call", "status": "completed", "call_id": "call_1"}
            items.append({**call, "name": say.call[0], "arguments": arguments})
        return items

    def _status(self, say: Say) -> str:
        return "incomplete" if say.stop == "length" else "completed"

    def whole(self, say: Say) -> Json:
        return self._response(say, self._status(say), self._items(say))

    def events(self, say: Say) -> list[Event]:
        items = self._items(say)
        events: list[Event] = [
            ("response.created", {"response": self._response(say, "in_progress", [])}),
            ("response.in_progress", {"response": self._response(say, "in_progress", [])}),
        ]
        for place, item in enumerate(items):
            events += self._events_of(item, {"output_index": place, "item_id": item["id"]}, say)
        status = self._status(say)
        events.append((f"response.{status}", {"response": self._response(say, status, items)}))
        return [(name, {"type": name, "sequence_number": i, **data}) for i, (name, data) in enumerate(events)]

    def _events_of(self, item: Json, where: Json, say: Say) -> list[Event]:
        place = {"output_index": where["output_index"]}
        empty: dict[str, Json] = {
            "reasoning": {"summary": []},
            "message": {"content": []},
            "function_call": {"arguments": ""},
        }
        events: list[Event] = [("response.output_item.added", {**place, "item": {**item, **empty[item["type"]]}})]
        if item["type"] == "reasoning":
            part = {**where, "summary_index": 0}
            events.append(("response.reasoning_summary_part.added", {**part, "part": {}}))
            events.append(("response.reasoning_summary_text.delta", {**part, "delta": say.thinking}))
            events.append(("response.reasoning_summary_text.done", {**part, "text": say.thinking}))
        elif item["type"] == "message":
            part = {**where, "content_index": 0}
            events.append(("response.content_part.added", {**part, "part": {**item["content"][0], "text": ""}}))
            events += (("response.output_text.delta", {**part, "delta": word, "logprobs": []}) for word in say.words)
            events.append(("response.output_text.done", {**part, "text": "".join(say.words)}))
        else:
            written = item["arguments"]
            deltas = (written[:5], written[5:])
            events += (("response.function_call_arguments.delta", {**where, "delta": piece}) for piece in deltas)
            events.append(("response.function_call_arguments.done", {**where, "arguments": written}))
        return [*events, ("response.output_item.done", {**place, "item": item})]
