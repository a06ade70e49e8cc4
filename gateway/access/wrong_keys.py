"""Wrong keys, counted by the address that they come from.

Nobody finds a key of 256 random bits by trying; who tries many wastes our time, and is told to wait. A right key always
passes, wherever it comes from: behind one address may be a whole office, or a reverse proxy. A client with a revoked
key sends the same one again and again, and goes on being told that it is wrong.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.errors import RateLimited, Unauthorized

log = logging.getLogger(__name__)
MOST = 20  # different wrong keys of one address within WINDOW_S
WINDOW_S = 60.0
MOST_ADDRESSES = 4096
WRONG = "the API key is wrong, revoked or expired"


@dataclass(slots=True)
class _Tries:
    since: float
    tokens: set[int] = field(default_factory=set)


class WrongKeys:
    """`clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tries: dict[str, _Tries] = {}

    def refusal(self, token: str, peer: str | None) -> Unauthorized | RateLimited:
        """What a wrong key is told. `peer`: its address; None where nobody knows it."""
        now, place = self._clock(), _network(peer)
        tries = self._tries.get(place)
        if tries is None or now - tries.since >= WINDOW_S:
            tries = self._begin(place, now)
        mark = hash(token)
        if mark in tries.tokens:
            return Unauthorized(WRONG)
        if len(tries.tokens) < MOST:
            tries.tokens.add(mark)
            if len(tries.tokens) == MOST:
                log.warning("%d different wrong API keys came from %s within %g s", MOST, place, WINDOW_S)
            return Unauthorized(WRONG)
        wait_s = math.ceil(tries.since + WINDOW_S - now)
        return RateLimited(f"{WRONG}, and too many were tried from this address", retry_after_s=max(1, wait_s))

    def _begin(self, place: str, now: float) -> _Tries:
        self._tries.pop(place, None)
        if len(self._tries) >= MOST_ADDRESSES:
            del self._tries[next(iter(self._tries))]  # the one that began first
        tries = self._tries[place] = _Tries(now)
        return tries


def _network(peer: str | None) -> str:
    """An IPv6 client has a network of addresses to try from."""
    if peer is None:
        return "an unknown address"
    if ":" not in peer:
        return peer
    try:
        return str(ipaddress.ip_network((peer.partition("%")[0], 64), strict=False))
    except ValueError:
        return peer
