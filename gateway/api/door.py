"""The outer door, before any route: request id, who may come in, CORS, compression, errors nobody else answered."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from hmac import compare_digest
from typing import Any
from urllib.parse import urlsplit

from gateway.access.keys import KeyInfo, KeyRing
from gateway.access.wrong_keys import WrongKeys
from gateway.api import cors
from gateway.api.asgi import App, RawHeaders, Receive, Scope, Send, error_headers, send_as_one, send_whole
from gateway.api.envelopes import envelope_of
from gateway.api.gzip import Gzip, accepts_gzip
from gateway.api.paths import canonical
from gateway.api.proxies import FORWARDED, Proxies
from gateway.api.unexpected import unexpected
from gateway.errors import BackendUnavailable, Forbidden, GatewayError, InvalidRequest, Unauthorized
from gateway.live import Edge, Live
from gateway.telemetry.logs import REQUEST
from gateway.telemetry.sampling import Sampling
from gateway.trace import new_id
from gateway.transport import is_loopback

METRICS = "/metrics"
OPERATIONS = frozenset({"/healthz", "/readyz", METRICS})
OPEN_PATHS = OPERATIONS | {"/"}  # all others ask for a key
MAX_REQUEST_ID = 128
HIDDEN = ("authorization", "x-api-key", "api-key", "cookie", "proxy-authorization")  # from rules and traces
LISTS = frozenset(
    {
        "x-forwarded-for",
        "forwarded",
        "accept-encoding",
        "anthropic-beta",
        "openai-beta",
        "connection",
        "traceparent",  # of which there is one: several are none
        "tracestate",
    }
)
ONCE = frozenset({"host", "content-encoding", "origin"})
NOT_OF_A_HOST = frozenset("@/?#\\")
COME_BACK = {"retry-after": "5", "connection": "close"}


@dataclass(frozen=True)
class Front:
    """What the command line says of what is in front: the path under which the gateway is reached, and proxies that
    are trusted beside those of models.yaml."""

    root_path: str = ""
    trusted_proxies: tuple[str, ...] = ()


class Door:
    """Pure ASGI. `open_to_all`: the operator said `--insecure`, so hosts and origins are not looked at."""

    def __init__(
        self,
        inner: App,
        keys: KeyRing,
        live: Live,
        sampling: Sampling,
        *,
        open_to_all: bool = False,
        front: Front | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner, self._keys, self._live, self._open_to_all = inner, keys, live, open_to_all
        self._sampling = sampling
        self._front = front or Front()
        self._prefix = self._front.root_path.strip("/")
        self._wrong_keys = WrongKeys(clock)
        self._suit(live.edge)

    def _suit(self, edge: Edge) -> None:
        self._edge = edge
        self._origins = cors.Origins(edge.cors_origins)
        self._proxies = Proxies((*edge.trusted_proxies, *self._front.trusted_proxies))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        own_id = new_id()
        request_id = _sane(headers.get("x-request-id")) or own_id
        REQUEST.set((request_id, own_id))
        extra: RawHeaders = [(b"x-request-id", request_id.encode("latin-1"))]
        scope["path"], model = canonical(scope["path"], self._prefix)
        if scope["path"].startswith("/v1/messages"):
            extra.append((b"request-id", extra[0][1]))  # where Anthropic's SDKs look for it
        out = _Outgoing(send, extra)
        try:
            if len(headers) != len(scope["headers"]):
                _merge(headers, scope["headers"])
            self._admit(scope, headers, extra)
            if cors.is_preflight(scope["method"], headers):
                extra += cors.told_before(headers)
                await out({"type": "http.response.start", "status": 204})
                await out({"type": "http.response.body"})
                return
            if self._live.is_draining and scope["path"] not in OPERATIONS:
                raise BackendUnavailable("the server is stopping", headers=COME_BACK)
            key = self._check_key(scope, headers)
            for name in HIDDEN:
                headers.pop(name, None)
            context = self._sampling.begin(headers, own_id)
            caller = {
                "headers": headers,
                "key": key.name if key else None,
                "id": own_id,
                "model": model,
                "context": context,
            }
            scope["gateway"] = caller | {"info": key, "told": extra, "is_open_to_all": self._open_to_all}
            is_packed = "accept-encoding" in headers and accepts_gzip(headers["accept-encoding"])
            await self._inner(scope, receive, Gzip(out) if is_packed else out)
        except GatewayError as error:
            await send_whole(out, error.status, error_headers(error), envelope_of(scope["path"])(error))
        except Exception as exc:
            told = unexpected(exc, request_id)
            if out.is_finished:
                return
            if out.is_started:
                raise  # the server cuts the connection: the client must not take this for an end
            await send_whole(out, told.status, error_headers(told), envelope_of(scope["path"])(told))

    def _admit(self, scope: Scope, headers: dict[str, str], extra: RawHeaders) -> None:
        """Who asks, from where? Adds what a browser is to be told to `extra`. Raises: Forbidden.

        Without keys only this machine may ask: a page in a browser here, or a name rebound to loopback, may not.
        """
        if self._live.edge is not self._edge:
            self._suit(self._live.edge)
        is_guarded = self._keys.is_open and not self._open_to_all
        is_forwarded = not FORWARDED.isdisjoint(headers)
        if is_forwarded and self._proxies.trust(_peer(scope)):
            self._proxies.note(scope, headers)
            if is_guarded and not is_loopback(_peer(scope)):
                raise Forbidden("without API keys only this machine is served; make one with `gateway keys create`")
        elif is_forwarded and is_guarded:
            raise Forbidden("a reverse proxy lets others in, so API keys are needed: `gateway keys create`")
        host = headers.get("host", "")
        if is_guarded and host and not _is_loopback_host(host):
            raise Forbidden("without API keys only loopback hosts are served; make one with `gateway keys create`")
        origin = headers.get("origin")
        if origin is None:
            return
        if self._origins.allow(origin, keys_are_asked=not is_guarded):
            extra += cors.told(origin)
        elif is_guarded:
            raise Forbidden(
                "without API keys only origins of this machine are served; make one with `gateway keys create`, "
                "or name the origin in cors_origins"
            )

    def _check_key(self, scope: Scope, headers: dict[str, str]) -> KeyInfo | None:
        """The caller's key; None where the server is open. Raises: Unauthorized, RateLimited."""
        path, metrics_key = scope["path"], self._edge.metrics_key
        is_for_metrics = metrics_key is not None and path == METRICS
        if not is_for_metrics and (self._keys.is_open or path in OPEN_PATHS):
            return None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        presented = token.strip() if scheme.lower() == "bearer" else ""
        presented = presented or headers.get("x-api-key") or headers.get("api-key") or ""
        if not presented:
            raise Unauthorized("an API key is needed: Authorization: Bearer …")
        info = self._keys.check(presented)
        if is_for_metrics:
            if compare_digest(presented.encode(), str(metrics_key).encode()):
                return None
            info = info if info is not None and info.is_admin else None
        if info is None:
            raise self._wrong_keys.refusal(presented, _peer(scope))
        return info


