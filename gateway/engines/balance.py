"""Several deployments of one model, each an address and a key: which one a request goes to, and which are set aside
for a while.

The choice is a pure function, `choose`. `Balance` keeps what it needs to know: how many requests are open at each
deployment, which have failed, how quick they are, and who had a conversation last.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from gateway.chat import Emit
from gateway.chunks import Chunk
from gateway.engines.health import Health, Latency, Rank, Steadfast
from gateway.errors import AddressFault

Way = Literal["affine", "least_busy", "latency"]
MUCH_BUSIER = 2.0  # open requests more than its share, at which a conversation leaves the address that remembers it
REMEMBERED = 10_000  # conversations
FIRST_KEY_PAUSE_S, LONGEST_KEY_PAUSE_S = 600.0, 86_400.0  # of a key that is refused
OF_A_KEY = frozenset({AddressFault.BUSY, AddressFault.KEY})
PROBE_EVERY_S = 1.0  # where all are set aside


@dataclass(frozen=True, slots=True)
class View:
    """A deployment as a choice sees it. `open`, `served`: requests that it has now, and has had in all; `latency_s`:
    until its first token, where that is to decide."""

    rank: Rank
    open: int = 0
    served: int = 0
    weight: float = 1.0
    latency_s: float | None = None


def choose(addresses: Sequence[View], last: int | None = None) -> int | None:
    """Which one is asked; None where all are away.

    Of the best rank, the one with the fewest open requests for its weight; among equals the one that has had the fewest
    so far. Before that, the one that had the conversation `last`, for it need not read it all again, unless it is much
    busier.
    """
    best = min((view.rank for view in addresses), default=Rank.AWAY)
    if best is Rank.AWAY:
        return None
    ranked = [place for place, view in enumerate(addresses) if view.rank is best]
    least = min(ranked, key=lambda place: _burden(addresses[place]))
    if last in ranked and not is_much_busier(addresses[last], addresses[least]):
        return last
    return least


def _burden(view: View) -> tuple[float, float]:
    work = view.open if view.latency_s is None else view.latency_s * (view.open + 1)
    return work / view.weight, view.served / view.weight


def is_much_busier(view: View, least: View) -> bool:
    """Has it at least MUCH_BUSIER open requests more than it would have at the other's load?"""
    return view.open - view.weight * least.open / least.weight >= MUCH_BUSIER


@dataclass(frozen=True, slots=True)
class Aside:
    """A deployment, or its key, is not to be asked for so long."""

    place: int
    is_of_key: bool
    pause_s: float
    why: str


