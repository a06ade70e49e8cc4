from __future__ import annotations

import pytest

from gateway.costs.period import moment

NOW = 1_796_083_200.0  # 2026-12-01T00:00Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90m", NOW - 5400),
        ("1.5h", NOW - 5400),
        ("7d", NOW - 7 * 86_400),
        ("2w", NOW - 14 * 86_400),
        ("2026-12-01", NOW),
        ("2026-11-30T23:00", NOW - 3600),
        ("2026-12-01T01:00+01:00", NOW),
        ("2026-11-30T19:00-05:00", NOW),
        ("2026-12-01T00:00Z", NOW),
    ],
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert moment(text, NOW) == seconds


@pytest.mark.parametrize("text", ["", "yesterday", "7", "-7d", "2026-13-01", "nan"])
def test_nonsense_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="is no time: say 7d"):
        moment(text, NOW)
