"""A server that speaks OpenAI's protocol, scripted like the vendors that do not."""

from __future__ import annotations

import orjson
from aiohttp import web

from tests.vendors import Event, Json, Say, Vendor


class OpenAIShaped(Vendor):
    name = "openai"
    model = "up"

    def streams(self, request: web.Request, body: Json) -> bool:
        return bool(body.get("stream"))

    def error(self, status: int, kind: str, message: str) -> Json:
        return {"error": {"message": message, "type": kind, "code": kind, "param": None}}

    def _head(self, object: str) -> Json:
        return {"id": "chatcmpl-up", "object": object, "created": 1_790_000_000, "model": "up-2026"}

    def _usage(self, say: Say) -> Json:
        if say.usage is None:
            return {}
        prompt, completion = say.usage
        return {
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "prompt_tokens_details": {"cached_tokens": say.cached},
            }
        }

    def _call(self, say: Say, arguments: str) -> Json:
        assert say.call is not None
        return {"id": "call_1", "type": "function", "function": {"name": say.call[0], "arguments": arguments}}

    def _finish(self, say: Say) -> str:
        return "tool_calls" if say.call else say.stop

    def whole(self, say: Say) -> Json:
        message: Json = {"role": "assistant", "content": "".join(say.words) or None}
        if say.thinking:
            message["reasoning_content"] = say.thinking
        if say.call:
            message["tool_calls"] = [self._call(say, orjson.dumps(say.call[1]).decode())]
        choices = [{"index": i, "message": message, "finish_reason": self._finish(say)} for i in range(say.choices)]
        return {**self._head("chat.completion"), "choices": choices, **self._usage(say)}

    def events(self, say: Say) -> list[Event]:
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        if say.thinking:
            deltas.append({"reasoning_content": say.thinking})
        deltas += [{"content": word} for word in say.words]
        if say.call:
            written = orjson.dumps(say.call[1]).decode()
            deltas.append({"tool_calls": [{"index": 0, **self._call(say, "")}]})
            pieces = [written[:5], written[5:]]
            deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces]
        head = self._head("chat.completion.chunk")
        events: list[Event] = [
            ("", {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}) for delta in deltas
        ]
        events.append(("", {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": self._finish(say)}]}))
        if say.usage is not None:
            events.append(("", {**head, "choices": [], **self._usage(say)}))
        return events
