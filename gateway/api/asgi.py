"""ASGI's types, and a reply that is not streamed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from gateway.errors import BackendError, GatewayError, UpstreamRefused

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = list[tuple[bytes, bytes]]


def error_headers(error: GatewayError) -> RawHeaders:
    headers = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in error.headers.items()]
    is_ours = isinstance(error, BackendError) and not isinstance(error, UpstreamRefused)
    if error.status in (429, 503) and not isinstance(error, UpstreamRefused) and "retry-after" not in error.headers:
        headers.append((b"retry-after", b"1"))
    if is_ours and error.status >= 500:  # SDKs know what to make of an upstream's own
        headers.append((b"x-should-retry", b"true" if error.retryable else b"false"))
    return headers


async def send_whole(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    """A body is JSON; `headers` may be added to. One call where what stands behind `send` takes that."""
    headers.append((b"content-length", b"%d" % len(body)))
    if body:
        headers.append((b"content-type", b"application/json"))
    await send_as_one(send, status, headers, body)


async def send_as_one(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    """An answer that is there, its length among the headers."""
    whole = getattr(send, "whole", None)
    if whole is not None:
        await whole(status, headers, body)
        return
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
