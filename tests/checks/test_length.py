"""An answer is neither too short nor too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.checks.length import Length
from tests.checks.drafts import calls, can_fail_prefix, judged, passes, prefix, prefix_words, whole


@pytest.mark.parametrize(
    ("check", "short", "right", "long"),
    [
        (Length(min_chars=3, max_chars=5), "ab", "abc", "abcdef"),
        (Length(min_chars=2, max_chars=2), "é", "éé", "ééé"),
        (Length(min_words=2, max_words=3), "one", "one two", "one two three four"),
        (Length(min_words=4, max_words=6), "春天", "春天来了", "春天来了，真好啊！"),
        (Length(min_words=2, max_words=2), "नमस्ते", "नमस्ते दुनिया", "नमस्ते सुन्दर दुनिया"),
    ],
)
def test_bounds_are_inclusive(check: Length, short: str, right: str, long: str) -> None:
    assert not passes(check, whole(short))
    assert passes(check, whole(right))
    assert not passes(check, whole(long))


def test_white_space_around_and_punctuation_between_do_not_count() -> None:
    assert passes(Length(max_chars=3), whole("  abc\n\n"))
    assert not passes(Length(min_chars=1), whole("   "))
    assert passes(Length(max_words=2), whole("one — two ..."))
    assert not passes(Length(min_words=1), whole("... — !"))


def test_the_reason_says_which_bound() -> None:
    assert (judged(Length(max_chars=3), whole("abcd"))).reason == "more than 3 characters"
    assert (judged(Length(min_words=3), whole("one two"))).reason == "2 words, fewer than 3"
    assert (judged(Length(max_words=1), whole("a", "a b"))).reason == "choice 1: more than 1 words"


def test_empty_answers_are_too_short_but_calls_are_not() -> None:
    assert not passes(Length(min_chars=1), whole(None))
    assert passes(Length(min_chars=1), whole(calls(("now", "{}"))))
    assert not passes(Length(min_chars=100), whole(calls(("now", "{}"), content="Let me see.")))


def test_a_prefix_can_only_be_too_long() -> None:
    assert passes(Length(min_chars=100), prefix("short"))
    assert not passes(Length(max_chars=10), prefix("much too long already"))
    assert not passes(Length(max_words=2), prefix("one two three"))


def test_only_a_maximum_can_fail_a_prefix() -> None:
    assert can_fail_prefix(Length(max_words=3))
    assert not can_fail_prefix(Length(min_chars=3))
    assert prefix_words(Length) is None


@pytest.mark.parametrize(
    "bounds", [{}, {"min_chars": -1}, {"min_chars": 5, "max_chars": 4}, {"max_words": 1.5}, {"chars": 1}]
)
def test_bounds_that_make_no_sense_are_errors(bounds: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Length(**bounds)


@given(st.text(), st.text())
def test_what_a_prefix_fails_the_whole_fails(start: str, rest: str) -> None:
    for check in (Length(max_chars=5), Length(max_words=2)):
        if not passes(check, prefix(start.lstrip())):
            assert not passes(check, whole(start.lstrip() + "." + rest))
