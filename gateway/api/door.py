"""The outer door, before any route: request id, who may come in, CORS, errors that nobody else answered."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from gateway.access.keys import KeyRing
from gateway.api.asgi import App, RawHeaders, Receive, Scope, Send, error_headers, send_whole
from gateway.api.envelopes import envelope_of
from gateway.api.paths import canonical
from gateway.errors import Forbidden, GatewayError, Unauthorized
from gateway.trace import new_id

log = logging.getLogger(__name__)

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
FORWARDED = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip"})
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})  # all others ask for a key
MAX_REQUEST_ID = 128
HIDDEN = ("authorization", "x-api-key", "api-key", "cookie", "proxy-authorization")  # from rules and traces
EXPOSED = (
    b"x-request-id, x-gateway-trace, x-gateway-policy, x-gateway-route, x-gateway-model, x-gateway-path, "
    b"x-gateway-cost-usd"
)


class Door:
    """Pure ASGI. `open_to_all`: the operator said `--insecure`, so hosts and origins are not looked at."""

    def __init__(self, inner: App, keys: KeyRing, *, open_to_all: bool = False) -> None:
        self._inner, self._keys, self._open_to_all = inner, keys, open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        own_id = new_id()
        request_id = _sane(headers.get("x-request-id")) or own_id
        extra: RawHeaders = [(b"x-request-id", request_id.encode("latin-1"))]
        scope["path"], model = canonical(scope["path"])
        is_started = is_finished = False

        async def send_with(message: MutableMapping[str, Any]) -> None:
            nonlocal is_started, is_finished
            if message["type"] == "http.response.start":
                is_started = True
                message["headers"] = [*message.get("headers", ()), *extra]
            elif not message.get("more_body"):
                is_finished = True
            await send(message)

        try:
            origin = headers.get("origin")
            if origin is not None:
                extra += _cors(origin)
            self._check_place(headers)
            if scope["method"] == "OPTIONS" and origin is not None and "access-control-request-method" in headers:
                extra += _preflight(headers)
                await send_whole(send_with, 204, [], b"")
                return
            key = self._check_key(scope["path"], headers)
            for name in HIDDEN:
                headers.pop(name, None)
            scope["gateway"] = {"headers": headers, "key": key, "id": own_id, "model": model}
            await self._inner(scope, receive, send_with)
        except GatewayError as error:
            await send_whole(send_with, error.status, error_headers(error), envelope_of(scope["path"])(error))
        except Exception:
            log.exception("request %s failed", request_id)
            if is_finished:
                return
            if is_started:
                raise  # the server cuts the connection: the client must not take this for an end
            await send_whole(send_with, 500, [], envelope_of(scope["path"])(GatewayError("internal error")))

    def _check_place(self, headers: dict[str, str]) -> None:
        """Without keys only this machine may ask: a page in a browser here, or a name rebound to loopback, may not."""
        if not self._keys.is_open or self._open_to_all:
            return
        if not FORWARDED.isdisjoint(headers):
            raise Forbidden("a reverse proxy lets others in, so API keys are needed: `gateway keys create`")
        host = headers.get("host", "")
        if host and _hostname(f"//{host}") not in LOOPBACK:
            raise Forbidden("without API keys only loopback hosts are served; make one with `gateway keys create`")
        origin = headers.get("origin")
        if origin is not None and _hostname(origin) not in LOOPBACK:
            raise Forbidden("without API keys only loopback origins are served; make one with `gateway keys create`")

    def _check_key(self, path: str, headers: dict[str, str]) -> str | None:
        """Name of the caller's key; None where the server is open. Raises: Unauthorized."""
        if self._keys.is_open or path in OPEN_PATHS:
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        presented = token.strip() if scheme.lower() == "bearer" else ""
        presented = presented or headers.get("x-api-key") or headers.get("api-key") or ""
        info = self._keys.check(presented) if presented else None
        if info is None:
            raise Unauthorized(
                "the API key is wrong or revoked" if presented else "an API key is needed: Authorization: Bearer …"
            )
        return info.name


def _sane(request_id: str | None) -> str | None:
    is_sane = request_id and len(request_id) <= MAX_REQUEST_ID and request_id.isascii() and request_id.isprintable()
    return request_id if is_sane else None


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _cors(origin: str) -> RawHeaders:
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED),
        (b"vary", b"Origin"),
    ]


def _preflight(headers: dict[str, str]) -> RawHeaders:
    wanted = headers.get("access-control-request-headers", "authorization, content-type")
    return [
        (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
        (b"access-control-allow-headers", wanted.encode("latin-1")),
        (b"access-control-max-age", b"600"),
    ]
