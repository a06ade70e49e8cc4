"""What a caller says when it asks the pool for a model, and what the pool tells of what it does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.engines.footprint import Footprint


@dataclass(slots=True)
class Wish:
    """What the caller knows, and what it is told.

    Args:
        can_move_on: others can answer where this model is not there soon.
        offers_tools: an agent asks, who may come back in a moment with what its tools said.
        conversation: whose slot the request should go to, where the server has slots; None leaves it to the server.
        tokens: that this slot then holds, of prompt and answer, said before the lease ends; 0 where nobody knows.
        woke: told: the model was not loaded.
        waited_s: told: for the lease.
        restored_tokens, restored_ms: told: of the conversation, put back into the slot.
    """

    can_move_on: bool = False
    offers_tools: bool = False
    conversation: str | None = None
    tokens: int = 0
    woke: bool = False
    waited_s: float = 0.0
    restored_tokens: int = 0
    restored_ms: float = 0.0


class Reason(StrEnum):
    """Which step in a model's life it is. It takes memory from LOAD to GONE."""

    WANTED = "wanted"  # it waits for room
    FILES = "files"  # they are being fetched, or have come
    FORGOTTEN = "forgotten"  # nobody waits for it any more, or it was not worth the room
    REFUSED = "refused"  # it does not fit, whatever goes
    LOAD = "load"
    LOADED = "loaded"
    DRAIN = "drain"  # no new requests, for it has to go
    STAY = "stay"  # it need not go after all
    IDLE = "idle"  # from here on: it is unloaded, and for what
    ROOM = "room"
    CRASH = "crash"  # its server is gone; it is started again, or taken away
    FAILED = "failed"  # a start has failed
    STOP = "stop"  # the gateway stops, or does not need it any more
    ASLEEP = "asleep"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Event:
    """A step in a model's life. `at`: unix seconds; `stage`: where it is now; `footprint`: what it takes then, or will;
    `seconds`: what a load took."""

    at: float
    model: str
    stage: str
    reason: Reason
    why: str
    footprint: Footprint
    seconds: float | None = None
