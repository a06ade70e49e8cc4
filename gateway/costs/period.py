"""A period of time as people write it. All days are UTC's."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import NamedTuple

UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class Period(NamedTuple):
    """Unix seconds, from `since` to before `until`; None: without a limit. Sums are of whole hours: those in which the
    period begins and ends are in it."""

    since: float | None = None
    until: float | None = None


ALWAYS = Period()


def moment(text: str, now: float) -> float:
    """`7d`, `24h`, `90m` or `2w` ago; a day such as 2026-11-01, which begins at midnight UTC; or a time of ISO 8601,
    UTC where it names no zone. Raises: ValueError saying what would do."""
    if found := re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text):
        return now - float(found[1]) * UNITS_S[found[2]]
    try:
        at = datetime.fromisoformat(text)
        seconds = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"'{text[:40]}' is no time: say 7d, 24h, 2026-11-01 or 2026-11-01T08:00")
    return seconds
