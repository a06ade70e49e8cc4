"""The HTTP client on aiohttp: one connection pool, proxies from the environment, no cookies, no redirects."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import cache

import aiohttp

from gateway.transport import (
    NEVER,
    ConnectFailed,
    ConnectionCut,
    ConnectTimeout,
    HttpReply,
    ReplyTooLarge,
    within,
)
from gateway.transport.environment import EnvironmentProxies

KEEP_ALIVE_S = 30.0
NOT_REACHED = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
)
LARGE_BODY_BYTES = 1024 * 1024  # sent piece by piece, for aiohttp would hold up the loop


@cache
def _timeout(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=None, sock_connect=connect_s)


class AiohttpReply:
    __slots__ = ("_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers  # looks names up in any case

    async def read(self, limit: int, due: float = NEVER) -> bytes:
        if (self._response.content_length or 0) > limit:
            raise ReplyTooLarge
        pieces: list[bytes] = []
        size = 0
        while piece := await self.read_some(due):
            size += len(piece)
            if size > limit:
                raise ReplyTooLarge
            pieces.append(piece)
        return b"".join(pieces)

    async def read_some(self, due: float = NEVER) -> bytes:
        try:
            async with within(due):
                return await self._response.content.readany()
        except (aiohttp.ClientError, ConnectionError, EOFError) as exc:
            raise ConnectionCut(type(exc).__name__) from exc

    def close(self) -> None:
        response = self._response
        if response.content.at_eof():
            response.release()
        else:
            response.close()


class AiohttpClient:
    """Opens its session on first use, because a session belongs to the event loop that made it."""

    def __init__(self, proxies: EnvironmentProxies | None = None) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._proxies = proxies or EnvironmentProxies()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
                read_bufsize=256 * 1024,
            )
        return self._session

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, connect_s: float, due: float = NEVER
    ) -> HttpReply:
        return await self._ask("POST", url, headers, body, connect_s, due)

    async def get(self, url: str, headers: Mapping[str, str], *, connect_s: float, due: float = NEVER) -> HttpReply:
        return await self._ask("GET", url, headers, None, connect_s, due)

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, connect_s: float, due: float
    ) -> HttpReply:
        try:
            async with within(due):
                response = await self._opened().request(
                    method,
                    url,
                    headers=headers,
                    data=body if body is None or len(body) < LARGE_BODY_BYTES else io.BytesIO(body),
                    allow_redirects=False,
                    proxy=self._proxies.find(url),
                    timeout=_timeout(connect_s),
                )
        except (aiohttp.ConnectionTimeoutError, aiohttp.ServerTimeoutError) as exc:
            raise ConnectTimeout from exc
        except NOT_REACHED as exc:
            raise ConnectFailed(type(exc).__name__) from exc
        except (aiohttp.ClientError, ConnectionError) as exc:
            raise ConnectionCut(type(exc).__name__) from exc
        except ValueError as exc:  # a host or header that cannot be written
            raise ConnectFailed(type(exc).__name__) from exc
        return AiohttpReply(response)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
