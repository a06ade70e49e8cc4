"""A script in the place of a leaf's HTTP client. `scripted_server.py` puts one behind a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

import orjson

from gateway.backends.script import Cut, Head, Script, Send, Step, Wait
from gateway.transport import NEVER, ConnectFailed, ConnectionCut, HttpReply, within


class ScriptedReplyReader:
    """An `HttpReply` that a script plays."""

    def __init__(self, head: Head, steps: Iterator[Step]) -> None:
        self.status = head.status
        self.headers: Mapping[str, str] = head.headers
        self._steps = steps

    async def read(self, limit: int, due: float = NEVER) -> bytes:
        pieces = []
        while piece := await self.read_some(due):
            pieces.append(piece)
        return b"".join(pieces)

    async def read_some(self, due: float = NEVER) -> bytes:
        async with within(due):
            for step in self._steps:
                if isinstance(step, Send):
                    return step.data
                await _wait_or_cut(step)
        return b""

    def close(self) -> None:
        pass


async def _wait_or_cut(step: Step) -> None:
    if isinstance(step, Cut):
        raise ConnectionCut("scripted")
    if isinstance(step, Wait):
        await asyncio.sleep(step.seconds)


class ScriptedClient:
    """An `HttpClient` with a script at its other end: the real leaf runs, no socket is opened."""

    def __init__(self, script: Script) -> None:
        self.script = script

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, connect_s: float, due: float = NEVER
    ) -> HttpReply:
        steps = self.script.play(orjson.loads(body))
        async with within(due):
            for step in steps:
                if isinstance(step, Head):
                    return ScriptedReplyReader(step, steps)
                await _wait_or_cut(step)
        raise ConnectionCut("the script ended before its reply began")

    async def get(self, url: str, headers: Mapping[str, str], *, connect_s: float, due: float = NEVER) -> HttpReply:
        raise ConnectFailed("a script answers chats only")

    async def close(self) -> None:
        pass
