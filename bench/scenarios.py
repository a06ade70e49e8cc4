"""What is asked of every target: how many connections, for how long, of which shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CONNECTIONS = (1, 16, 64, 256)
CHUNKS = 50
PACE_US = 10_000  # 100 chunks/s, a fast model


@dataclass(frozen=True)
class Scenario:
    """
    Args:
        rate: requests/s on a fixed schedule; 0: each connection asks again once it has its answer.
        chunks: of the streams that are asked for; 0: answers are JSON.
        delay_us: between the chunks of a stream.
        ramp_s: over which the connections begin, so that their streams are out of step.
        has_big_prompt: 100 kB instead of 1 kB.
        model: what is asked for; None: the target's own.
    """

    name: str
    connections: int
    seconds: float
    warm_s: float
    rate: float = 0
    chunks: int = 0
    delay_us: int = 0
    ramp_s: float = 0
    has_big_prompt: bool = False
    model: str | None = None


@dataclass(frozen=True)
class Plan:
    """
    Args:
        seconds: of each scenario; some need more.
        warm_s: of load before the first.
        held: open streams whose memory is measured; 0: none.
        lead_s: of load before a scenario counts.
        names: of the scenarios to run; none: all.
    """

    seconds: float = 2.0
    warm_s: float = 2.0
    lead_s: float = 0.4
    held: int = 1000
    rate: float = 50.0
    connections: Sequence[int] = CONNECTIONS
    names: Sequence[str] = ()

    def scenarios(self) -> list[Scenario]:
        return [scenario for scenario in self._all() if not self.names or scenario.name in self.names]

    def _all(self) -> Iterator[Scenario]:
        seconds, lead_s = self.seconds, self.lead_s
        longer_s, ramp_s = 1.5 * seconds, 0.25 * seconds
        for connections in self.connections:
            yield Scenario(f"json{connections}", connections, seconds, lead_s)
        yield Scenario("rate", 64, longer_s, lead_s, rate=self.rate)
        yield Scenario("big", 16, seconds, lead_s, has_big_prompt=True)
        yield Scenario("burst", 64, seconds, lead_s, chunks=CHUNKS)
        yield Scenario("calm", 4, seconds, lead_s, chunks=CHUNKS, delay_us=PACE_US, ramp_s=ramp_s)
        yield Scenario("paced", 64, longer_s, lead_s, chunks=CHUNKS, delay_us=PACE_US, ramp_s=ramp_s)
        if self.held:
            yield Scenario("hold", self.held, 3, warm_s=3, chunks=20, delay_us=500_000, ramp_s=2.5)

    def cascade_scenarios(self) -> list[Scenario]:
        """Streams of the gateway's own: forwarded, and held back as a whole; in the order A B B A."""
        if self.names and "cascade" not in self.names:
            return []
        models = {"plain": "bench", "held": "held"}
        return [
            Scenario(
                f"{how} {pace}",
                64,
                self.seconds,
                self.lead_s,
                chunks=CHUNKS,
                delay_us=delay_us,
                ramp_s=ramp_s,
                model=models[how],
            )
            for pace, delay_us, ramp_s in (("paced", PACE_US, 0.25 * self.seconds), ("burst", 0, 0.0))
            for how in ("plain", "held", "held", "plain")
        ]
