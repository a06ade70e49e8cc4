"""How vLLM's server is sent to sleep and woken.

Level 1 moves the weights to main memory, level 2 throws them away and reads them again; both give the GPU's memory back
and forget the prefix cache. Source: vLLM's documentation, `features/sleep_mode`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from gateway.engines import Lease
from gateway.errors import EngineError
from gateway.transport import ConnectFailed, ConnectionCut, ConnectTimeout, HttpClient, ReplyTooLarge

CONNECT_S = 5.0
SLEEP_S, WAKE_S = 120.0, 600.0
MAX_REPLY_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class VllmNap:
    client: HttpClient
    level: int

    async def sleep(self, lease: Lease) -> None:
        await self._post(lease, f"/sleep?level={self.level}", SLEEP_S)

    async def wake(self, lease: Lease) -> None:
        if self.level == 1:
            await self._post(lease, "/wake_up", WAKE_S)
            return
        await self._post(lease, "/wake_up?tags=weights", WAKE_S)
        await self._post(lease, "/collective_rpc", WAKE_S, b'{"method":"reload_weights"}')
        await self._post(lease, "/wake_up?tags=kv_cache", WAKE_S)

    async def _post(self, lease: Lease, path: str, within_s: float, body: bytes = b"") -> None:
        """Raises: EngineError."""
        headers = {"authorization": f"Bearer {lease.key}", "content-type": "application/json"}
        url, due = lease.url.removesuffix("/v1") + path, time.monotonic() + within_s
        try:
            reply = await self.client.post(url, headers, body, connect_s=CONNECT_S, due=due)
            try:
                await reply.read(MAX_REPLY_BYTES, due)
            finally:
                reply.close()
        except (ConnectFailed, ConnectTimeout, ConnectionCut, ReplyTooLarge, TimeoutError) as exc:
            raise EngineError(f"it does not answer {path.partition('?')[0]}") from exc
        if reply.status != 200:
            raise EngineError(f"it answers {path.partition('?')[0]} with status {reply.status}")