class Balance:
    """The deployments of one model.

    Args:
        name: of the model.
        weights: of each deployment, as models.yaml says; None: by the places it has.
        addresses: of each deployment, the number of its address; without, each has its own. What is wrong with an
            address is so for all its keys.
        way: `affine`: the least busy, and conversations stay where they were; `least_busy`: without that; `latency`:
            where the first token would be there the soonest.
        presence: what the pool knows of an address, where it watches it.
        slots: the places that an address has; None where it does not tell.
    """

    def __init__(
        self,
        name: str,
        weights: Sequence[float | None],
        *,
        addresses: Sequence[int] = (),
        way: Way = "affine",
        presence: Callable[[int], Rank] | None = None,
        slots: Callable[[int], int | None] = lambda place: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self._weights = name, tuple(weights)
        self._presence, self._slots, self._now = presence, slots, now
        self.way = way
        self.addresses = tuple(addresses) or tuple(range(len(self._weights)))
        several = set(self.addresses)
        by_address = {address: Health() if len(several) > 1 else Steadfast() for address in several}
        self._health = [by_address[address] for address in self.addresses]
        self._keys = [Health(FIRST_KEY_PAUSE_S, LONGEST_KEY_PAUSE_S) for _ in self._weights]
        self._latency = [(Latency(), Latency()) for _ in self._weights]  # of whole answers, and of streams
        self._probed_at = -float("inf")
        self._open = [0] * len(self._weights)
        self._served = [0] * len(self._weights)
        self._last: OrderedDict[str, int] = OrderedDict()  # address by conversation
        self.on_aside: Callable[[Aside], None] | None = None  # told of what is set aside here

    @property
    def count(self) -> int:
        return len(self._weights)

    @property
    def up(self) -> int:
        """How many addresses answer, as far as anybody knows."""
        return len({self.addresses[place] for place in range(self.count) if self._is_up(place)})

    @property
    def up_keys(self) -> int:
        return sum(map(self._is_up, range(self.count)))

    def _is_up(self, place: int) -> bool:
        return self.rank(place) in (Rank.UP, Rank.BUSY)

    @property
    def first_up(self) -> int:
        """For questions that any of them can answer."""
        return min(range(self.count), key=self.rank)

    @property
    def is_known(self) -> bool:
        """Has any of them been heard of yet?"""
        looks = map(self._presence, range(self.count)) if self._presence is not None else ()
        return any(self._served) or any(rank is not Rank.UNSURE for rank in looks)

    def hear(self, aside: Aside) -> None:
        """Another gateway has set it aside. Raises: IndexError for a place that there is not."""
        health = (self._keys if aside.is_of_key else self._health)[aside.place]
        health.hear_of_failure(self._now(), aside.pause_s)
        health.why = aside.why

    def places_beside(self, place: int) -> list[int]:
        """All with the same address, this one among them."""
        return [other for other, address in enumerate(self.addresses) if address == self.addresses[place]]

    def rank(self, place: int) -> Rank:
        now = self._now()
        rank = max(self._health[place].rank(now), self._keys[place].rank(now))
        return rank if self._presence is None else max(rank, self._presence(place))

    def views(self, without: Collection[int] = (), *, streams: bool = True) -> list[View]:
        weights, latencies = self._shares(), self._latencies(streams) if self.way == "latency" else None
        return [
            View(
                Rank.AWAY if place in without else self.rank(place),
                self._open[place],
                self._served[place],
                weights[place],
                None if latencies is None else latencies[place],
            )
            for place in range(self.count)
        ]

    def _latencies(self, streams: bool) -> list[float]:
        """What is not known is found out: with one request at a time, and meanwhile taken for the slowest."""
        now = self._now()
        known = [latency[streams].at(now) for latency in self._latency]
        slowest = max((found for found in known if found is not None), default=1.0)
        return [
            found if found is not None else (slowest if is_open else 0.0)
            for found, is_open in zip(known, self._open, strict=True)
        ]

    def _shares(self) -> list[float]:
        """Places count as weights only where every address tells how many it has."""
        slots = [self._slots(place) for place in range(self.count)]
        told = slots if all(slots) else [1] * self.count
        return [weight or float(slot or 1) for weight, slot in zip(self._weights, told, strict=True)]

    def visit(self, conversation: str, without: Collection[int] = (), *, streams: bool = True) -> Visit | None:
        """Send a request to one of them, but for those that it has been to; None where all are away."""
        if self.way != "affine":
            place = choose(self.views(without, streams=streams))
            return None if place is None else Visit(self, place, streams=streams)
        place = choose(self.views(without), self._last.get(conversation))
        if place is None:
            return None
        self._last[conversation] = place
        self._last.move_to_end(conversation)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        return Visit(self, place)

    def probe(self, *, streams: bool = True) -> Visit | None:
        """Where all are set aside, send a request to the one whose time comes first: what was a hiccup is over sooner
        than a pause is. None but for one request at a time, and one a second."""
        now = self._now()
        if now < self._probed_at + PROBE_EVERY_S:
            return None
        waiting = {place: self._resumes_at(place) for place in range(self.count) if self._may_probe(place)}
        if not waiting:
            return None
        self._probed_at = now
        return Visit(self, min(waiting, key=lambda place: waiting[place]), streams=streams)

    def _may_probe(self, place: int) -> bool:
        is_there = self._presence is None or self._presence(place) is not Rank.AWAY
        return is_there and self._health[place].trial is None and self._keys[place].trial is None

    def _resumes_at(self, place: int) -> float:
        pauses = (self._health[place], self._keys[place])
        return max((pause.resumes_at for pause in pauses if pause.failures), default=-float("inf"))

    def resumes_in_s(self) -> float | None:
        """Until the first of those that were set aside here is tried again; None where none was."""
        paused = [at for place in range(self.count) if (at := self._resumes_at(place)) > -float("inf")]
        return max(0.0, min(paused) - self._now()) if paused else None

    def ready_in_s(self) -> float | None:
        """Until one of them takes requests, as far as it has said, or was set aside; None where nobody knows."""
        now = self._now()
        waits_s = [self._ready_at(place) - now for place in range(self.count)]
        return max(0.0, min(waits_s)) if waits_s and min(waits_s) < float("inf") else None

    def _ready_at(self, place: int) -> float:
        if self._presence is not None and self._presence(place) is Rank.AWAY:
            return float("inf")
        return max(self._resumes_at(place), self._keys[place].busy_until)

    @property
    def has_no_key(self) -> bool:
        """Is each of its keys refused?"""
        return all(key.failures for key in self._keys)

    def why_away(self, place: int) -> str:
        return (self._keys[place] if self._keys[place].failures else self._health[place]).why


class Visit:
    """One request at one deployment, as a block: open until it is left. `streams`: its first token is heard of."""

    __slots__ = (
        "_balance",
        "_began",
        "_health",
        "_key",
        "_streams",
        "_was_timed",
        "has_answered",
        "has_spoken",
        "place",
    )

    def __init__(self, balance: Balance, place: int, *, streams: bool = True) -> None:
        self._balance, self.place = balance, place
        self._health, self._key = balance._health[place], balance._keys[place]
        self._began = balance._now()
        self._streams, self._was_timed = streams, balance.way != "latency"
        self.has_answered = self.has_spoken = False

    def __enter__(self) -> Visit:
        self._balance._open[self.place] += 1
        self._balance._served[self.place] += 1
        for health in (self._health, self._key):
            if health.failures:
                health.trial = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._balance._open[self.place] -= 1
        for health in (self._health, self._key):
            if health.trial is self:
                health.trial = None

    def hear_through(self, emit: Emit) -> Emit:
        """With the first chunk the address has shown that it answers."""

        def heard(chunk: Chunk) -> Awaitable[None]:
            if not self.has_spoken:
                self.has_spoken = True
                self.note_answer()
            if not self._was_timed and self._streams and not chunk.is_silent:
                self._note_time()
            return emit(chunk)

        return heard

    def note_answer(self) -> None:
        if self.has_answered:
            return
        self.has_answered = True
        now = self._balance._now()
        self._health.recover(self._began, now)
        self._key.recover(self._began, now)

    def note_end(self) -> None:
        """The answer is whole."""
        self.note_answer()
        if not self._was_timed:
            self._note_time()

    def _note_time(self) -> None:
        self._was_timed = True
        now = self._balance._now()
        self._balance._latency[self.place][self._streams].note(now - self._began, now)

    def note_fault(self, fault: AddressFault, why: str, retry_after_s: float | None) -> bool:
        """Is it the first of its kind in a row that sets something aside?"""
        is_of_key = fault in OF_A_KEY
        health, now = self._key if is_of_key else self._health, self._balance._now()
        had_failed, health.why = health.failures, why
        if is_of_key:
            self._health.recover(self._began, now)  # somebody is there
        if fault is AddressFault.BUSY:
            self._key.recover(self._began, now)
        health.fail(self._began, now, fault, retry_after_s)
        if self._balance.on_aside is not None and health.failures and health.failed_at == now:
            self._balance.on_aside(Aside(self.place, is_of_key, health.resumes_at - now, why))
        return not had_failed and health.failures > 0
