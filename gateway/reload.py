"""New configuration without a restart: on SIGHUP and when a file changes. What is not sound changes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path

from gateway.config.build import build
from gateway.config.files import Config, read_config
from gateway.engines import Engine, State
from gateway.errors import ConfigError, GatewayError
from gateway.gateway import Gateway
from gateway.live import Live
from gateway.runtime import Runtime

log = logging.getLogger(__name__)
SETTLE_S = 600.0  # for the servers of new models to load
QUIET_MS = 100  # without a change, before the files are read: editors write in several steps
RESTING_MS = 1600  # the longest time for changes that keep coming

Read = Callable[[], tuple[Config, Gateway]]
Fetch = Callable[[Config], None]


class NotStarted(GatewayError):
    """The server of a new model does not start."""


class Reloader:
    """Args: where the files are; `fetch` gets model files that are not there yet. It blocks, and runs in a thread."""

    def __init__(self, live: Live, runtime: Runtime, models: Path, policies: Path, fetch: Fetch) -> None:
        self._live, self._runtime = live, runtime
        self._models, self._policies, self._fetch = models, policies, fetch
        self._asked = asyncio.Event()
        self._scripts: frozenset[Path] = frozenset()
        self._served = self._fingerprint()

    def ask(self) -> None:
        """Reload soon, whether or not a file has changed."""
        self._served = b""
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            while True:
                await self._asked.wait()
                self._asked.clear()
                await self.reload()

    async def reload(self) -> None:
        """Read, check, fetch and start what is new; then swap, or keep what is served and say why."""
        fingerprint = self._fingerprint()
        if fingerprint == self._served:
            self._live.stale_why = None  # perhaps a mistake has been undone
            return
        try:
            config, gateway = await asyncio.to_thread(self._read)
            await asyncio.to_thread(self._fetch, config)
            await self._swap(config, gateway)
        except ConfigError as exc:
            for problem in exc.problems:
                log.error("configuration not reloaded: %s", problem)
            first = exc.problems[0]
            self._live.stale_why = f"{Path(first.file).name}:{first.line} {first.key}: see the log, or `gateway check`"
        except GatewayError as exc:
            log.error("configuration not reloaded: %s", exc.message)
            self._live.stale_why = exc.message
        except Exception:
            log.exception("configuration not reloaded")
            self._live.stale_why = "internal error: see the log"
        else:
            self._served = fingerprint

    def _read(self) -> tuple[Config, Gateway]:
        config = read_config(self._models, self._policies)
        return config, build(config, self._runtime)

    async def _swap(self, config: Config, gateway: Gateway) -> None:
        pool = self._runtime.pool
        pool.keep(gateway.engines)
        try:
            await pool.settled(gateway.engines, SETTLE_S)
            self._refuse_broken(gateway.engines)
        except BaseException:
            pool.drop(gateway.engines)
            raise
        self._live.swap(gateway)
        self._live.body_limit_bytes = config.settings.body_limit_bytes
        journal = config.settings.journal
        self._runtime.limit_journal(journal_age_days=journal.max_age_days, journal_size_mb=journal.max_size_mb)
        self._scripts = config.scripts
        for warning in config.warnings:
            log.warning("%s", warning)
        active = sum(model.responder is not None for model in gateway.models.values())
        log.info("configuration reloaded: %d of %d models are active", active, len(gateway.models))

    def _refuse_broken(self, engines: Collection[Engine]) -> None:
        """Raises: NotStarted for a new server that has failed. One that failed before is no reason to wait longer."""
        for engine in set(engines) - set(self._runtime.pool.current):
            state = self._runtime.pool.state_of(engine)
            if engine.is_always and state.state is not State.READY:
                raise NotStarted(f"model '{engine.name}' does not start: {state.last_error}")

    def _fingerprint(self) -> bytes:
        """Of what the files hold; a file that cannot be read counts as empty."""
        digest = hashlib.sha256()
        for path in self._files():
            try:
                content = path.read_bytes()
            except OSError:
                content = b""
            digest.update(f"{path}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.digest()

    def _files(self) -> list[Path]:
        policies = [path for path in self._policies.glob("*") if path.suffix in (".yaml", ".yml")]
        return [self._models, *sorted(policies), *sorted(self._scripts)]

    async def _watch(self) -> None:
        try:
            async for _ in self._changes():
                self._asked.set()
        except (OSError, RuntimeError) as exc:  # no more inotify watches, or a folder that is gone
            log.warning("changes of the configuration are not seen (%s): send SIGHUP to reload", exc)

    def _changes(self) -> AsyncIterator[object]:
        from watchfiles import Change, awatch

        def concerns_us(change: Change, path: str) -> bool:
            # Kubernetes swaps the link "..data" and leaves the files' own names alone
            return Path(path).suffix in (".yaml", ".yml", ".json") or Path(path).name == "..data"

        folders = {self._models.absolute().parent, self._policies.absolute()}
        folders |= {path.absolute().parent for path in self._scripts}
        return awatch(*folders, watch_filter=concerns_us, debounce=RESTING_MS, step=QUIET_MS, recursive=False)
