"""Several addresses of one model: which one a request goes to, and which are set aside for a while.

The choice is a pure function, `choose`. `Balance` keeps what it needs to know: how many requests are open at each
address, which have failed, and who had a conversation last.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType

from gateway.chat import Emit
from gateway.chunks import Chunk
from gateway.errors import AddressFault

MUCH_BUSIER = 2.0  # open requests more than its share, at which a conversation leaves the address that remembers it
REMEMBERED = 10_000  # conversations
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
BUSY_S = 1.0  # where an address says that it has too much to do, and not for how long
STOPPING_S = 5.0  # where it stops: a restart takes about as long


class Rank(IntEnum):
    """How good an address is; a worse one is asked only where no better one is there."""

    UP = 0
    UNSURE = 1  # nobody has heard of it yet
    BUSY = 2  # it has said so
    AWAY = 3  # not to be asked


@dataclass(frozen=True, slots=True)
class View:
    """An address as a choice sees it. `open`, `served`: requests that it has now, and has had in all."""

    rank: Rank
    open: int = 0
    served: int = 0
    weight: float = 1.0


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
    return view.open / view.weight, view.served / view.weight


def is_much_busier(view: View, least: View) -> bool:
    """Has it at least MUCH_BUSIER open requests more than it would have at the other's load?"""
    return view.open - view.weight * least.open / least.weight >= MUCH_BUSIER


class Health:
    """Of one address: after a failure it is set aside, for a second at first and twice as long each time, and then
    tried with one request at a time until something comes of it."""

    def __init__(self) -> None:
        self.failures = 0  # in a row
        self.resumes_at = self.busy_until = self.failed_at = -float("inf")
        self.trial: Visit | None = None
        self.why = ""

    def rank(self, now: float) -> Rank:
        if self.failures and (now < self.resumes_at or self.trial is not None):
            return Rank.AWAY
        return Rank.BUSY if now < self.busy_until else Rank.UP

    def fail(self, began: float, now: float, fault: AddressFault, retry_after_s: float | None) -> None:
        """Args: `began`: when the request did. What began before the last failure tells nothing new."""
        if fault is AddressFault.BUSY:
            self.busy_until = now + min(BUSY_S if retry_after_s is None else retry_after_s, LONGEST_PAUSE_S)
            return
        if began < self.failed_at:
            return
        if fault is AddressFault.STOPPING:
            self.failures, pause_s = 1, STOPPING_S
        else:
            self.failures += 1
            pause_s = min(FIRST_PAUSE_S * 2.0 ** min(self.failures - 1, 16), LONGEST_PAUSE_S)
        self.failed_at = now
        self.resumes_at = now + min(max(pause_s, retry_after_s or 0.0), LONGEST_PAUSE_S)

    def recover(self, began: float) -> None:
        """Something came of a request."""
        if began >= self.failed_at:
            self.failures, self.trial = 0, None


class Balance:
    """The addresses of one model.

    Args:
        name: of the model.
        weights: of each address, as models.yaml says; None: by the places it has.
        presence: what the pool knows of an address, where it watches it.
        slots: the places that an address has; None where it does not tell.
    """

    def __init__(
        self,
        name: str,
        weights: Sequence[float | None],
        *,
        presence: Callable[[int], Rank] | None = None,
        slots: Callable[[int], int | None] = lambda place: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self._weights = name, tuple(weights)
        self._presence, self._slots, self._now = presence, slots, now
        self._health = [Health() for _ in self._weights]
        self._open = [0] * len(self._weights)
        self._served = [0] * len(self._weights)
        self._last: OrderedDict[str, int] = OrderedDict()  # address by conversation

    @property
    def count(self) -> int:
        return len(self._weights)

    @property
    def up(self) -> int:
        """How many answer, as far as anybody knows."""
        return sum(rank in (Rank.UP, Rank.BUSY) for rank in map(self.rank, range(self.count)))

    @property
    def first_up(self) -> int:
        """For questions that any of them can answer."""
        return min(range(self.count), key=self.rank)

    @property
    def is_known(self) -> bool:
        """Has any of them been heard of yet?"""
        looks = map(self._presence, range(self.count)) if self._presence is not None else ()
        return any(self._served) or any(rank is not Rank.UNSURE for rank in looks)

    def rank(self, place: int) -> Rank:
        rank = self._health[place].rank(self._now())
        return rank if self._presence is None else max(rank, self._presence(place))

    def views(self, without: Collection[int] = ()) -> list[View]:
        weights = self._shares()
        return [
            View(
                Rank.AWAY if place in without else self.rank(place),
                self._open[place],
                self._served[place],
                weights[place],
            )
            for place in range(self.count)
        ]

    def _shares(self) -> list[float]:
        """Places count as weights only where every address tells how many it has."""
        slots = [self._slots(place) for place in range(self.count)]
        told = slots if all(slots) else [1] * self.count
        return [weight or float(slot or 1) for weight, slot in zip(self._weights, told, strict=True)]

    def visit(self, conversation: str, without: Collection[int] = ()) -> Visit | None:
        """Send a request to one of them, but for those that it has been to; None where all are away."""
        place = choose(self.views(without), self._last.get(conversation))
        if place is None:
            return None
        self._last[conversation] = place
        self._last.move_to_end(conversation)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        return Visit(self, place)

    def resumes_in_s(self) -> float | None:
        """Until the first of those that were set aside here is tried again; None where none was."""
        paused = [health.resumes_at for health in self._health if health.failures]
        return max(0.0, min(paused) - self._now()) if paused else None

    def why_away(self, place: int) -> str:
        return self._health[place].why


class Visit:
    """One request at one address, as a block: open until it is left."""

    __slots__ = ("_balance", "_began", "_health", "has_spoken", "place")

    def __init__(self, balance: Balance, place: int) -> None:
        self._balance, self.place = balance, place
        self._health = balance._health[place]
        self._began = balance._now()
        self.has_spoken = False

    def __enter__(self) -> Visit:
        self._balance._open[self.place] += 1
        self._balance._served[self.place] += 1
        if self._health.failures:
            self._health.trial = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._balance._open[self.place] -= 1
        if self._health.trial is self:
            self._health.trial = None

    def hear_through(self, emit: Emit) -> Emit:
        """With the first chunk the address has shown that it answers."""

        def heard(chunk: Chunk) -> Awaitable[None]:
            if not self.has_spoken:
                self.has_spoken = True
                self.note_answer()
            return emit(chunk)

        return heard

    def note_answer(self) -> None:
        self._health.recover(self._began)

    def note_fault(self, fault: AddressFault, why: str, retry_after_s: float | None) -> None:
        self._health.why = why
        self._health.fail(self._began, self._balance._now(), fault, retry_after_s)
