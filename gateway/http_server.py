"""uvicorn around the application, stopped in order by SIGINT and SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from gateway.api.access_log import AccessLog
from gateway.api.app import build_app, deferred_rest
from gateway.api.asgi import App
from gateway.api.deferred import Deferred
from gateway.api.door import Front
from gateway.http_protocol import HttpProtocol
from gateway.live import Live
from gateway.runtime import Runtime

log = logging.getLogger(__name__)
LOOK_EVERY = 5  # ticks of 0.1 s
LAST_WORDS_S = 2.0  # for streams that are ended to say so
Linger = Callable[[], Awaitable[None]]


async def _no_longer() -> None:
    """There is nobody to wait for."""


class Server(uvicorn.Server):
    """Stops on SIGINT and SIGTERM and then returns, so that engines and journal are closed in order.

    The first signal lets open requests finish, for `grace_s` at most; it goes on listening meanwhile, to tell others
    to come back (503). The second ends everything at once.
    """

    def __init__(self, config: uvicorn.Config, live: Live, rest: Deferred, grace_s: float, linger: Linger) -> None:
        super().__init__(config)
        self._live, self._rest, self._grace_s, self._linger = live, rest, grace_s, linger
        self._building: asyncio.Task[App] | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._building = asyncio.create_task(self._rest.built())  # it listens: now there is a moment

    async def on_tick(self, counter: int) -> bool:
        if counter % LOOK_EVERY == 0:
            self._look()
        return await super().on_tick(counter)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in tuple(self.server_state.connections):
            assert isinstance(connection, HttpProtocol)
            connection.look(now)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._live.is_draining = True
        tasks = self.server_state.tasks
        for connection in tuple(self.server_state.connections):
            connection.shutdown()
        if tasks:
            log.info("stopping: %d open requests have %g s to finish", len(tasks), self._grace_s)
            await self._drain(asyncio.get_running_loop().time() + self._grace_s)
        if tasks:
            log.warning("stopping: %d open requests are ended", len(tasks))
            await self._end(tuple(tasks))
        await self._linger()
        await super().shutdown(sockets)

    async def _drain(self, until: float) -> None:
        tick = 0
        while self.server_state.tasks and not self.force_exit and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.1)
            await self.on_tick(tick := tick + 1)

    async def _end(self, tasks: tuple[asyncio.Task[None], ...]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=LAST_WORDS_S)


def http_server(
    live: Live,
    runtime: Runtime,
    *,
    grace_s: float,
    open_to_all: bool,
    front: Front | None = None,
    logs_access: bool = False,
    linger: Linger | None = None,
) -> Server:
    """A server for sockets that are bound already. `grace_s`: how long open streams may go on when it is to stop;
    `linger`: awaited when they have ended, before it stops to listen."""
    rest = deferred_rest(live, runtime)
    app = build_app(live, runtime, rest=rest, open_to_all=open_to_all, front=front)
    app = AccessLog(app) if logs_access else app
    config = uvicorn.Config(
        app,
        loop="none",
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(LAST_WORDS_S),  # what is left by then are clients that do not read
    )
    return Server(config, live, rest, grace_s, linger or _no_longer)
