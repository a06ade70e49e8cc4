"""What signals may ask beside the request: given to those that are bound, when a policy is built."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from gateway.chat import ChatRequest, Json, Responder
from gateway.conversations import Maker
from gateway.tasks import ended
from gateway.tokens import Counter

if TYPE_CHECKING:  # it reads a file and imports numpy, which only policies that use it need
    from gateway.routing.learned import Learned

log = logging.getLogger(__name__)
MOST_SESSIONS = 50_000  # about 10 MB


class Embeds(Protocol):
    async def of(self, text: str) -> bytes | None:
        """A unit vector, float32 in little-endian order; None where it cannot be had in good time."""

    async def of_known(self, texts: Sequence[str]) -> list[bytes]:
        """As `of`, of many. Raises: GatewayError."""


@dataclass(frozen=True)
class ServedModel:
    """A model of models.yaml, as far as rules care.

    Args:
        responder: None while it is inactive.
        card: what is known of it now: `context` among others.
        is_loaded: could it begin to answer at once? True of those that need not be loaded.
        wake: have it loaded, where there is room.
    """

    name: str
    responder: Responder | None
    counter: Counter | None
    card: Callable[[], Json]
    is_loaded: Callable[[], bool]
    wake: Callable[[], None] = lambda: None


class Sessions:
    """Who answered last in each conversation: in memory, the least recently used forgotten first. Names of ours and
    hashes, nothing of what was said."""

    def __init__(self, limit: int = MOST_SESSIONS) -> None:
        self._limit = limit
        self._makers: OrderedDict[int, Maker] = OrderedDict()
        self.on_note: Callable[[int, Maker], None] | None = None  # for other processes to `hear`

    def note(self, request: ChatRequest, maker: Maker) -> None:
        place = _place_of(request)
        self.hear(place, maker)
        if self.on_note is not None:
            self.on_note(place, maker)

    def hear(self, place: int, maker: Maker) -> None:
        self._makers[place] = maker
        self._makers.move_to_end(place)
        if len(self._makers) > self._limit:
            self._makers.popitem(last=False)

    def last(self, request: ChatRequest) -> Maker | None:
        """None where the conversation begins with this request: others that began alike are not this one."""
        if "x-gateway-session" not in request.headers and not any(
            message.get("role") == "assistant" for message in request.messages
        ):
            return None
        return self._makers.get(_place_of(request))


def _place_of(request: ChatRequest) -> int:
    return hash((request.key or "", request.conversation))


class Errands:
    """Work in the background that ends with the server. It is to tell of its own failures: others are bugs."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work in the background failed", exc_info=error)

    async def close(self) -> None:
        await ended(self._tasks)


@dataclass(frozen=True)
class Services:
    """`judge`: the model that judges conditions in plain language, where they name none. `preparations`: what bound
    signals do beforehand, so that the first request need not; they never raise. `in_turn`: for what each of them would
    do again."""

    embeddings: Embeds
    models: Mapping[str, ServedModel]
    learned: Learned
    sessions: Sessions
    errands: Errands
    judge: str | None = None
    preparations: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    in_turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def served(self, name: str) -> ServedModel:
        """Raises: ValueError."""
        model = self.models.get(name)
        if model is None:
            raise ValueError(f"no model is called '{name}'; there are: {', '.join(self.models)}")
        return model
