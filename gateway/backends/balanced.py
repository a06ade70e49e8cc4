"""The leaf for a model with several deployments, each an address and a key: each request goes to one of them, and on to
another where it was not worked on."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.backends.openai import OpenAIBackend, Standing
from gateway.backends.refusals import key_refused
from gateway.backends.retries import asked_pause_s
from gateway.chat import Answer, ChatRequest, Emit, Json
from gateway.engines.balance import OF_A_KEY, Balance, Visit, choose
from gateway.engines.wishes import Wish
from gateway.errors import (
    AddressFault,
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    BadBackendReply,
    Overloaded,
    UpstreamRefused,
)
from gateway.trace import Trace

log = logging.getLogger(__name__)
NAMED = re.compile(r"model '[^']*'(?: is not running)?:? ")
SHOWN_OF_A_KEY = 4  # characters at its end, of one that is long enough to be none the weaker for it
LONG_KEY = 16
MOVES_ON = frozenset(
    {
        AddressFault.UNREACHED,
        AddressFault.CUT,
        AddressFault.UNAVAILABLE,
        AddressFault.STOPPING,
        AddressFault.BUSY,
        AddressFault.KEY,
    }
)


@dataclass(frozen=True)
class BalancedBackend(OpenAIBackend):
    """What holds for all deployments, as of `OpenAIBackend`, whose `take_lease` is one of theirs.

    Args:
        leaves: by deployment, what asks there.
        balance: says which one is asked.
        places: that are not to be asked, or None; those that are, are added to it.
    """

    leaves: tuple[OpenAIBackend, ...] = ()
    balance: Balance = field(default_factory=lambda: Balance("", ()))
    places: set[int] | None = None

    def in_pair(self) -> tuple[OpenAIBackend, Callable[[], OpenAIBackend | None]]:
        """For one request: this, and what asks another deployment beside it, once that is wanted and there is one."""
        places: set[int] = set()

        def second() -> OpenAIBackend | None:
            is_there = choose(self.balance.views(places)) is not None
            return replace(self, places=places, retries=0) if is_there else None

        return replace(self, places=places), second

    @property
    def has_news(self) -> bool:
        return True

    def card(self) -> Json:
        """Also: how many addresses and keys it has, and how many of them answer, once anybody can know that."""
        balance, card = self.balance, super().card()
        addresses = len(set(balance.addresses))
        card |= {"addresses": addresses} if addresses > 1 else {}
        card |= {"keys": balance.count} if balance.count > addresses else {}
        if balance.is_known:
            up = {"addresses": balance.up, "keys": balance.up_keys}
            card |= {f"{what}_up": count for what, count in up.items() if what in card}
        return card

    def _respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Coroutine[Any, Any, Answer]:
        return self._go_round(request, emit, trace)

    async def _go_round(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        tried = self.places if self.places is not None else set()
        retries, streams = self.retries_of(request, time.monotonic()), request.stream
        error: BackendError | None = None
        is_again = False  # has a retry been taken for what is asked next?
        while True:
            visit = self.balance.visit(request.conversation, tried, streams=streams)
            if visit is None and not tried:
                visit = self.balance.probe(streams=streams)
            if visit is None:
                is_again = error is not None and (is_again or retries.take(error))
                if not is_again or not await retries.wait(self.balance.ready_in_s() or None):
                    raise await self._none_left(error, trace)
                tried.clear()
                request = request.before(retries.due)
                continue
            tried.add(visit.place)
            try:
                with visit:
                    return await self._ask(visit, request, emit, trace)
            except BackendError as exc:
                if exc.fault not in OF_A_KEY:  # the other keys there would fare no better
                    tried.update(self.balance.places_beside(visit.place))
                retries.note(exc)
                is_unworked = _may_move(exc) and not retries.is_suspect
                is_again = not is_unworked and not visit.has_spoken and retries.take(exc)
                if visit.has_spoken or not (is_unworked or is_again):
                    raise
                error = exc if error is None or exc.fault is not AddressFault.KEY else error

    async def _ask(self, visit: Visit, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        leaf, hops = self._leaf(visit.place), len(trace.children)
        try:
            answer = await leaf.attempt(request, visit.hear_through(emit), trace)
        except BackendError as exc:
            fault = exc.fault or _doubt(exc, request)
            if fault is None and isinstance(exc, UpstreamRefused):
                visit.note_answer()
            elif fault is not None:
                is_new = visit.note_fault(fault, _words(exc), asked_pause_s(exc.headers))
                if is_new and fault is AddressFault.KEY:
                    log.warning("model '%s': %s; it is set aside", self.name, _refused_key(leaf, exc))
            raise
        finally:
            if len(trace.children) > hops:
                trace.children[hops].note(**self._place_facts(visit.place))
        visit.note_end()
        return answer

    def _place_facts(self, place: int) -> Json:
        """Where it was asked, counted from 1."""
        facts: Json = {"address": self.balance.addresses[place] + 1}
        same = self.balance.places_beside(place)
        return facts | {"key": same.index(place) + 1} if len(same) > 1 else facts

    def _leaf(self, place: int) -> OpenAIBackend:
        """What asks there; for vectors in the way that those are asked for."""
        leaf = self.leaves[place]
        if self.wire is leaf.wire:
            return leaf
        return replace(leaf, wire=self.wire, counter=self.counter, look=self.look)

    async def _none_left(self, error: BackendError | None, trace: Trace) -> BackendError:
        """One error for all of them."""
        if error is not None and (
            not _may_move(error) or error.fault is AddressFault.BUSY or isinstance(error, Overloaded)
        ):
            return error
        is_of_keys = self.balance.has_no_key and (error is None or error.fault is AddressFault.KEY)
        found = self._no_key() if is_of_keys else await self._all_away(error)
        if error is None:  # then nobody has said so in the trace
            with trace.span("model", self.name) as span:
                span.failure = found.reason
                span.leave(found.reason)
        return found

    def _no_key(self) -> BackendError:
        count = self.balance.count
        return key_refused(self.name, f"all {count} keys" if count > 1 else "its key")

    async def _all_away(self, error: BackendError | None) -> BackendUnavailable:
        """With the time after which the first may be back."""
        why = _words(error) if error is not None else ""
        waits_s = [self.balance.resumes_in_s(), asked_pause_s(error.headers) if error is not None else None]
        for place, leaf in enumerate(self.leaves):
            away = await _away(leaf)
            if away is not None:
                waits_s.append(asked_pause_s(away.headers))
                why = why or _words(away)
            why = why or self.balance.why_away(place)
        retry_s = max(1, math.ceil(min((wait_s for wait_s in waits_s if wait_s is not None), default=1.0)))
        count = len(set(self.balance.addresses))
        what = f"none of its {count} addresses answers" if count > 1 else "its address does not answer"
        message = f"model '{self.name}': {what}" + (f" ({why})" if why else "")
        return BackendUnavailable(message, headers={"retry-after": str(retry_s)})


def _doubt(error: BackendError, request: ChatRequest) -> AddressFault | None:
    """What is not said to be the address's fault may be so all the same."""
    is_late = isinstance(error, BackendTimeout) and (request.deadline is None or time.monotonic() < request.deadline)
    return AddressFault.FAILED if is_late or isinstance(error, BadBackendReply) else None


def _refused_key(leaf: OpenAIBackend, error: BackendError) -> str:
    key = (leaf.take_lease.lease.key if isinstance(leaf.take_lease, Standing) else None) or ""
    shown = f" …{key[-SHOWN_OF_A_KEY:]}" if len(key) >= LONG_KEY else ""
    return f"the upstream refuses the key{shown} ({error.reason})"


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
