"""Semantic routes: is a request like these utterances? By cosines of sentence vectors, above a floor that is worked out
from the utterances themselves and from everyday requests that have nothing to do with them.

A request's likeness to a set is the mean of its three highest cosines: of one alone, a single odd utterance decides.
Everyday requests have a likeness of about 0.1 to a set; the floor is above 98 % of them, and above that the further the
more alike the utterances are. Measured with all-MiniLM-L6-v2: docs/policies.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from gateway.capability.wording import wording_of
from gateway.chat import ChatRequest, Json
from gateway.errors import GatewayError
from gateway.routing.services import Embeds, Errands
from gateway.routing.signals import Noted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

log = logging.getLogger(__name__)
NEAREST = 3
UNRELATED_SHARE = 0.98  # of everyday requests, that are to be below the floor
LOW_SHARE = 0.1  # of the utterances, that are taken for strays when they are held against the others
RISE = 0.4  # from the everyday requests to the utterances
FLOOR_OF_FEW, FEW = 0.35, 3  # of less than three utterances nobody can tell how alike they are
LOWEST, HIGHEST = 0.2, 0.8
RETRY_S = 30.0


@dataclass(frozen=True)
class Utterances:
    """`floor` None: to be worked out."""

    examples: tuple[str, ...]
    against: tuple[str, ...] = ()
    floor: float | None = None


@cache
def everyday() -> tuple[str, ...]:
    """What people ask of assistants day by day."""
    from gateway.shards.proving.cases import controls  # here: all policies import this module

    lines = files("gateway.routing").joinpath("everyday.txt").read_text("utf-8").splitlines()
    asked = [str(case.messages[-1]["content"]) for case in controls()]
    return tuple(dict.fromkeys([*(line for line in lines if line), *asked]))


def likeness(rows: Matrix, vectors: Matrix, nearest: int = NEAREST) -> NDArray[np.float32]:
    """Of each vector to the set of rows.

    Args:
        rows: unit vectors, shape (n, d), n >= 1.
        vectors: unit vectors, shape (m, d).
    Returns: shape (m,), the mean of each vector's highest cosines.
    """
    import numpy as np

    cosines = np.vecdot(vectors[:, None, :], rows[None, :, :])  # `@` would start threads of BLAS, that spin
    means: NDArray[np.float32] = np.sort(cosines, axis=1)[:, -nearest:].mean(axis=1)
    return means


def floor_of(rows: Matrix, unrelated: Matrix) -> tuple[float, float]:
    """From what likeness on a request belongs to the set, and up to which it is like anything (shape as `likeness`)."""
    import numpy as np

    common = float(np.quantile(likeness(rows, unrelated), UNRELATED_SHARE))
    if len(rows) < FEW:
        floor = max(common, FLOOR_OF_FEW)
    else:
        others = [float(likeness(np.delete(rows, n, axis=0), rows[n : n + 1])[0]) for n in range(len(rows))]
        floor = common + RISE * max(0.0, float(np.quantile(others, LOW_SHARE)) - common)
    return min(HIGHEST, max(LOWEST, floor)), common


class SemanticRoute:
    """One set of utterances. Knows nothing until `prepare` has had their vectors made."""

    def __init__(self, said: Utterances, embeddings: Embeds, errands: Errands, in_turn: asyncio.Lock) -> None:
        self.said = said
        self._embeddings, self._errands, self._in_turn = embeddings, errands, in_turn
        self._rows: Matrix | None = None
        self._against: Matrix | None = None
        self._floor = self._common = 0.0
        self._preparing: asyncio.Task[None] | None = None
        self._why, self._retry_at = "its examples are being read", 0.0

    @property
    def shown(self) -> Json:
        return {"examples": len(self.said.examples), "first": self.said.examples[0]}

    async def prepare(self) -> None:
        """Returns when it is ready, or cannot be made ready now."""
        if self._rows is None and self._preparing is None and time.monotonic() >= self._retry_at:
            self._preparing = self._errands.start(self._prepare())
        if self._preparing is not None:
            await asyncio.wait({self._preparing})

    async def _prepare(self) -> None:
        said, unrelated = self.said, everyday()
        try:
            async with self._in_turn:  # the everyday ones are the same for all
                vectors = await self._embeddings.of_known((*said.examples, *said.against, *unrelated))
        except GatewayError as error:
            self._why, self._retry_at = "there are no vectors now", time.monotonic() + RETRY_S
            log.warning("similar_to: no vectors of its examples for now: %s", error.message)
        else:
            self._take(vectors)
        finally:
            self._preparing = None

    def _take(self, vectors: Sequence[bytes]) -> None:
        import numpy as np

        rows = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1)
        count, against = len(self.said.examples), len(self.said.against)
        floor, self._common = floor_of(rows[:count], rows[count + against :])
        self._floor = floor if self.said.floor is None else self.said.floor
        self._against = rows[count : count + against] if against else None
        self._rows = rows[:count]

    async def judge(self, request: ChatRequest) -> Noted:
        """Notes likeness and floor; `abstained` where the request is like nothing that the set says; `why` where it
        cannot be judged."""
        if self._rows is None:
            if self._preparing is None and time.monotonic() >= self._retry_at:
                self._preparing = self._errands.start(self._prepare())
            return Noted(False, {"abstained": True, "why": self._why})
        text = wording_of(request).asked
        if not text:
            return Noted(False, {"abstained": True, "why": "no text"})
        vector = await self._embeddings.of(text)
        if vector is None:
            return Noted(False, {"abstained": True, "why": "no vector of the text in time"})
        return self._judge(vector, self._rows)

    def _judge(self, vector: bytes, rows: Matrix) -> Noted:
        import numpy as np

        asked = np.frombuffer(vector, "<f4")[None, :]
        alike = float(likeness(rows, asked)[0])
        note: Json = {"likeness": round(alike, 3), "floor": round(self._floor, 3)}
        if alike < self._floor:
            return Noted(False, note | ({"abstained": True} if alike <= self._common else {}))
        if self._against is not None:
            nearest = min(NEAREST, len(rows), len(self._against))
            other = float(likeness(self._against, asked, nearest)[0])
            note["unlike"] = round(other, 3)
            if other >= float(likeness(rows, asked, nearest)[0]):
                return Noted(False, note)
        return Noted(True, note)
