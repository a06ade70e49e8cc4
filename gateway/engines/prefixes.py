"""Conversations go to the slot that holds them, and what slots hold is kept over a swap: stored before a server goes,
put back before the next turn is sent.

Only llama.cpp's server does that. What it writes holds what users have said, so it is off unless `prefix_cache_mb` is
set. Whatever goes wrong here costs no more than reading a prompt again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from gateway.engines import Lease
from gateway.engines import stored_prefixes as stored
from gateway.engines.slots import Slot, SlotTable
from gateway.engines.wishes import Wish
from gateway.transport import ConnectFailed, ConnectionCut, HttpClient, ReplyTooLarge

log = logging.getLogger(__name__)

ONE_S = 5.0  # for one slot to be stored, or put back
UNLOAD_S = 10.0  # for all slots of a server that goes
CLOSE_S = 2.0  # for all of them, when the gateway stops
CONNECT_S = 1.0
SWEEP_EVERY_S = 3600.0
MAX_REPLY_BYTES = 64 * 1024
MB = 10**6


class NotDone(Exception):
    """Why something could not be stored or put back, in words for the log."""


class Prefixes:
    """Args: `root` is the folder of all of them, `client` asks the servers."""

    def __init__(self, root: Path, client: HttpClient) -> None:
        self.root = root
        self._client = client
        self._limit_bytes = 0
        self._unload_s = UNLOAD_S
        self._timers: set[asyncio.Timeout] = set()
        self._told: set[tuple[str, str]] = set()  # (model, action) whose trouble is known
        self._wakes = asyncio.Event()

    def limit(self, size_mb: float) -> None:
        """From now on; 0: nothing is stored, and what is there goes."""
        self._limit_bytes = int(size_mb * MB)
        self._wakes.set()

    async def sweep(self) -> None:
        """Remove what is too old or too much, now and then. Until cancelled."""
        while True:
            self._wakes.clear()
            await asyncio.to_thread(stored.trim, self.root, self._limit_bytes, time.time())
            try:
                async with asyncio.timeout(SWEEP_EVERY_S):
                    await self._wakes.wait()
            except TimeoutError:
                pass

    def hurry(self) -> None:
        """The gateway stops: what is not stored soon is not stored at all."""
        self._unload_s = CLOSE_S
        due = asyncio.get_running_loop().time() + CLOSE_S
        for timer in self._timers:
            timer.reschedule(min(due, timer.when() or due))

    async def put_back(self, table: SlotTable, slot: Slot, lease: Lease, wish: Wish) -> None:
        """Into a slot that the caller has taken, where the conversation is stored and has not gone on since."""
        conversation, folder = wish.conversation, table.folder
        if not self._limit_bytes or folder is None or conversation is None or table.is_ahead(conversation):
            return
        started = time.monotonic()
        try:
            async with asyncio.timeout(ONE_S):
                found = await asyncio.to_thread(stored.find, folder, conversation)
                if found is None:
                    return
                await self._spare(table, slot, lease)
                table.empty(slot)
                tokens = await self._act(lease, slot, "restore", found.path.name)
        except (NotDone, TimeoutError) as exc:
            self._tell(lease.id, "restore", exc)
            return
        table.begin(slot, conversation, tokens)
        wish.restored_tokens, wish.restored_ms = tokens, (time.monotonic() - started) * 1e3
        log.info("model %s: %d tokens of a conversation restored in %.0f ms", lease.id, tokens, wish.restored_ms)

    async def _spare(self, table: SlotTable, slot: Slot, lease: Lease) -> None:
        """What is put into a slot takes the place of what is there, which the server does not even keep in its own
        memory of past prompts."""
        if table.is_worth_storing(slot):
            try:
                await self._store(table, slot, lease)
            except NotDone as exc:
                self._tell(lease.id, "save", exc)

    async def store_all(self, table: SlotTable, lease: Lease) -> None:
        """What its slots hold, before its server goes."""
        slots = table.worth_storing()
        if not slots or not self._limit_bytes or table.folder is None:
            return
        started = time.monotonic()
        done: list[stored.Stored] = []
        try:
            async with asyncio.timeout(self._unload_s) as timer:
                self._timers.add(timer)
                try:
                    for slot in slots:
                        async with asyncio.timeout(ONE_S):
                            done.append(await self._store(table, slot, lease))
                finally:
                    self._timers.discard(timer)
        except (NotDone, TimeoutError) as exc:
            self._tell(lease.id, "save", exc)
        if done:
            tokens, took_ms = sum(each.tokens for each in done), (time.monotonic() - started) * 1e3
            log.info("model %s: %d tokens stored in %.0f ms, conversations: %d", lease.id, tokens, took_ms, len(done))

    async def _store(self, table: SlotTable, slot: Slot, lease: Lease) -> stored.Stored:
        """Raises: NotDone."""
        folder, conversation = table.folder, slot.conversation
        assert folder is not None and conversation is not None
        name = stored.unfinished_name(conversation)
        try:
            tokens = await self._act(lease, slot, "save", name)
            done = await asyncio.to_thread(stored.adopt, folder, name, conversation, tokens)
            await asyncio.to_thread(stored.trim, self.root, self._limit_bytes, time.time())
        except OSError as exc:
            raise NotDone(exc.strerror or type(exc).__name__) from exc
        finally:
            stored.remove(folder / name)
        table.note_stored(conversation)
        return done

    async def _act(self, lease: Lease, slot: Slot, action: str, name: str) -> int:
        """Ask the server to. Returns: how many tokens it was. Raises: NotDone."""
        url = f"{lease.url.removesuffix('/v1')}/slots/{slot.id}?action={action}"
        # the server closes idle connections without a word, so each is used once
        headers = {"authorization": f"Bearer {lease.key}", "content-type": "application/json", "connection": "close"}
        body, due = json.dumps({"filename": name}).encode(), time.monotonic() + ONE_S
        try:
            reply = await self._client.post(url, headers, body, connect_s=CONNECT_S, due=due)
            try:
                said = await reply.read(MAX_REPLY_BYTES, due)
            finally:
                reply.close()
        except (ConnectFailed, ConnectionCut, ReplyTooLarge) as exc:
            raise NotDone("its server does not answer") from exc
        if reply.status != 200:
            raise NotDone(f"its server refuses with {reply.status}")
        self._told.discard((lease.id, action))
        return _tokens(said)

    def _tell(self, model: str, action: str, exc: Exception) -> None:
        """Once, until it works again."""
        if (model, action) not in self._told:
            self._told.add((model, action))
            log.warning("model %s: %s of a conversation failed: %s", model, action, str(exc) or "it took too long")


@asynccontextmanager
async def seated(table: SlotTable, lease: Lease, wish: Wish, prefixes: Prefixes | None) -> AsyncIterator[Lease]:
    """The lease with a slot, which is the conversation's until the block is left."""
    slot = table.take(wish.conversation)
    if slot is None:
        yield lease
        return
    try:
        if wish.conversation is None:  # the server chooses
            table.empty(slot)
            yield lease
            return
        if slot.conversation != wish.conversation and prefixes is not None:
            await prefixes.put_back(table, slot, lease, wish)
        table.begin(slot, wish.conversation)
        yield replace(lease, slot=slot.id)
    finally:
        table.give_back(slot, wish.tokens)
        if wish.conversation is None:
            table.doubt()


def _tokens(said: bytes) -> int:
    """Raises: NotDone."""
    try:
        told = json.loads(said)
    except (ValueError, RecursionError):
        told = None
    tokens = (told.get("n_saved") or told.get("n_restored")) if isinstance(told, dict) else None
    if not isinstance(tokens, int):
        raise NotDone("its server does not say how many tokens it was")
    return tokens
