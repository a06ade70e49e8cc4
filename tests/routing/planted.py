"""Vectors by words, so that tests know what is like what: texts that share words are near each other."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence

from gateway.errors import BackendUnavailable

DIMENSIONS = 4096


class WordVectors:
    """Stands for `Embeddings`. `is_away`: its model cannot be had."""

    def __init__(self) -> None:
        self.is_away = False
        self.asked: list[str] = []
        self._places: dict[str, int] = {}

    async def of(self, text: str) -> bytes | None:
        self.asked.append(text)
        return None if self.is_away else self._vector(text)

    async def of_known(self, texts: Sequence[str]) -> list[bytes]:
        if self.is_away:
            raise BackendUnavailable("the model cannot be fetched")
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> bytes:
        numbers = [0.0] * DIMENSIONS
        for word in re.findall(r"\w+", text.lower()):
            numbers[self._places.setdefault(word, len(self._places))] += 1.0
        length = math.sqrt(sum(number * number for number in numbers)) or 1.0
        return struct.pack(f"<{DIMENSIONS}f", *(number / length for number in numbers))
