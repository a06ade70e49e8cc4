"""A whole gateway in this process, whose upstreams answer with whatever bytes they are given."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.api.app import build_app
from gateway.config.build import build
from gateway.config.files import read_config
from gateway.live import Live
from gateway.runtime import Runtime
from gateway.transport import NEVER, ConnectFailed, HttpReply

MODELS = """
models:
  chat: {engine: openai, base_url: "http://upstream.test/v1", model: m, retries: 0}
  messages: {engine: openai, base_url: "http://upstream.test/v1", model: m, speaks: messages, retries: 0}
  responses: {engine: openai, base_url: "http://upstream.test/v1", model: m, speaks: responses, retries: 0}
  llama: {engine: openai, base_url: "http://upstream.test/v1", model: m, provider: llama-server, retries: 0}
"""
POLICY = """
policy: default
serves: [auto]
routes:
  - {name: small, when: {all: [{input_tokens: {below: 20}}, {turns: {below: 9}}]}, answer: {model: chat}}
  - {name: code, when: {has: [code, image, tools]}, answer: {model: messages}}
  - name: rest
    answer: {cascade: [{model: chat, checks: [not_empty, not_refusal, no_loop, finish_reason]}, {model: responses}]}
"""
CANNED = b'{"choices":[{"index":0,"message":{"content":"hello"},"finish_reason":"stop"}]}'
PIECES = 3  # that a reply comes in


class Bytes:
    """An `HttpReply` of these bytes."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers = status, headers
        size = len(body) // PIECES + 1
        self._pieces = [body[at : at + size] for at in range(0, len(body), size)]

    async def read(self, limit: int, due: float = NEVER) -> bytes:
        return b"".join(self._pieces)

    async def read_some(self, due: float = NEVER) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None:
        pass


class Upstream:
    """An `HttpClient` whose every reply is `reply`."""

    def __init__(self) -> None:
        self.reply: tuple[int, dict[str, str], bytes] = (200, {}, CANNED)

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, connect_s: float, due: float = NEVER
    ) -> HttpReply:
        return Bytes(*self.reply)

    async def get(self, url: str, headers: Mapping[str, str], *, connect_s: float, due: float = NEVER) -> HttpReply:
        raise ConnectFailed("there is nothing to get")

    async def close(self) -> None:
        pass


class Complaints(logging.Handler):
    """Errors with a stack trace are ours: nothing that comes from outside may raise one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.raised: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.raised = record.exc_info[1]


class Served:
    """Made when it is first needed; `close` at the end."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.upstream = Upstream()
        self._folder = tempfile.TemporaryDirectory()
        self._complaints = Complaints()
        logging.getLogger("gateway").addHandler(self._complaints)
        folder = Path(self._folder.name)
        (folder / "policies").mkdir()
        (folder / "models.yaml").write_text(MODELS)
        (folder / "policies" / "default.yaml").write_text(POLICY)
        self._runtime = Runtime(folder / "home")
        self._runtime.client = self.upstream
        self._config = read_config(folder / "models.yaml", folder / "policies")
        self.loop.run_until_complete(self._start())

    async def _start(self) -> None:
        gateway = build(self._config, self._runtime)
        await self._runtime.start()
        self._app = build_app(Live(gateway, self._runtime.pool), self._runtime)

    def close(self) -> None:
        logging.getLogger("gateway").removeHandler(self._complaints)
        self.loop.run_until_complete(self._runtime.close())
        self.loop.close()
        self._folder.cleanup()

    def ask(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """Status and body of the answer. Raises: what the gateway had to log with a stack trace."""
        said = self.loop.run_until_complete(asyncio.wait_for(self._ask(path, body, headers or {}), 20))
        if (raised := self._complaints.raised) is not None:
            self._complaints.raised = None
            raise raised
        return said

    async def _ask(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        sent: list[Any] = []
        left = asyncio.Event()
        incoming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        raw = [(name.encode(), value.encode("latin-1")) for name, value in {"host": "localhost", **headers}.items()]
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": raw}
        scope |= {"client": ("127.0.0.1", 1), "scheme": "http", "http_version": "1.1", "root_path": ""}
        with suppress(asyncio.CancelledError):
            await self._app(scope, receive, send)
        assert sent, "no answer at all"
        assert not sent[-1].get("more_body"), "an answer without an end"
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