class _Outgoing:
    """Stands before one reply's `send`: with the headers that every reply has."""

    __slots__ = ("_began", "_extra", "_send", "is_finished", "is_started")

    def __init__(self, send: Send, extra: RawHeaders) -> None:
        self._send, self._extra, self._began = send, extra, time.monotonic()
        self.is_started = self.is_finished = False

    def __call__(self, message: MutableMapping[str, Any]) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.is_started = True
            message["headers"] = self._with_ours(message.get("headers", ()))
        elif not message.get("more_body"):
            self.is_finished = True
        return self._send(message)

    def whole(self, status: int, headers: RawHeaders, body: bytes) -> Awaitable[None]:
        self.is_started = self.is_finished = True
        return send_as_one(self._send, status, self._with_ours(headers), body)

    def _with_ours(self, headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
        took = (b"openai-processing-ms", b"%d" % ((time.monotonic() - self._began) * 1000))
        return [*headers, *self._extra, took]


def _merge(headers: dict[str, str], raw: RawHeaders) -> None:
    """Some come more than once. Raises: InvalidRequest where that may be a trick."""
    for wanted in LISTS & headers.keys():
        headers[wanted] = ", ".join(v.decode("latin-1") for n, v in raw if n.decode("latin-1") == wanted)
    for wanted in ONCE & headers.keys():
        if sum(name == wanted.encode() for name, _ in raw) > 1:
            raise InvalidRequest(f"the header '{wanted}' comes more than once")


def _peer(scope: Scope) -> str | None:
    """An address; None by a Unix socket."""
    return scope["client"][0] if scope.get("client") else None


def _sane(request_id: str | None) -> str | None:
    is_sane = request_id and len(request_id) <= MAX_REQUEST_ID and request_id.isascii() and request_id.isprintable()
    return request_id if is_sane else None


@lru_cache(maxsize=1024)
def _is_loopback_host(host: str) -> bool:
    if not NOT_OF_A_HOST.isdisjoint(host):
        return False
    try:
        return is_loopback(urlsplit(f"//{host}").hostname)
    except ValueError:
        return False
