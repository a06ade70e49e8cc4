"""uvicorn around the application, stopped in order by SIGINT and SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from gateway.api.app import build_app
from gateway.live import Live
from gateway.runtime import Runtime


class Server(uvicorn.Server):
    """Stops on SIGINT and SIGTERM and then returns, so that engines and journal are closed in order."""

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


def http_server(live: Live, runtime: Runtime, *, grace_s: int, open_to_all: bool) -> Server:
    """A server for sockets that are bound already. `grace_s`: how long open streams may go on when it is to stop."""
    app = build_app(live, runtime, open_to_all=open_to_all)
    return Server(
        uvicorn.Config(
            app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=grace_s,
        )
    )
