"""The leaf for a model with several addresses: each request goes to one of them, and on to another where it was not
worked on."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway.backends.openai import OpenAIBackend, Standing
from gateway.chat import Answer, ChatRequest, Emit, Json
from gateway.engines.balance import Balance, Visit
from gateway.engines.wishes import Wish
from gateway.errors import AddressFault, BackendError, BackendUnavailable, Overloaded, UpstreamRefused
from gateway.trace import Trace

MOST_CUTS = 2  # a request at which so many servers broke the connection off is not sent to another: it may be the cause
NAMED = re.compile(r"model '[^']*'(?: is not running)?:? ")
MOVES_ON = frozenset(
    {
        AddressFault.UNREACHED,
        AddressFault.CUT,
        AddressFault.UNAVAILABLE,
        AddressFault.STOPPING,
        AddressFault.BUSY,
    }
)


@dataclass(frozen=True)
class BalancedBackend(OpenAIBackend):
    """What holds for all addresses, as of `OpenAIBackend`, whose `take_lease` is one of theirs.

    Args:
        leaves: by address, what asks there.
        balance: says which one is asked.
    """

    leaves: tuple[OpenAIBackend, ...] = ()
    balance: Balance = field(default_factory=lambda: Balance("", ()))

    @property
    def has_news(self) -> bool:
        return True

    def card(self) -> Json:
        """Also: how many addresses it has, and how many of them answer, once anybody can know that."""
        card = super().card() | {"addresses": self.balance.count}
        return card | {"addresses_up": self.balance.up} if self.balance.is_known else card

    async def _respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        tried: set[int] = set()
        cuts, error = 0, None
        while (visit := self.balance.visit(request.conversation, tried)) is not None:
            tried.add(visit.place)
            try:
                with visit:
                    return await self._ask(visit, request, emit, trace)
            except BackendError as exc:
                cuts += exc.fault is AddressFault.CUT
                if visit.has_spoken or not _may_move(exc) or cuts >= MOST_CUTS:
                    raise
                error = exc
        if error is not None and (error.fault is AddressFault.BUSY or isinstance(error, Overloaded)):
            raise error
        raise await self._all_away(error, trace)

    async def _ask(self, visit: Visit, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        leaf, hops = self._leaf(visit.place), len(trace.children)
        try:
            answer = await leaf._respond(request, visit.hear_through(emit), trace)
        except BackendError as exc:
            if exc.fault is not None:
                visit.note_fault(exc.fault, _words(exc), _retry_after_s(exc.headers))
            if exc.fault is AddressFault.BUSY or (exc.fault is None and isinstance(exc, UpstreamRefused)):
                visit.note_answer()
            raise
        finally:
            if len(trace.children) > hops:
                trace.children[hops].note(address=visit.place + 1)
        visit.note_answer()
        return answer

    def _leaf(self, place: int) -> OpenAIBackend:
        """What asks there; for vectors in the way that those are asked for."""
        leaf = self.leaves[place]
        if self.wire is leaf.wire:
            return leaf
        return replace(leaf, wire=self.wire, counter=self.counter, look=self.look)

    async def _all_away(self, error: BackendError | None, trace: Trace) -> BackendUnavailable:
        """One error for all of them, with the time after which the first may be back."""
        why = _words(error) if error is not None else ""
        waits_s = [self.balance.resumes_in_s(), _retry_after_s(error.headers) if error is not None else None]
        for place, leaf in enumerate(self.leaves):
            away = await _away(leaf)
            if away is not None:
                waits_s.append(_retry_after_s(away.headers))
                why = why or _words(away)
            why = why or self.balance.why_away(place)
        retry_s = max(1, math.ceil(min((wait_s for wait_s in waits_s if wait_s is not None), default=1.0)))
        count = self.balance.count
        message = f"model '{self.name}': none of its {count} addresses answers" + (f" ({why})" if why else "")
        found = BackendUnavailable(message, headers={"retry-after": str(retry_s)})
        if error is None:  # then nobody has said so in the trace
            with trace.span("model", self.name) as span:
                span.failure = found.reason
                span.leave(found.reason)
        return found


def _words(error: BackendError) -> str:
    """What an error says, without the model's name before it."""
    return NAMED.sub("", error.message, count=1)


def _may_move(error: BackendError) -> bool:
    """Was the request not worked on? Also where the pool says that nobody is there, or that all places are taken."""
    if error.fault is None:
        return isinstance(error, BackendUnavailable | Overloaded)
    return error.fault in MOVES_ON


async def _away(leaf: OpenAIBackend) -> BackendError | None:
    """What the pool says of a server that is not there."""
    if isinstance(leaf.take_lease, Standing):
        return None
    try:
        async with leaf.take_lease(time.monotonic(), Wish()):
            return None
    except BackendUnavailable as exc:
        return exc
    except BackendError:
        return None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
