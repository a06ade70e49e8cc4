"""Providers that do not speak OpenAI's protocol, scripted, on real sockets: Anthropic's Messages and Gemini's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

Json = dict[str, Any]
Event = tuple[str, Json]  # its name, which Gemini does not send, and its data


@dataclass(frozen=True)
class Say:
    """One reply.

    Args:
        call: name and arguments of a tool call, after the words.
        usage: input and output tokens; None where the vendor does not say.
        error: status, the vendor's kind, message, headers.
        ends: "whole"; "cut": the connection is dropped; "short": the stream ends in order, without the vendor's stop;
            "error": an error event; "stall": silence; "hang up": no reply at all.
        after: events written before it ends in another way than "whole".
    """

    words: tuple[str, ...] = ("Hello", " there")
    thinking: str = ""
    call: tuple[str, Json] | None = None
    usage: tuple[int, int] | None = (12, 7)
    cached: int = 0
    stop: str = "stop"
    error: tuple[int, str, str, dict[str, str]] | None = None
    ends: str = "whole"
    after: int = 0
    choices: int = 1


@dataclass
class Vendor:
    """A scripted server. The last reply is repeated. `gone` is set once a client has left a reply before its end."""

    replies: list[Say]
    requests: list[Json] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    name = ""
    model = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        return await self.respond(request)

    async def respond(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        self.requests.append(body)
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        self.paths.append(request.path)
        say = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        self.asked.set()
        try:
            if say.error is not None:
                status, kind, message, headers = say.error
                return web.json_response(self.error(status, kind, message), status=status, headers=headers)
            if say.ends == "hang up":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            if self.streams(request, body):
                return await self._stream(request, say)
            return await self._whole(request, say)
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise

    async def _whole(self, request: web.Request, say: Say) -> web.StreamResponse:
        if say.ends == "stall":
            await asyncio.Event().wait()
        if say.ends == "cut":
            response = web.StreamResponse(headers={"content-type": "application/json", "content-length": "1000"})
            await response.prepare(request)
            await response.write(orjson.dumps(self.whole(say))[:20])
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.json_response(self.whole(say))

    async def _stream(self, request: web.Request, say: Say) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        if say.ends == "stall" and say.after == 0:
            await asyncio.Event().wait()
        await response.prepare(request)
        events = self.events(say)
        if say.ends != "whole":
            events = events[: say.after]
        if say.ends == "error":
            events.append(("error", self.error(529, "overloaded_error", "Overloaded")))
        for name, data in events:
            head = f"event: {name}\n" if self.names_events else ""
            await response.write(f"{head}data: {orjson.dumps(data).decode()}\n\n".encode())
        if say.ends == "stall":
            await asyncio.Event().wait()
        if say.ends == "cut":
            assert request.transport is not None
            request.transport.abort()
        return response

    names_events = False

    def streams(self, request: web.Request, body: Json) -> bool:
        raise NotImplementedError

    def error(self, status: int, kind: str, message: str) -> Json:
        raise NotImplementedError

    def whole(self, say: Say) -> Json:
        raise NotImplementedError

    def events(self, say: Say) -> list[Event]:
        raise NotImplementedError


class Anthropic(Vendor):
    name = "anthropic"
    model = "anthropic/claude-sonnet-4-5"
    names_events = True

    def streams(self, request: web.Request, body: Json) -> bool:
        return bool(body.get("stream"))

    def error(self, status: int, kind: str, message: str) -> Json:
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"}

    def _message(self, say: Say, content: list[Json], stop: str | None) -> Json:
        out: Json = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-4-5-20250929",
            "content": content,
            "stop_reason": stop,
            "stop_sequence": None,
        }
        if say.usage is not None:
            out["usage"] = {
                "input_tokens": say.usage[0] - say.cached,
                "cache_read_input_tokens": say.cached,
                "cache_creation_input_tokens": 0,
                "output_tokens": say.usage[1] if stop else 1,
            }
        return out

    def _stop(self, say: Say) -> str:
        return "tool_use" if say.call else {"stop": "end_turn", "length": "max_tokens"}[say.stop]

    def whole(self, say: Say) -> Json:
        content: list[Json] = []
        if say.thinking:
            content.append({"type": "thinking", "thinking": say.thinking, "signature": "sig"})
        if say.words:
            content.append({"type": "text", "text": "".join(say.words)})
        if say.call:
            content.append({"type": "tool_use", "id": "toolu_1", "name": say.call[0], "input": say.call[1]})
        return self._message(say, content, self._stop(say))

    def events(self, say: Say) -> list[Event]:
        events: list[Event] = [("message_start", {"message": self._message(say, [], None)}), ("ping", {})]
        number = 0

        def block(start: Json, deltas: list[Json]) -> None:
            nonlocal number
            events.append(("content_block_start", {"index": number, "content_block": start}))
            events.extend(("content_block_delta", {"index": number, "delta": delta}) for delta in deltas)
            events.append(("content_block_stop", {"index": number}))
            number += 1

        if say.thinking:
            thought = {"type": "thinking_delta", "thinking": say.thinking}
            sign = {"type": "signature_delta", "signature": "sig"}
            block({"type": "thinking", "thinking": "", "signature": ""}, [thought, sign])
        if say.words:
            block({"type": "text", "text": ""}, [{"type": "text_delta", "text": word} for word in say.words])
        if say.call:
            written = orjson.dumps(say.call[1]).decode()
            pieces = ["", written[:5], written[5:]]
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            block({"type": "tool_use", "id": "toolu_1", "name": say.call[0], "input": {}}, deltas)
        last: Json = {"delta": {"stop_reason": self._stop(say), "stop_sequence": None}}
        if say.usage is not None:
            last["usage"] = {"output_tokens": say.usage[1]}
        events += [("message_delta", last), ("message_stop", {})]
        return [(name, {"type": name, **data}) for name, data in events]


class Gemini(Vendor):
    name = "gemini"
    model = "gemini/gemini-2.5-flash"

    def streams(self, request: web.Request, body: Json) -> bool:
        return request.path.endswith(":streamGenerateContent")

    def error(self, status: int, kind: str, message: str) -> Json:
        return {"error": {"code": status, "message": message, "status": kind.upper()}}

    def _reply(self, say: Say, parts: list[Json], *, last: bool) -> Json:
        finish: Json = {"finishReason": {"stop": "STOP", "length": "MAX_TOKENS"}[say.stop]} if last else {}
        content = {"parts": parts, "role": "model"}
        out: Json = {
            "candidates": [{"content": content, "index": index, **finish} for index in range(say.choices)],
            "modelVersion": "gemini-2.5-flash",
            "responseId": "r1",
        }
        if say.usage is not None:
            out["usageMetadata"] = {
                "promptTokenCount": say.usage[0],
                "cachedContentTokenCount": say.cached,
                "candidatesTokenCount": say.usage[1],
                "totalTokenCount": sum(say.usage),
            }
        return out

    def _parts(self, say: Say) -> list[Json]:
        parts: list[Json] = [{"text": say.thinking, "thought": True}] if say.thinking else []
        parts += [{"text": word} for word in say.words]
        if say.call:
            parts.append({"functionCall": {"name": say.call[0], "args": say.call[1]}})
        return parts

    def whole(self, say: Say) -> Json:
        return self._reply(say, self._parts(say), last=True)

    def events(self, say: Say) -> list[Event]:
        parts = self._parts(say)
        return [("", self._reply(say, [part], last=i == len(parts) - 1)) for i, part in enumerate(parts)]


@asynccontextmanager
async def vendor(kind: type[Vendor], *replies: Say) -> AsyncIterator[Vendor]:
    server = kind(list(replies) or [Say()])
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{tail:.*}", server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()
