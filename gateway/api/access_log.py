"""A line of the log for each request, where somebody wants them."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, MutableMapping
from typing import Any

from gateway.api.asgi import App, RawHeaders, Receive, Scope, Send, send_as_one

log = logging.getLogger(__name__)


class AccessLog:
    """Stands around the whole application. Queries are left out, for they may hold what is nobody's business."""

    def __init__(self, inner: App) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        path, began, seen = scope["path"], time.monotonic(), _Seen(send)
        try:
            await self._inner(scope, receive, seen)
        finally:
            caller = scope.get("gateway") or {}
            fields = {
                "client": scope["client"][0] if scope.get("client") else "unix",
                "method": scope["method"],
                "path": path,
                "status": seen.status,
                "ms": round((time.monotonic() - began) * 1e3, 1),
                "bytes": seen.size,
                "key": caller.get("key"),
                "request_id": seen.request_id,
                "trace_id": caller.get("id"),
            }
            line = '%s "%s %s" %d %d bytes %.1f ms %s'
            shown = (fields["client"], fields["method"], path, seen.status, seen.size, fields["ms"], seen.request_id)
            log.info(line, *shown, extra={"fields": {k: v for k, v in fields.items() if v is not None}})


class _Seen:
    """`status` stays 0 where no answer began."""

    __slots__ = ("_send", "request_id", "size", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = self.size = 0
        self.request_id = ""

    def __call__(self, message: MutableMapping[str, Any]) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self._note(message["status"], message["headers"])
        else:
            self.size += len(message.get("body", b""))
        return self._send(message)

    def whole(self, status: int, headers: RawHeaders, body: bytes) -> Awaitable[None]:
        self._note(status, headers)
        self.size += len(body)
        return send_as_one(self._send, status, headers, body)

    def _note(self, status: int, headers: RawHeaders) -> None:
        self.status = status
        self.request_id = next((value.decode("latin-1") for name, value in headers if name == b"x-request-id"), "")
