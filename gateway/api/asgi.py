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
    headers = [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in error.headers.items()
        if name.isascii() and value.isascii() and value.isprintable()
    ]  # an upstream may have written them
    is_ours = isinstance(error, BackendError) and not isinstance(error, UpstreamRefused)
    if error.status in (429, 503) and not isinstance(error, UpstreamRefused) and "retry-after" not in error.headers:
        headers.append((b"retry-after", b"1"))
    if is_ours and error.status >= 500:  # SDKs know what to make of an upstream's own
        headers.append((b"x-should-retry", b"true" if error.retryable else b"false"))
    return headers


def send_whole(send: Send, status: int, headers: RawHeaders, body: bytes) -> Awaitable[None]:
    """A body is JSON; `headers` may be added to."""
    headers.append((b"content-length", b"%d" % len(body)))
    if body:
        headers.append((b"content-type", b"application/json"))
    return send_as_one(send, status, headers, body)


def send_as_one(send: Send, status: int, headers: RawHeaders, body: bytes) -> Awaitable[None]:
    """An answer that is there, its length among the headers. One call where what stands behind `send` takes that: each
    layer hands on what the next one gives to await, for a coroutine of its own would cost more than what it does."""
    whole: Callable[[int, RawHeaders, bytes], Awaitable[None]] | None = getattr(send, "whole", None)
    return (whole or _in_two(send))(status, headers, body)


def _in_two(send: Send) -> Callable[[int, RawHeaders, bytes], Awaitable[None]]:
    async def whole(status: int, headers: RawHeaders, body: bytes) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    return whole
