"""The rig: the mock upstream and the driver, both in C, on the core that is not the target's."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from bench.processes import BenchError, Cores, Process, free_port
from bench.results import Load
from bench.scenarios import Scenario
from bench.targets import HERE, Running, ask, chat_body

PROGRAMS = ("mock_upstream", "loadgen")
MANY_FILES = 20_000
MARGIN_S = 0.1  # within which the driver is sure to be at work still
FIRST_PORT = 9100


def compile_programs(folder: Path) -> None:
    """Raises: BenchError."""
    if shutil.which("cc") is None:
        raise BenchError("the bench needs a C compiler called cc: apt-get install gcc libc6-dev")
    for name in PROGRAMS:
        command = ["cc", "-O2", "-o", str(folder / name), str(HERE / f"{name}.c")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BenchError(f"{name}.c does not compile: {done.stderr.strip()}")


@dataclass(frozen=True)
class _Served:
    """What the mock has sent so far."""

    requests: int
    chunks: int


class Rig:
    """`with Rig(folder, cores) as rig:` the mock answers at `rig.port`."""

    def __init__(self, folder: Path, cores: Cores) -> None:
        self.port = free_port(FIRST_PORT)
        self._folder, self._cores = folder, cores

    def __enter__(self) -> Rig:
        compile_programs(self._folder)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, MANY_FILES)), hard))
        argv = [str(self._folder / "mock_upstream"), "-p", str(self.port)]
        self._mock = Process(argv, [self._cores.load], log=self._folder / "mock_upstream.log")
        give_up_at = time.monotonic() + 5
        while time.monotonic() < give_up_at:
            with suppress(OSError):
                ask(self.port, "/health")
                return self
            time.sleep(0.02)
        self._mock.stop()
        raise BenchError(f"the mock upstream does not answer: {self._mock.last_words}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mock.stop()

    def load(self, running: Running, scenario: Scenario) -> Load:
        """Raises: BenchError."""
        self.set_pace(scenario.chunks, scenario.delay_us)
        lasts_s = scenario.warm_s + scenario.seconds
        with Process(self._driver(running, scenario), [self._cores.load]) as driver:
            spent = self._spent(running.process, scenario) if running.process else {}
            load = Load.model_validate_json(driver.output(within_s=lasts_s + 30))
        return load.model_copy(update=spent)

    def _spent(self, process: Process, scenario: Scenario) -> dict[str, float]:
        """Watch the target meanwhile: what it spends for each request and chunk, from the end of the warm-up to just
        before the end, so that what is under way at either does not count. Waits that long."""
        lead_s = max(scenario.warm_s, scenario.ramp_s)
        time.sleep(lead_s)
        cpu_s, served = process.cpu_s(), self._served()
        time.sleep(max(MARGIN_S, scenario.warm_s + scenario.seconds - lead_s - MARGIN_S))
        cpu_us, after = (process.cpu_s() - cpu_s) * 1e6, self._served()
        requests = after.requests - served.requests - 1  # the question itself is one
        chunks = after.chunks - served.chunks
        spent = {"cpu_us_per_request": cpu_us / requests} if requests > 0 else {}
        spent |= {"cpu_us_per_chunk": cpu_us / chunks} if chunks else {}
        return spent | ({"peak_mb": process.memory_mb()} if scenario.name == "hold" else {})

    def set_pace(self, chunks: int = 0, delay_us: int = 0) -> None:
        ask(self.port, f"/control?n={chunks or 50}&delay_us={delay_us}&ttfb_us=0", b"")

    def _driver(self, running: Running, scenario: Scenario) -> list[str]:
        body = chat_body(scenario.model or running.model, streams=bool(scenario.chunks), is_big=scenario.has_big_prompt)
        file = self._folder / "body.json"
        file.write_text(json.dumps(body, separators=(",", ":")))
        argv = [str(self._folder / "loadgen"), "-p", str(running.port), "-P", running.path, "-f", str(file)]
        argv += ["-c", str(scenario.connections), "-d", str(scenario.seconds), "-w", str(scenario.warm_s)]
        for name, value in running.headers.items():
            argv += ["-H", f"{name}: {value}"]
        for option, number in (("-r", scenario.rate), ("-s", scenario.chunks), ("-g", scenario.ramp_s)):
            argv += [option, str(number)] if number else []
        return argv

    def _served(self) -> _Served:
        said = json.loads(ask(self.port, "/stats"))
        return _Served(said["served"], said["chunks"])
