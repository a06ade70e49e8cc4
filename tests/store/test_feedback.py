from __future__ import annotations

import math

import pytest

from gateway.errors import InvalidRequest
from gateway.store.database import Database
from gateway.store.feedback import MAX_RATINGS, MAX_TEXT, Feedback, Rating

TRACE = "a" * 32


async def test_each_rating_is_kept_in_order(database: Database) -> None:
    clock = iter((10.0, 20.0, 15.0, 16.0))
    feedback = Feedback(database, clock=lambda: next(clock))
    first = await feedback.add(TRACE, "solved", True, "it ran", "app")
    second = await feedback.add(TRACE, "score", 0.5)
    third = await feedback.add(TRACE, "solved", False)
    await feedback.add("b" * 32, "solved", "partly")
    assert await feedback.of(TRACE) == (
        Rating(first, TRACE, 10.0, "app", "solved", True, "it ran"),
        Rating(second, TRACE, 20.0, None, "score", 0.5, None),
        Rating(third, TRACE, 15.0, None, "solved", False, None),
    )
    assert [rating.value for rating in await feedback.of("b" * 32)] == ["partly"]
    assert await feedback.of("c" * 32) == ()


async def test_values_keep_their_type(database: Database) -> None:
    feedback = Feedback(database)
    for value in (True, 1.0, "true", "1"):
        await feedback.add(TRACE, "m", value)
    values = [rating.value for rating in await feedback.of(TRACE)]
    assert [(type(value), value) for value in values] == [(bool, True), (float, 1.0), (str, "true"), (str, "1")]


@pytest.mark.parametrize(
    ("metric", "value", "comment", "param"),
    [
        ("", True, None, "metric"),
        ("m" * 65, True, None, "metric"),
        ("a\nb", True, None, "metric"),
        ("m", math.nan, None, "value"),
        ("m", math.inf, None, "value"),
        ("m", "x" * (MAX_TEXT + 1), None, "value"),
        ("m", True, "x" * (MAX_TEXT + 1), "comment"),
        ("m", "\ud800", None, "value"),
        ("m", True, "\ud800", "comment"),
    ],
)
async def test_what_cannot_be_kept_is_refused(
    database: Database, metric: str, value: bool | float | str, comment: str | None, param: str
) -> None:
    feedback = Feedback(database)
    with pytest.raises(InvalidRequest) as caught:
        await feedback.add(TRACE, metric, value, comment)
    assert caught.value.param == param
    assert await feedback.of(TRACE) == ()


async def test_a_trace_takes_only_so_many_ratings(database: Database) -> None:
    feedback = Feedback(database)
    for _ in range(MAX_RATINGS):
        await feedback.add(TRACE, "solved", True)
    with pytest.raises(InvalidRequest):
        await feedback.add(TRACE, "solved", True)
    await feedback.add("b" * 32, "solved", True)
