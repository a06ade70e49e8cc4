"""What the machine draws while a local model works, read from its counters, and each call's share of it.

Between two looks at the counters the energy of all of them together is divided among the calls of local models by the
seconds that each of them ran. What the machine draws anyway is in it: while a model works, it is on for that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

POWERCAP = Path("/sys/class/powercap")
EVERY_S = 0.5
DOMAINS = ("package", "dram")  # names begin so; cores are in their package, and a `psys` holds it all once more
log = logging.getLogger(__name__)


class Counter(Protocol):
    def joules(self) -> float:
        """Since some time or other; it only grows. Raises: OSError where it cannot be read."""


class RaplCounter:
    """A domain of Intel's or AMD's running average power limit, in a folder of the kernel."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._range_uj = int((folder / "max_energy_range_uj").read_text())
        self._last_uj = int(self._file.read_text())
        self._total_uj = 0

    def joules(self) -> float:
        now_uj = int(self._file.read_text())
        gone_uj = now_uj - self._last_uj
        self._total_uj += gone_uj if gone_uj >= 0 else gone_uj + self._range_uj + 1  # it begins again at 0
        self._last_uj = now_uj
        return self._total_uj / 1e6


class GpuCounter:
    """An NVIDIA GPU, since its driver was loaded."""

    def __init__(self, index: int) -> None:
        import pynvml

        self._nvml, self._gpu = pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)
        self.joules()

    def joules(self) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)) / 1e3
        except self._nvml.NVMLError as exc:
            raise OSError(str(exc)) from exc


def find_counters(powercap: Path = POWERCAP) -> list[Counter]:
    """Those that this process may read. May block for a moment."""
    return [*_rapl_counters(powercap), *_gpu_counters()]


def _rapl_counters(powercap: Path) -> list[Counter]:
    found: list[Counter] = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        try:
            if (folder / "name").read_text().startswith(DOMAINS):
                found.append(RaplCounter(folder))
        except (OSError, ValueError):
            continue  # since Linux 5.10 only root may read it, where nobody has allowed it
    return found


def _gpu_counters() -> list[Counter]:
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:
        return []
    found: list[Counter] = []
    for index in range(count):
        try:
            found.append(GpuCounter(index))
        except (OSError, pynvml.NVMLError):
            continue  # older than Volta
    return found


@dataclass(eq=False, slots=True)
class Drawn:
    """A call's share of the energy until `counted_at`."""

    counted_at: float
    joules: float = 0.0


class Shares:
    """Divides what the counters say between the calls that run. Times are seconds of one clock.

    What a call takes after the last look is not known when it ends: it counts at the rate of the time before.
    """

    def __init__(self) -> None:
        self.running: set[Drawn] = set()
        self._watts: float | None = None  # of one call, between the last two looks
        self._last: tuple[float, float] | None = None  # time, and joules then
        self._ended_s = 0.0  # since that look, of calls that have ended
        self._active_s, self._active_from = 0.0, 0.0  # since that look, with any call at all

    def begin(self, at: float) -> Drawn:
        if not self.running:
            self._active_from = at
        drawn = Drawn(at)
        self.running.add(drawn)
        return drawn

    def end(self, drawn: Drawn, at: float) -> float | None:
        """Its joules; None where no look has told what is drawn."""
        self.running.discard(drawn)
        if not self.running:
            self._active_s += at - self._active_from
        tail_s = at - drawn.counted_at
        self._ended_s += tail_s
        return None if self._watts is None else drawn.joules + tail_s * self._watts

    def look(self, at: float, joules: float) -> None:
        """The counters say so. What was drawn while no call ran is nobody's."""
        if self._last is not None:
            began, before = self._last
            active_s = self._active_s + (at - self._active_from if self.running else 0.0)
            busy_s = self._ended_s + sum(at - one.counted_at for one in self.running)
            if busy_s > 0 and at > began:
                self._watts = (joules - before) * min(1.0, active_s / (at - began)) / busy_s
        if self._watts is not None:
            for one in self.running:
                one.joules += (at - one.counted_at) * self._watts
                one.counted_at = at
        self._last, self._ended_s, self._active_s, self._active_from = (at, joules), 0.0, 0.0, at

    def pause(self) -> None:
        """Nobody looks for a while: what is drawn meanwhile is nobody's."""
        self._last = None


class Power:
    """The counters of this machine, looked at every half a second while a local model works and never else.

    Args:
        find: the counters there are; called in a thread, when a model works for the first time.
    """

    def __init__(
        self,
        find: Callable[[], Sequence[Counter]] = find_counters,
        every_s: float = EVERY_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find, self._every_s, self._now = find, every_s, now
        self._counters: Sequence[Counter] | None = None
        self._shares = Shares()
        self._looking: asyncio.Task[None] | None = None

    @property
    def can_measure(self) -> bool:
        """True also before anybody has tried."""
        return self._counters is None or bool(self._counters)

    def begin(self) -> Drawn | None:
        """A call of a local model begins; None where nothing can be measured."""
        if not self.can_measure:
            return None
        drawn = self._shares.begin(self._now())
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look(), name="power is measured")
        return drawn

    def end(self, drawn: Drawn) -> float | None:
        """Joules of the call that ends; None where it was too short to know."""
        return self._shares.end(drawn, self._now())

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        """Until no call runs any more."""
        try:
            if self._counters is None:
                self._counters = await asyncio.to_thread(self._find)
            while self._counters and self._shares.running:
                joules = await asyncio.to_thread(self._read)
                self._shares.look(self._now(), joules)
                await asyncio.sleep(self._every_s)
        except Exception as exc:  # whatever a kernel or a driver comes up with: no request fails for it
            log.warning("the machine's energy cannot be read any more, and is modelled from now on: %s", exc)
            self._counters = ()
        finally:
            self._shares.pause()

    def _read(self) -> float:
        return sum(counter.joules() for counter in self._counters or ())
