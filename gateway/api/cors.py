"""Which pages in a browser may ask, and what the browser is told about it. Cookies play no part, so credentials are
never allowed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from gateway.api.asgi import RawHeaders
from gateway.transport import is_loopback

APP_SCHEMES = frozenset({"app", "tauri", "vscode-file", "vscode-webview"})
"""Of programs installed here, such as `app://obsidian.md`; no page of the web can have such an origin."""
MAX_AGE_S = 7200  # browsers keep a preflight no longer
EXPOSED = (
    b"x-request-id, request-id, x-gateway-trace, x-gateway-policy, x-gateway-route, x-gateway-model, x-gateway-path, "
    b"x-gateway-shards, x-gateway-dropped, x-gateway-quality, x-gateway-cache, x-gateway-cost-usd, "
    b"openai-processing-ms, retry-after, retry-after-ms, x-should-retry"
)
ASKED = (
    "authorization, content-type, accept, x-api-key, api-key, x-request-id, openai-organization, openai-project, "
    "openai-beta, anthropic-version, anthropic-beta, anthropic-dangerous-direct-browser-access, "
    "x-stainless-arch, x-stainless-helper-method, x-stainless-lang, x-stainless-os, x-stainless-package-version, "
    "x-stainless-retry-count, x-stainless-runtime, x-stainless-runtime-version, x-stainless-timeout, "
    "x-gateway-policy, x-gateway-session, x-gateway-max-cost-usd, x-gateway-deadline-s, x-gateway-no-shards"
)
"""Told to a preflight that does not say which headers it wants; else all that it names are allowed."""


class Origins:
    """Those that may ask. `patterns`: origins, where `*` stands for anything within one; None: any once keys are asked
    for, else only those of this machine."""

    def __init__(self, patterns: Sequence[str] | None) -> None:
        self._pattern = None if patterns is None else re.compile("|".join(map(_regex, patterns)) or r"(?!)")

    def allow(self, origin: str, *, keys_are_asked: bool) -> bool:
        if not origin.isascii() or not origin.isprintable():
            return False
        if self._pattern is not None:
            return self._pattern.fullmatch(origin.lower()) is not None
        return keys_are_asked or is_local(origin)


def _regex(pattern: str) -> str:
    if pattern == "*":
        return ".*"
    return r"[^/@]*".join(map(re.escape, pattern.lower().rstrip("/").split("*")))


@lru_cache(maxsize=1024)
def is_local(origin: str) -> bool:
    """Is it a page served by this machine, or a program installed on it?"""
    try:
        parts = urlsplit(origin)
        host = parts.hostname or ""
    except ValueError:
        return False
    return parts.scheme in APP_SCHEMES or is_loopback(host) or host.endswith(".localhost")


def told(origin: str) -> RawHeaders:
    """On every answer to an origin that may ask."""
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED),
        (b"vary", b"Origin"),
    ]


def told_before(headers: Mapping[str, str]) -> RawHeaders:
    """What a preflight is told, beside `told`."""
    wanted = headers.get("access-control-request-headers", "")
    if not wanted.isascii() or not wanted.isprintable():
        wanted = ""
    out: RawHeaders = [
        (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        (b"access-control-allow-headers", (wanted or ASKED).encode()),
        (b"access-control-max-age", b"%d" % MAX_AGE_S),
        (b"vary", b"Access-Control-Request-Method, Access-Control-Request-Headers"),
    ]
    if headers.get("access-control-request-private-network") == "true":
        out.append((b"access-control-allow-private-network", b"true"))
    return out


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    return method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers
