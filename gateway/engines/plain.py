"""What an engine is of which nothing more is known."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from gateway.engines.footprint import NOTHING, Footprint


class PlainEngine:
    """Its server takes nothing that is known of this machine's memory, and does not sleep."""

    @property
    def is_present(self) -> bool:
        return True

    @property
    def files(self) -> Collection[Path]:
        return ()

    @property
    def growth(self) -> Footprint:
        return NOTHING

    def footprint(self) -> Footprint:
        return NOTHING

    def asleep(self, loaded: Footprint) -> Footprint | None:
        return None
