"""Texts as vectors, each once: what was asked for lately is remembered."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence

from gateway.embedding import Embedder, EmbeddingRequest, as_bytes
from gateway.errors import GatewayError
from gateway.tasks import ended
from gateway.trace import Trace

log = logging.getLogger(__name__)
REMEMBERED = 4096  # vectors, 1.5 KB each
LOOKED_AT_CHARS = 2000  # of a question: what comes after is seldom what it is about
PATIENCE_S = 2.0  # that a request waits for its vector


class Embeddings:
    """float32, little-endian, of unit length. The work is done by the embedder, off the event loop."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: OrderedDict[str, bytes] = OrderedDict()
        self._coming: dict[str, asyncio.Task[bytes]] = {}

    async def of(self, text: str) -> bytes | None:
        """Of a request's text; None where it cannot be had in good time."""
        text = text[:LOOKED_AT_CHARS]
        known = self._known.get(text)
        if known is not None:
            self._known.move_to_end(text)
            return known
        task = self._coming.get(text)
        if task is None:
            task = self._coming[text] = asyncio.create_task(self._make(text))
            task.add_done_callback(lambda done: self._came(text, done))
        done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
        return task.result() if done and task.exception() is None else None

    async def of_all(self, texts: Sequence[str]) -> list[bytes]:
        """Of many; they are not remembered. Raises: GatewayError."""
        trace = Trace("embedding", "remembered")
        request = EmbeddingRequest(tuple(text[:LOOKED_AT_CHARS] or " " for text in texts))
        embedded = await self._embedder.embed(request, trace)
        return [as_bytes(vector) for vector in embedded.vectors]

    async def of_known(self, texts: Sequence[str]) -> list[bytes]:
        """Of many, of which some may be remembered. Raises: GatewayError."""
        cut = [text[:LOOKED_AT_CHARS] for text in texts]
        missing = list(dict.fromkeys(text for text in cut if text not in self._known))
        made = dict(zip(missing, await self.of_all(missing), strict=True)) if missing else {}
        found = [made.get(text) or self._known[text] for text in cut]
        for text, vector in made.items():
            self._remember(text, vector)
        return found

    async def close(self) -> None:
        await ended(self._coming.values())

    async def _make(self, text: str) -> bytes:
        return (await self.of_all([text]))[0]

    def _came(self, text: str, task: asyncio.Task[bytes]) -> None:
        self._coming.pop(text, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._remember(text, task.result())
        elif isinstance(error, GatewayError):
            log.warning("no vectors for now: %s", error.message)
        else:
            log.error("a text could not be embedded", exc_info=error)

    def _remember(self, text: str, vector: bytes) -> None:
        self._known[text] = vector
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
