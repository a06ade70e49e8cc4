"""The hours of an engine, shared between the calls that keep it busy, and the energy that they take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from gateway.costs.power import Drawn, Power
from gateway.trace import Spend, Usage

CORE, LOCAL, ATTACHED, REMOTE = "core", "local", "attached", "remote"
"""How far out a model is: here and always loaded, here on demand, on a server that others run, at a provider."""
WATTS_PER_THREAD = 6.0  # of a CPU under load with the memory behind it: servers draw 4 to 6 a core, desktops 8 to 15


class Effort(NamedTuple):
    """What a call took of its engine: its share of the time, and its energy where that is known."""

    busy_s: float
    joules: float | None = None
    is_measured: bool = False


@dataclass(slots=True)
class Turn:
    """One call, from its beginning to its end. `began`: on the meter's clock, which runs slower the more calls run."""

    began: float
    drawn: Drawn | None


class Meter:
    """Of one engine. At any moment its calls share the time equally, so that together they pay for no more of it than
    has gone by.

    Args:
        watts: what the machine draws for it while it is busy; None where nobody knows.
        power: measures that instead, where it can. Only for engines of this machine.
        now: seconds.
    """

    def __init__(
        self, watts: float | None = None, power: Power | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.watts, self._power, self._now = watts, power, now
        self._share_s = 0.0  # that one call would have had, had it run all the time
        self._at = 0.0
        self._active = 0
        self._busy_s = self._tokens = 0.0
        self._measured_s = self._measured_j = 0.0

    def begin(self) -> Turn:
        self._go_on()
        self._active += 1
        return Turn(self._share_s, self._power.begin() if self._power is not None else None)

    def end(self, turn: Turn) -> Effort:
        """Once for each turn."""
        self._go_on()
        self._active -= 1
        busy_s = round(self._share_s - turn.began, 6)
        measured = self._power.end(turn.drawn) if self._power is not None and turn.drawn is not None else None
        if measured is not None:
            self._measured_s += busy_s
            self._measured_j += measured
            return Effort(busy_s, round(measured, 6), True)
        return Effort(busy_s, None if self.watts is None else round(busy_s * self.watts, 6))

    def note(self, busy_s: float, output_tokens: int) -> None:
        """A call has written so much in that share of the time."""
        self._busy_s += busy_s
        self._tokens += output_tokens

    @property
    def draws_watts(self) -> float | None:
        """While it is busy: as measured so far, else as said or modelled."""
        return self._measured_j / self._measured_s if self._measured_s else self.watts

    @property
    def seconds_per_token(self) -> float | None:
        """None before the first answer."""
        return self._busy_s / self._tokens if self._tokens else None

    def _go_on(self) -> None:
        now = self._now()
        if self._active:
            self._share_s += (now - self._at) / self._active
        self._at = now


@dataclass(frozen=True, slots=True)
class Used:
    """How the calls of a leaf are counted.

    Args:
        layer: how far out its model is.
        meter: of its engine, where hours or watts are counted; None: a call's time is its own.
        joules_per_token: of output, where that is all that is known.
    """

    layer: str = REMOTE
    meter: Meter | None = None
    joules_per_token: float | None = None

    def watts(self) -> float | None:
        """That its engine draws while it is busy; None where nobody knows."""
        return self.meter.draws_watts if self.meter is not None else None

    def begin(self) -> Turn | None:
        return self.meter.begin() if self.meter is not None else None

    def spent(
        self,
        model: str,
        usage: Usage,
        turn: Turn | None,
        wall_s: float,
        cost_usd: Callable[[float], float | None],
        joules_told: float | None = None,
    ) -> Spend:
        """Of a call that ends and took `wall_s`.

        Args:
            cost_usd: what so many seconds of the engine come to.
            joules_told: by the upstream, for where nothing is known here.
        """
        if self.meter is None or turn is None:
            effort = Effort(round(wall_s, 6))
        else:
            effort = self.meter.end(turn)
            self.meter.note(effort.busy_s, usage.output_tokens)
        joules = effort.joules
        if joules is None and self.joules_per_token is not None:
            joules = self.joules_per_token * usage.output_tokens
        joules = joules_told if joules is None else joules
        return Spend(model, usage, cost_usd(effort.busy_s), effort.busy_s, self.layer, joules, effort.is_measured)

    def end_unspent(self, turn: Turn | None) -> None:
        """Of a call that never reached its model."""
        if self.meter is not None and turn is not None:
            self.meter.end(turn)


def watts_of(threads: int) -> float:
    """Of a model that so many threads of a CPU compute, for want of a measurement."""
    return threads * WATTS_PER_THREAD
