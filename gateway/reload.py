"""New configuration without a restart: on SIGHUP and when a file changes. What is not sound changes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from gateway.config.build import build
from gateway.config.files import Config, policy_files, read_config
from gateway.engines import Engine, Residency
from gateway.errors import ConfigError, GatewayError
from gateway.gateway import Gateway
from gateway.live import Live
from gateway.runtime import Runtime
from gateway.telemetry.settings import settings_of

log = logging.getLogger(__name__)
SETTLE_S = 1800.0  # for the servers of new models to load: vLLM takes long
LOOK_S = 0.5  # between two looks at the files
QUIET_S = 0.1  # without a change, before the files are read: editors write in several steps
RESTING_S = 1.6  # the longest time for changes that keep coming
PREPARE_S = 5.0  # for what rules work out beforehand
LET_GO_S = 2.0  # for a fetch that is not wanted any more to end

Fetch = Callable[[Config, Callable[[], bool]], None]
Scripts = frozenset[Path]


@dataclass(frozen=True)
class Files:
    """Where the configuration is.

    `fetch` gets the model files that a configuration needs and that are not there yet. It blocks, and ends soon with
    a GatewayError once what it is given says that they are not wanted any more. `learned`: the folder of learned
    numbers, which are read as the configuration is built.
    """

    models: Path
    policies: Path
    fetch: Fetch
    learned: Path | None = None

    def read(self, scripts: Scripts = frozenset()) -> tuple[bytes, Config]:
        """What the files say, and their fingerprint from just before. `scripts`: those that are expected."""
        while True:
            fingerprint, config = self.fingerprint(scripts), read_config(self.models, self.policies)
            if config.scripts == scripts:
                return fingerprint, config
            scripts = config.scripts

    def fingerprint(self, scripts: Scripts) -> bytes:
        """Of what the files hold; a file that cannot be read counts as empty."""
        digest = hashlib.sha256()
        for path in self._all(scripts):
            try:
                content = path.read_bytes()
            except OSError:
                content = b""
            digest.update(f"{path}\0{len(content)}\0".encode("utf-8", "surrogateescape"))
            digest.update(content)
        return digest.digest()

    def stamps(self, scripts: Scripts) -> dict[Path, tuple[int, ...] | None]:
        """By file: what changes with it, also where it is a link or its folder was made anew."""
        return {path: _stamp(path) for path in self._all(scripts)}

    def _all(self, scripts: Scripts) -> list[Path]:
        learned = sorted(self.learned.glob("*.yaml")) if self.learned is not None else ()
        return [self.models, *policy_files(self.policies), *sorted(scripts), *learned]


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def awake(config: Config) -> Config:
    """The part of it without which there is nothing to serve: all but models on demand, whose files may come later."""
    sleeping = {name for name, entry in config.models.items() if getattr(entry.spec, "residency", "") == "on_demand"}
    awake = {name: entry for name, entry in config.models.items() if not sleeping & {name, entry.base}}
    return replace(config, models=awake)


class Others(Protocol):
    """Processes that serve the same."""

    async def prepare(self, config: Config) -> None:
        """Raises: GatewayError where one of them cannot serve it."""

    def swap(self) -> None:
        """What was prepared is served from now on."""

    def forget(self) -> None:
        """What was prepared is not to be served."""


class NotStarted(GatewayError):
    """The server of a new model does not start."""


class Reloader:
    """Args: `served` is the fingerprint of the files that `live` was built from, and `scripts` are those of them that
    are scripts; `others` take over what is served when it does."""

    def __init__(
        self,
        live: Live,
        runtime: Runtime,
        files: Files,
        served: bytes,
        scripts: Scripts,
        others: Others | None = None,
    ) -> None:
        self._live, self._runtime, self._files, self._others = live, runtime, files, others
        self._asked = asyncio.Event()
        self._served, self._scripts = served, scripts
        self._tried = served

    def ask(self) -> None:
        """Reload soon, whether or not a file has changed."""
        self._served = b""
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled. A change that comes while another is being loaded takes its place."""
        loading: asyncio.Task[None] | None = None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            while True:
                await self._asked.wait()
                self._asked.clear()
                if loading is not None and not loading.done():
                    if self._files.fingerprint(self._scripts) == self._tried:
                        continue  # it is being loaded
                    loading.cancel()
                    await asyncio.wait({loading})
                loading = tasks.create_task(self.reload())

    async def reload(self) -> None:
        """Read, check, fetch and start what is new; then swap, or keep what is served and say why."""
        if self._files.fingerprint(self._scripts) == self._served:
            self._live.stale_why = None  # perhaps a mistake has been undone
            return
        self._live.is_loading = True
        try:
            config, gateway = await asyncio.to_thread(self._read)
            await self._fetched(config)
            await self._swap(config, gateway)
        except ConfigError as exc:
            for problem in exc.problems:
                log.error("configuration not reloaded: %s", problem)
            first = exc.problems[0]
            line = f":{first.line}" if first.line else ""
            place = f"{Path(first.file).name}{line} {first.key}".rstrip()
            self._live.stale_why = f"{place}: see the log, or `gateway check`"
        except GatewayError as exc:
            log.error("configuration not reloaded: %s", exc.message)
            self._live.stale_why = exc.message
        except Exception:
            log.exception("configuration not reloaded")
            self._live.stale_why = "internal error: see the log"
        else:
            self._served = self._tried
        finally:
            self._live.is_loading = False

    def _read(self) -> tuple[Config, Gateway]:
        self._tried, config = self._files.read(self._scripts)
        self._scripts = config.scripts  # watched from now on, also where one of them is at fault
        return config, build(config, self._runtime)

    async def fetch_sleepers(self, config: Config, engines: Collection[Engine]) -> None:
        """The files of models on demand that are not there yet, one model after the other, while others are served."""
        pool = self._runtime.pool
        missing = [e for e in engines if e.residency is Residency.ON_DEMAND and not e.is_present]
        for engine in missing:
            pool.note_download(engine, is_coming=True)
        for engine in missing:
            own = {n: entry for n, entry in config.models.items() if engine.name in (n, entry.base)}
            try:
                await self._fetched(replace(config, models=own))
            except GatewayError as exc:
                log.error("model %s: its files do not come: %s", engine.name, exc.message)
                pool.note_download(engine, is_coming=False, why=exc.message)
            else:
                pool.note_download(engine, is_coming=False)

    async def _fetched(self, config: Config) -> None:
        """In a thread that the end of the process does not wait for: a server that says nothing may hold it for long.

        Raises: GatewayError.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Exception | None] = loop.create_future()
        is_unwanted = threading.Event()

        def fetch() -> None:
            fault = None
            try:
                self._files.fetch(config, is_unwanted.is_set)
            except Exception as exc:
                fault = exc
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done.set_result, fault)

        threading.Thread(target=fetch, name="fetch", daemon=True).start()
        try:
            await asyncio.wait({done})
        finally:
            is_unwanted.set()
            await asyncio.wait({done}, timeout=LET_GO_S)
        if fault := done.result():
            raise fault

    async def _swap(self, config: Config, gateway: Gateway) -> None:
        pool = self._runtime.pool
        pool.keep(gateway.engines)
        try:
            await pool.settled(gateway.engines, SETTLE_S)
            self._refuse_broken(gateway.engines)
            with suppress(TimeoutError):  # it goes on beside requests
                await asyncio.wait_for(gateway.prepare(), PREPARE_S)
            if self._others is not None:
                await self._others.prepare(config)
        except BaseException:
            pool.drop(gateway.engines)
            if self._others is not None:
                self._others.forget()
            raise
        self._live.swap(gateway)
        if self._others is not None:
            self._others.swap()
        self._live.body_limit_bytes = config.settings.body_limit_bytes
        self._live.edge = config.settings.edge
        self._runtime.prefixes.limit(config.settings.prefix_cache_mb)
        self._runtime.admit(**config.settings.admission.model_dump())
        self._runtime.log.scrubber.learn(config.secrets)
        self._runtime.telemetry.use(settings_of(config.settings.telemetry.told))
        journal = config.settings.journal
        self._runtime.limit_journal(journal_age_days=journal.max_age_days, journal_size_mb=journal.max_size_mb)
        for warning in config.warnings:
            log.warning("%s", warning)
        for name, url in self._runtime.urls.items():
            if getattr(config.settings, name) != url:
                log.warning("%s has changed: it counts from the next start on", name)
        active = sum(model.responder is not None for model in gateway.models.values())
        log.info("configuration reloaded: %d of %d models are active", active, len(gateway.models))

    def _refuse_broken(self, engines: Collection[Engine]) -> None:
        """Raises: NotStarted for a new server that has failed. One that failed before is no reason to wait longer."""
        for engine in set(engines) - set(self._runtime.pool.current):
            state = self._runtime.pool.state_of(engine)
            if engine.residency is Residency.ALWAYS and not state.is_ready:
                why = state.last_error or f"it was not ready within {SETTLE_S:g} s"
                raise NotStarted(f"model '{engine.name}' does not start: {why}")

    async def _watch(self) -> None:
        """By looking: notices of the kernel end with the folder, and do not come for what a link leads to."""
        seen = await self._stamps()
        if self._files.fingerprint(self._scripts) != self._served:
            self._asked.set()  # changed while the first model files were fetched
        while True:
            await asyncio.sleep(LOOK_S)
            found = await self._stamps()
            if found == seen:
                continue
            for _ in range(round(RESTING_S / QUIET_S)):
                before = found
                await asyncio.sleep(QUIET_S)
                found = await self._stamps()
                if found == before:
                    break
            seen = found
            self._asked.set()

    async def _stamps(self) -> dict[Path, tuple[int, ...] | None]:
        return await asyncio.to_thread(self._files.stamps, self._scripts)
