"""How long an upstream wants to be left alone, in each way that it may say so."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from gateway.backends.retries import asked_pause_s


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "7", "retry-after-ms": "soon"}, 7.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_what_is_asked_for(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_pause_s(headers) == seconds


def test_a_date_is_so_far_away() -> None:
    asked_s = asked_pause_s({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert asked_s is not None and 28 <= asked_s <= 30
