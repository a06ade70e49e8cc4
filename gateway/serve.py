"""`gateway serve`: fetch what is missing, start the engines, listen, and say so."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from rich.console import Console

from gateway.config.build import build
from gateway.config.files import Config
from gateway.engines.resident import Stage
from gateway.errors import GatewayError
from gateway.gateway import Gateway
from gateway.live import Live
from gateway.memory import calm_garbage_collector, share_arenas
from gateway.reload import Files, Reloader, awake
from gateway.runtime import Runtime
from gateway.telemetry.logs import Format, Level
from gateway.telemetry.settings import settings_of
from gateway.transport import is_loopback

if TYPE_CHECKING:
    from gateway.http_server import Server
    from gateway.workers.crew import Crew
    from gateway.workers.office import Office

log = logging.getLogger(__name__)
GRACE_S = 30.0
BACKLOG = 2048
MANY_FILES = 65_536  # a connection each, and one more upstream
BANNER_WAIT_S = 600.0  # a large model may load that long; the server listens meanwhile


@dataclass(frozen=True)
class Address:
    host: str = "127.0.0.1"
    port: int = 8080
    uds: Path | None = None

    @property
    def is_local(self) -> bool:
        return self.uds is not None or is_loopback(self.host)


@dataclass(frozen=True)
class Options:
    """`grace_s`: for open streams when asked to stop. `root_path`: under which a reverse proxy shows the gateway.
    `trusted_proxies`: beside those of models.yaml. `access_log`: a line for each request. `workers`: processes that
    answer requests; with 1 it is this one."""

    insecure: bool = False
    grace_s: float = GRACE_S
    root_path: str = ""
    trusted_proxies: tuple[str, ...] = ()
    log_format: Format = "text"
    log_level: Level = "info"
    access_log: bool = False
    workers: int = 1


def serve(
    files: Files,
    home: Path,
    address: Address,
    console: Console,
    options: Options | None = None,
) -> None:
    """Until it is told to stop. Raises: ConfigError, GatewayError."""
    served, config = files.read()
    files.fetch(awake(config), lambda: False)
    options = options or Options()
    runtime = Runtime(home)
    runtime.log.scrubber.learn(config.secrets)
    runtime.log.start(options.log_format, options.log_level)
    _allow_many_files()
    _leave_no_core()
    share_arenas()
    uvloop.run(_serve(config, runtime, files, served, address, console, options))


async def _serve(
    config: Config, runtime: Runtime, files: Files, served: bytes, address: Address, console: Console, options: Options
) -> None:
    live = Live(build(config, runtime), runtime.pool, config.settings.body_limit_bytes, config.settings.edge)
    listeners = [listen(address)] if options.workers == 1 else listen_for_all(address, options.workers)
    runtime.prefixes.limit(config.settings.prefix_cache_mb)
    runtime.admit(**config.settings.admission.model_dump())
    try:
        await runtime.start(
            journal_age_days=config.settings.journal.max_age_days,
            journal_size_mb=config.settings.journal.max_size_mb,
            database_url=config.settings.database_url,
            redis_url=config.settings.redis_url,
        )
        if runtime.keys is not None and runtime.keys.is_open and not address.is_local and not options.insecure:
            raise GatewayError(
                f"without API keys only this machine is served, and {address.host} is open to others: "
                "make a key with `gateway keys create --name NAME`, or say --insecure"
            )
        if runtime.keys is not None and runtime.keys.is_open and options.insecure:
            log.warning("--insecure: whoever reaches %s is served, and nobody is asked for a key", address.host)
        server, office = _server(live, runtime, config, options)
        calm_garbage_collector()
        reloader = Reloader(live, runtime, files, served, config.scripts, office)
        had_terminal = _has_terminal()

        def hang_up() -> None:
            if had_terminal and not _has_terminal():
                server.handle_exit(signal.SIGHUP, None)  # it was closed, and the server with it, as people expect
            else:
                reloader.ask()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
        toggle_log = runtime.log.toggle if office is None else office.toggle_log
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, toggle_log)
        runtime.telemetry.use(settings_of(config.settings.telemetry.told))
        beside = (
            asyncio.create_task(runtime.work()),
            asyncio.create_task(_greet(live.gateway, config, runtime, listeners[0], address, console, office)),
            asyncio.create_task(reloader.run()),
            asyncio.create_task(reloader.fetch_sleepers(config, live.gateway.engines)),
            asyncio.create_task(runtime.prefixes.sweep()),
            asyncio.create_task(live.gateway.prepare()),
        )
        try:
            await server.serve(sockets=listeners)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)
    finally:
        for listener in listeners:
            listener.close()
        await runtime.close()
        if address.uds is not None:
            address.uds.unlink(missing_ok=True)


def _leave_no_core() -> None:
    """A dump of this process, or of an engine, would hold keys and what users wrote."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _server(live: Live, runtime: Runtime, config: Config, options: Options) -> tuple[Server | Crew, Office | None]:
    """What answers requests: this process, or workers at an office."""
    from gateway.api.door import Front

    front = Front(options.root_path, options.trusted_proxies)
    if options.workers > 1:
        from gateway.workers.crew import Crew
        from gateway.workers.office import Office, Order

        logs = options.access_log, options.log_format, options.log_level
        url = config.settings.database_url
        order = Order(runtime.home, config, front, options.grace_s, options.insecure, *logs, url)
        office = Office(live, runtime, order, options.workers)
        return Crew(office), office
    from gateway.http_server import http_server

    server = http_server(
        live,
        runtime,
        grace_s=options.grace_s,
        open_to_all=options.insecure,
        front=front,
        logs_access=options.access_log,
    )
    return server, None


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _allow_many_files() -> None:
    """Many systems give a process 1,024 at first, and let it ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(MANY_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(address: Address) -> socket.socket:
    """Raises: GatewayError where the address cannot be had."""
    where = str(address.uds or f"{address.host}:{address.port}")
    try:
        if address.uds is not None:
            return _listen_on_path(address.uds)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    except OSError as exc:
        raise GatewayError(f"cannot listen on {where}: {os.strerror(exc.errno) if exc.errno else exc}") from None


def listen_for_all(address: Address, count: int) -> list[socket.socket]:
    """One socket for each worker. On Linux each has connections of its own, which the kernel spreads evenly and which
    stay there while a worker is started again; elsewhere, and on a path, it is the same for all.

    Raises: GatewayError where the address cannot be had.
    """
    first = listen(address)  # also to learn whether somebody else has it: sockets that share a port do not
    if address.uds is not None or sys.platform != "linux":
        return [first] * count
    port, family = first.getsockname()[1], first.family
    first.close()
    where = (address.host, port)
    return [socket.create_server(where, family=family, backlog=BACKLOG, reuse_port=True) for _ in range(count)]


def _listen_on_path(path: Path) -> socket.socket:
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(98, "in use")
        path.unlink()  # left by a server that is gone
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o666)  # as open as a port of loopback, also to a proxy's user; its folder can say otherwise
        listener.listen(BACKLOG)  # who comes before a worker is there waits
    except OSError:
        listener.close()
        raise
    return listener


async def _greet(
    gateway: Gateway,
    config: Config,
    runtime: Runtime,
    listener: socket.socket,
    address: Address,
    console: Console,
    office: Office | None,
) -> None:
    """Print the banner once the always-on models answer, or have failed to start, and all workers are there."""
    with console.status("starting models …"):
        await runtime.pool.settled(gateway.engines, BANNER_WAIT_S)
        if office is not None:
            await office.has_opened.wait()
    states = runtime.pool.states()
    if address.uds is not None:
        url, curl = f"unix:{address.uds}", f"curl --unix-socket {address.uds} http://localhost"
        base = "http://localhost/v1, by that socket"
    else:
        port = listener.getsockname()[1]
        host = "127.0.0.1" if address.host in ("0.0.0.0", "::") else address.host
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        curl, base = f"curl {url}", f"{url}/v1"
    console.print(
        f"\n[bold]Onion Gateway[/] listens on [bold cyan]{url}[/]  (OpenAI base URL: {base})\n", soft_wrap=True
    )
    console.print("models")
    for model in gateway.models.values():
        state = states.get(model.card.get("base", model.name))
        if model.responder is None:
            console.print(f"  [yellow]○ {model.name}[/]  {model.engine}, inactive: {model.why}")
        elif state is not None and not state.is_ready and state.stage is not Stage.DORMANT:
            console.print(
                f"  [red]● {model.name}[/]  {model.engine}, {state.stage}: {state.last_error or 'see the log'}"
            )
        else:
            console.print(f"  [green]● {model.name}[/]  {model.engine}, active")
    console.print("policies")
    for name in dict.fromkeys(policy.name for policy in gateway.policies.values()):
        aliases = [alias for alias, policy in gateway.policies.items() if policy.name == name and alias != name]
        routes = ", ".join(route.name for route in gateway.policies[name].routes)
        console.print(f"  [green]●[/] {name}  (send model: {', '.join(aliases or [name])})  routes: {routes}")
    if not gateway.policies:
        console.print("  none: clients name a model")
    for warning in config.warnings:
        console.print(f"[yellow]warning[/] {warning}", highlight=False)
    header = "" if runtime.keys is None or runtime.keys.is_open else " -H 'authorization: Bearer YOUR_KEY'"
    name = next(iter(gateway.policies), next(iter(gateway.models)))
    name = "auto" if "auto" in gateway.policies else name
    body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "Write one sentence about the sea."}}]}}'
    console.print(
        f"\ntry\n  {curl}/v1/chat/completions{header} -H 'content-type: application/json' -d '{body}'\n",
        soft_wrap=True,
        highlight=False,
    )
