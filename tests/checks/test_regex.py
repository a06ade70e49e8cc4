"""A pattern is found in the answer, or is absent from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.checks.regex import Regex
from tests.checks.drafts import calls, can_fail_prefix, judged, passes, prefix, prefix_words, whole

DATE = Regex(pattern=r"\d{4}-\d{2}-\d{2}")
NO_LINKS = Regex(pattern=r"https?://\S+\s", absent=True)


def test_what_must_be_found() -> None:
    assert passes(DATE, whole("It was on 2024-03-15."))
    verdict = judged(DATE, whole("It was in March."))
    assert (verdict.passed, verdict.reason) == (False, "pattern not found")
    assert not passes(DATE, whole(None))
    assert passes(DATE, whole(calls(("now", "{}"))))


def test_what_must_be_absent() -> None:
    assert passes(NO_LINKS, whole("No links here."))
    verdict = judged(NO_LINKS, whole("See https://example.com for more."))
    assert (verdict.passed, verdict.reason) == (False, "forbidden pattern found")
    assert passes(NO_LINKS, whole(None))


def test_flags_stand_in_the_pattern() -> None:
    assert passes(Regex(pattern="(?i)^grösse$"), whole("GRÖSSE"))
    assert passes(Regex(pattern="(?m)^b$"), whole("a\nb"))


def test_every_choice_is_judged() -> None:
    assert (judged(DATE, whole("2024-03-15", "March"))).reason == "choice 1: pattern not found"


def test_a_prefix_can_only_hold_what_must_be_absent() -> None:
    assert passes(DATE, prefix("It was"))
    assert not passes(NO_LINKS, prefix("See https://example.com for"))
    assert can_fail_prefix(NO_LINKS) and not can_fail_prefix(DATE)
    assert prefix_words(Regex) is None


@pytest.mark.parametrize(
    ("pattern", "start", "rest"),
    [(r"\bclass\b", "a class", "ical piece"), ("foo$", "foo", "d"), ("foo(?!d)", "a foo", "d"), (r"foo\Z", "foo", "d")]
    + [("foo(?!ds)", "a food", "s"), (r"(?s)a(?=.*z)", "a.z", "b")],
)
def test_a_match_that_more_text_may_undo_does_not_fail_a_prefix(pattern: str, start: str, rest: str) -> None:
    check = Regex(pattern=pattern, absent=True)
    assert passes(check, prefix(start))
    judged(check, whole(start + rest))


def test_a_pattern_must_compile() -> None:
    with pytest.raises(ValidationError, match="not a regular expression"):
        Regex(pattern="(")


@given(st.text(), st.text())
def test_what_a_prefix_fails_the_whole_fails(start: str, rest: str) -> None:
    check = Regex(pattern=r"\b[a-m]+\b|\d{2,}", absent=True)
    if not passes(check, prefix(start)):
        assert not passes(check, whole(start + rest))
