"""Models in several GGUF files, as llama.cpp splits and finds them: `NAME-00001-of-00003.gguf` beside its siblings."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Split:
    """Which part of how many; both count from 1."""

    number: int
    count: int


def split_of(path: str) -> Split | None:
    """None for a file that is whole."""
    found = _SPLIT.search(path)
    return Split(int(found[1]), int(found[2])) if found and found[2] != "00001" else None


def nth_part(path: str, number: int) -> str:
    """The path of another part; `path` is one of a split file."""
    return _SPLIT.sub(lambda found: f"-{number:05}-of-{found[2]}.gguf", path)
