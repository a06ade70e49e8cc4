"""One worker: a process that answers requests on a socket that its supervisor listens on, until it is told to stop or
the supervisor is gone.

It is started as `python -m gateway.workers.worker CHANNEL LISTENER`, two descriptors that it inherits.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

import uvloop

from gateway.config.build import build
from gateway.config.files import Config
from gateway.engines.child import die_with_parent
from gateway.engines.footprint import Footprint
from gateway.errors import GatewayError
from gateway.gateway import Gateway
from gateway.http_server import Server, http_server
from gateway.live import Live
from gateway.memory import calm_garbage_collector, share_arenas
from gateway.reload import PREPARE_S
from gateway.tasks import ended
from gateway.telemetry.settings import settings_of
from gateway.workers.channel import Channel
from gateway.workers.office import About, Order
from gateway.workers.pool import Seen
from gateway.workers.runtime import Report, WorkerRuntime

log = logging.getLogger(__name__)
TELL_EVERY_S = 0.25  # what was counted
READ_EVERY = 4  # such times
LEFT_TO_SUPERVISOR = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""A terminal, and who stops a service, send them to all processes; the supervisor says what is to be done."""


class Worker:
    def __init__(self) -> None:
        self._may_part = asyncio.Event()
        self.channel = Channel(
            {
                "engines": self._learn,
                "about": self._note,
                "prepare": self._prepare,
                "swap": self._swap,
                "forget": self._forget,
                "hand_over": self._hand_over,
                "news": lambda topic, *news: self._runtime.hear(topic, *news),
                "promises": lambda states: self._runtime.promises.adopt(states),
                "stop": self._stop,
                "part": self._may_part.set,
                "toggle_log": lambda: self._runtime.log.toggle(),
            },
            self._orphaned,
        )
        self._server: Server | None = None
        self._next: tuple[Config, Gateway] | None = None
        self._reported = Report()
        self._is_over = False

    async def run(self, end: socket.socket, listener: socket.socket) -> None:
        """Raises: GatewayError."""
        await self.channel.open(end)
        order, about = await self._begun()
        runtime = self._runtime = WorkerRuntime(order.home, self.channel)
        runtime.log.scrubber.learn(order.config.secrets)
        runtime.log.start(order.log_format, order.log_level)
        gateway = build(order.config, runtime)
        await runtime.engines.introduce(gateway.engines)
        settings = order.config.settings
        live = self._live = Live(gateway, runtime.pool, settings.body_limit_bytes, settings.edge)
        self._note(about)
        self._suit(order.config)
        try:
            await runtime.begin(order.database_url)
            await self._serve(order, listener)
        finally:
            self._is_over = True
            live.is_draining = True
            await runtime.close()
            self.channel.tell("counts", runtime.counted(), runtime.report)
            with suppress(GatewayError):
                await self.channel.ask("bye")
            self.channel.close()

    async def _begun(self) -> tuple[Order, About]:
        begun: tuple[Order, About] = await self.channel.ask("begin")
        return begun

    async def _serve(self, order: Order, listener: socket.socket) -> None:
        server = self._server = http_server(
            self._live,
            self._runtime,
            grace_s=order.grace_s,
            open_to_all=order.insecure,
            front=order.front,
            logs_access=order.logs_access,
            linger=self._linger,
        )
        calm_garbage_collector()
        self._export(order.config)
        beside = (
            asyncio.create_task(self._live.gateway.prepare()),
            asyncio.create_task(self._keep_telling()),
            asyncio.create_task(self._tell_ready(server)),
        )
        try:
            await server.serve(sockets=[listener])
        finally:
            await ended(beside)

    async def _tell_ready(self, server: Server) -> None:
        while not server.started:
            await asyncio.sleep(0.005)
        self.channel.tell("ready")

    async def _keep_telling(self) -> None:
        while True:
            for _ in range(READ_EVERY):
                await asyncio.sleep(TELL_EVERY_S)
                self._tell()
            self._runtime.read_again()

    def _tell(self) -> None:
        counted, report = self._runtime.counted(), self._runtime.report
        if counted is not None or report != self._reported:
            self._reported = report
            self.channel.tell("counts", counted, report)

    async def _hand_over(self) -> None:
        if self._runtime.records is not None:
            await self._runtime.records.flush_own()
        self._tell()

    # -- what the supervisor says ----------------------------------------------------------------------------------

    def _learn(self, told: Mapping[int, Seen], taken: Footprint) -> None:
        self._runtime.engines.learn(told, taken)
        self._runtime.metrics.residency.loads.update(self._runtime.engines.loads())

    def _note(self, about: About) -> None:
        live = self._live
        live.stale_why, live.is_loading, live.loaded_at, live.workers = about

    async def _prepare(self, config: Config) -> None:
        self._forget()
        gateway = await asyncio.to_thread(build, config, self._runtime)
        await self._runtime.engines.introduce(gateway.engines)
        self._runtime.pool.keep(gateway.engines)
        self._next = config, gateway
        with suppress(TimeoutError):  # it goes on beside requests
            await asyncio.wait_for(gateway.prepare(), PREPARE_S)

    def _swap(self) -> None:
        assert self._next is not None  # it was prepared
        (config, gateway), self._next = self._next, None
        self._live.swap(gateway)
        self._live.body_limit_bytes = config.settings.body_limit_bytes
        self._live.edge = config.settings.edge
        self._suit(config)
        self._export(config)

    def _forget(self) -> None:
        if self._next is not None:
            self._runtime.pool.drop(self._next[1].engines)
            self._next = None

    def _suit(self, config: Config) -> None:
        self._runtime.admit(**config.settings.admission.model_dump())
        self._runtime.log.scrubber.learn(config.secrets)

    def _export(self, config: Config) -> None:
        """Spans; the supervisor exports the metrics of all."""
        settings = settings_of(config.settings.telemetry.told)
        self._runtime.telemetry.use(None if settings is None else replace(settings, metrics=False))
        self._runtime.metrics.models.has_sizes = settings is not None and settings.metrics

    def _stop(self) -> None:
        """In order; at once where it is said again."""
        if self._server is None:
            self._end(0)
            return
        self._server.handle_exit(signal.SIGTERM, None)
        if self._server.force_exit:
            self._may_part.set()

    async def _linger(self) -> None:
        """While others still have requests, somebody has to tell those who come to this socket to come back."""
        self.channel.tell("done")
        await self._may_part.wait()

    def _orphaned(self) -> None:
        if not self._is_over:
            log.error("the supervisor is gone: this worker ends")
            self._end(1)

    def _end(self, status: int) -> None:
        """At once: nothing could be leased, counted or journalled any more."""
        logging.shutdown()
        os._exit(status)


def main() -> None:
    die_with_parent()
    share_arenas()
    for number in LEFT_TO_SUPERVISOR:
        signal.signal(number, signal.SIG_IGN)
    gc.disable()  # until all is imported
    end, listener = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    for inherited in (end, listener):
        inherited.set_inheritable(False)  # by nobody else: not by programs that read documents or run code
    try:
        uvloop.run(Worker().run(end, listener))
    except GatewayError as exc:
        log.error("worker %d does not start: %s", os.getpid(), exc.message)
        sys.exit(1)


if __name__ == "__main__":
    main()
