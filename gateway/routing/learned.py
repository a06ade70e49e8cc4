"""What was learned, for rules: the router's word on a request, once for all who ask; and numbers by name."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from gateway.capability.wording import wording_of
from gateway.chat import ChatRequest, Json
from gateway.errors import ConfigError, Problem
from gateway.routing.services import Embeds
from gateway.routing.thresholds import read_thresholds

log = logging.getLogger(__name__)
ROUTER = Path("learned") / "router.yaml"
REMEMBERED = 1024  # predictions, by their texts
BEGIN = "hello"


class Predicted(Protocol):
    @property
    def difficulty(self) -> float: ...
    @property
    def topic(self) -> str | None: ...
    @property
    def known(self) -> float: ...


class Predictor(Protocol):
    """A learned router. `floor`: of `known`, under which it has seen nothing like the request. `base_rate`: difficulty
    of a request of which nothing is known."""

    @property
    def topics(self) -> tuple[str, ...]: ...
    @property
    def floor(self) -> float: ...
    @property
    def base_rate(self) -> float: ...
    def predict(self, text: str, vector: bytes | None = None) -> Predicted: ...


class Forecast(NamedTuple):
    difficulty: float
    topic: str | None
    note: Json


def load_router(home: Path) -> tuple[Predictor, list[Problem]]:
    """What was learned here, else what is shipped; and what was wrong with the former."""
    from gateway.capability.router import Router, shipped

    path = home / ROUTER
    if not path.exists():
        return shipped(), []
    try:
        return Router.load(path), []
    except ConfigError as exc:
        return shipped(), list(exc.problems)


class Learned:
    """Read when a rule first asks for it, and anew with each configuration.

    Args:
        load: gives the router, and what was wrong with a file that was left aside for it.
    """

    def __init__(
        self, home: Path, embeddings: Embeds, load: Callable[[Path], tuple[Predictor, list[Problem]]] = load_router
    ) -> None:
        self._home, self._embeddings, self._load = home, embeddings, load
        self._router: Predictor | None = None
        self._thresholds: Mapping[str, float] | None = None
        self._known: OrderedDict[str, Forecast] = OrderedDict()
        self.warnings: list[Problem] = []
        self.shown = None  # a rule's argument that there is nothing to say about

    @property
    def router(self) -> Predictor:
        if self._router is None:
            self._router, problems = self._load(self._home)
            self.warnings += problems
        return self._router

    @property
    def values(self) -> tuple[str, ...]:
        return self.router.topics

    @property
    def thresholds(self) -> Mapping[str, float]:
        """Raises: ConfigError for a damaged file."""
        if self._thresholds is None:
            self._thresholds = read_thresholds(self._home)
        return self._thresholds

    async def prepare(self) -> None:
        """Have the embedding model loaded before the first request asks for it."""
        await self._embeddings.of(BEGIN)

    async def forecast(self, request: ChatRequest) -> Forecast:
        read, asked = wording_of(request)
        known = self._known.get(read)
        if known is not None:
            self._known.move_to_end(read)
            return known
        vector = await self._embeddings.of(asked) if asked else None
        forecast = self.predict(read, vector)
        if vector is not None:  # else it is worth another try
            self._known[read] = forecast
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return forecast

    def predict(self, text: str, vector: bytes | None) -> Forecast:
        """From n-grams alone where there is no vector. Unlike all that it was trained on: no topic, and the difficulty
        of requests at large."""
        router = self.router
        if not text:
            return Forecast(router.base_rate, None, {"abstained": True, "why": "no text"})
        said = router.predict(text, vector)
        note: Json = {"known": round(said.known, 3)} | ({} if vector is not None else {"vector": False})
        if said.known < router.floor:
            return Forecast(router.base_rate, None, {**note, "abstained": True})
        return Forecast(said.difficulty, said.topic, note)
