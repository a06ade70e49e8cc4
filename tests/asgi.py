"""Calls the application with hand-written `receive` and `send`, so that each write can be seen as it was made."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.api.app import build_app
from gateway.gateway import Gateway
from gateway.live import Live
from gateway.runtime import Runtime
from tests import wire_shapes

HOST = {"host": "127.0.0.1:8080"}


class Response:
    """What the application sent: `writes` are the body's pieces in order."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.writes: list[bytes] = []
        self.finished = False

    @property
    def body(self) -> bytes:
        return b"".join(self.writes)

    @property
    def json(self) -> Any:
        is_packed = self.headers.get("content-encoding") == "gzip"
        return orjson.loads(gzip.decompress(self.body) if is_packed else self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error

    @property
    def events(self) -> list[Any]:
        """Parsed `data:` payloads of a stream; "[DONE]" as text."""
        out: list[Any] = []
        for block in self.body.decode().split("\n\n"):
            if block.startswith("data: "):
                data = block.removeprefix("data: ")
                out.append(data if data == "[DONE]" else orjson.loads(data))
        return out

    @property
    def text(self) -> str:
        """Content of the first choice, of a stream or a whole answer."""
        if self.headers["content-type"].startswith("text/event-stream"):
            deltas = [c["delta"] for e in self.events if e != "[DONE]" for c in e.get("choices", ()) if c["index"] == 0]
            return "".join(delta.get("content") or "" for delta in deltas)
        return str(self.json["choices"][0]["message"]["content"])

    @property
    def gateway(self) -> dict[str, Any]:
        """The gateway object, of a stream's last chunk or of a whole answer."""
        if self.headers["content-type"].startswith("text/event-stream"):
            found: dict[str, Any] = next(
                e["gateway"] for e in reversed(self.events) if e != "[DONE]" and "gateway" in e
            )
            return found
        found = self.json["gateway"]
        return found


class Call:
    """One request under way. `leave()` is the client closing the connection; `pause()` makes it stop reading."""

    def __init__(self, app: Any, scope: dict[str, Any], body: bytes) -> None:
        self.response = Response()
        self._asked = (scope["method"], scope["path"])
        self.wrote = asyncio.Event()  # set at each write; clear it to wait for the next
        self._gone = asyncio.Event()
        self._reads = asyncio.Event()
        self._reads.set()
        self._body: list[bytes] = [body]
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(0), "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Mapping[str, Any]) -> None:
        await self._reads.wait()
        if message["type"] == "http.response.start":
            self.response.status = message["status"]
            self.response.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            if message.get("body"):
                self.response.writes.append(message["body"])
            self.response.finished = not message.get("more_body", False)
        self.wrote.set()

    def leave(self) -> None:
        self._gone.set()

    def pause(self) -> None:
        self._reads.clear()

    def read_on(self) -> None:
        self._reads.set()

    async def done(self, timeout_s: float = 10.0) -> Response:
        await asyncio.wait_for(asyncio.shield(self.task), timeout_s)
        wire_shapes.check(self._asked, self.response)
        return self.response


class Client:
    def __init__(self, live: Live, runtime: Runtime, **options: Any) -> None:
        self.live, self.runtime = live, runtime
        self.app = build_app(live, runtime, **options)

    @property
    def gateway(self) -> Gateway:
        return self.live.gateway

    def start(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Call:
        raw = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in {**HOST, **(headers or {})}.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
        }
        return Call(self.app, scope, raw)

    async def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        return await self.start(method, path, body, headers).done()

    def start_chat(self, text: str = "hello", *, headers: Mapping[str, str] | None = None, **fields: Any) -> Call:
        return self.start("POST", "/v1/chat/completions", chat_body(text, **fields), headers)

    async def chat(self, text: str = "hello", *, headers: Mapping[str, str] | None = None, **fields: Any) -> Response:
        return await self.start_chat(text, headers=headers, **fields).done()


def chat_body(text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}
