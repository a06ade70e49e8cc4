"""Questions to one server: short, bounded, and answered with JSON or not at all."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.errors import STOPPING
from gateway.probe.found import ProbeFailed
from gateway.providers import Provider
from gateway.transport import ConnectFailed, ConnectionCut, ConnectTimeout, HttpClient, ReplyTooLarge

Json = dict[str, Any]
MAX_BYTES = 8 << 20  # OpenRouter's list is above 1 MiB
MAX_MODELS = 4000
MAX_TOKENS = 1 << 31
CONNECT_S = 5.0  # the one who asks sets a shorter limit


class Ask:
    """Args: `base` is where `/chat/completions` hangs; `model`: the only one that is of interest."""

    def __init__(
        self, client: HttpClient, base: str, provider: Provider, key: str | None = None, model: str | None = None
    ) -> None:
        self.base, self.root = base, base.removesuffix("/v1")
        self.provider, self.model = provider, model
        self._client, self._key = client, key
        self._why = "lists no models"

    async def get(self, path: str) -> object:
        """What it says there, below its root; None where that is not JSON with status 200. Raises: ProbeFailed."""
        return await self._ask(f"{self.root}{path}", None)

    async def post(self, path: str, body: Json) -> object:
        return await self._ask(f"{self.root}{path}", orjson.dumps(body))

    async def listed(self) -> list[Json] | None:
        """The entries of its OpenAI list; None where it has none, and then `no_list` says why."""
        said = await self._ask(f"{self.base}/models", None)
        entries = said.get("data") if isinstance(said, dict) else said  # Together's is a bare list
        if not isinstance(entries, list):
            if said is not None:
                self._why = "answers with JSON that is no list of models"
            return None
        return [entry for entry in entries[:MAX_MODELS] if isinstance(entry, dict)]

    def no_list(self) -> ProbeFailed:
        return ProbeFailed(self._why)

    async def _ask(self, url: str, body: bytes | None) -> object:
        headers = {"accept": "application/json", "accept-encoding": "identity", "connection": "close"}
        if self._key:
            headers |= self.provider.headers(self._key)
        reply = None
        try:
            if body is None:
                reply = await self._client.get(url, headers, connect_s=CONNECT_S)
            else:
                headers["content-type"] = "application/json"
                reply = await self._client.post(url, headers, body, connect_s=CONNECT_S)
            status = reply.status
            said = await reply.read(MAX_BYTES) if status in (200, 503) else b""
        except ConnectTimeout:
            raise ProbeFailed("does not take connections") from None
        except ConnectFailed:
            raise ProbeFailed("cannot be reached") from None
        except ConnectionCut:
            raise ProbeFailed("breaks the connection off, or does not speak HTTP") from None
        except ReplyTooLarge:
            raise ProbeFailed(f"answers with more than {MAX_BYTES >> 20} MiB") from None
        finally:
            if reply is not None:
                reply.close()
        if status in (401, 403):
            raise ProbeFailed("refuses the key" if self._key else "wants a key")
        if status == 503 and _is_stopping(said):
            raise ProbeFailed("is being stopped")
        if 300 <= status < 400:
            raise ProbeFailed(f"redirects (HTTP {status}): use the address that it points to")
        return self._read(status, said)

    def _read(self, status: int, said: bytes) -> object:
        if status != 200:
            self._why = f"lists no models (HTTP {status})"
            return None
        try:
            return orjson.loads(said)
        except orjson.JSONDecodeError:
            is_page = said.lstrip()[:1] == b"<"
            self._why = f"answers with {'a web page' if is_page else 'something'} that is no list of models"
            return None


def _is_stopping(said: bytes) -> bool:
    """So says another gateway to whatever is asked while its open requests end."""
    try:
        return inner(orjson.loads(said), "error", "message") == STOPPING
    except orjson.JSONDecodeError:
        return False


def tokens(value: object) -> int | None:
    """A number of tokens; None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < MAX_TOKENS else None


def first_tokens(*values: object) -> int | None:
    return next((found for value in values if (found := tokens(value)) is not None), None)


def name_of(value: object) -> str | None:
    """A model's id that can be sent and shown; None where it cannot."""
    return value if isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable() else None


def inner(value: object, *path: str) -> object:
    """What stands at a path of keys; None where there is nothing."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
