"""Answers that are kept for the next request like theirs: what makes requests alike, which answers may be kept, and the
store of them. `responders/cached.py` puts it before a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Keeping:
    """What the configuration says of the store. `is_used`: some node keeps answers."""

    is_used: bool = False
    store: Literal["memory", "database", "sqlite"] = "memory"
    max_bytes: int = 64 << 20

    @property
    def is_stored(self) -> bool:
        """In the database too."""
        return self.store != "memory"
