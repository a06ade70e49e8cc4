"""A pattern is found in the answer, or is absent from it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.checks.regex import Regex
from tests.checks.drafts import calls, judged, passes, prefix, whole

DATE = Regex(pattern=r"\d{4}-\d{2}-\d{2}")
NO_LINKS = Regex(pattern=r"https?://\S+\s", absent=True)


async def test_what_must_be_found() -> None:
    assert await passes(DATE, whole("It was on 2024-03-15."))
    verdict = await judged(DATE, whole("It was in March."))
    assert (verdict.passed, verdict.reason) == (False, "pattern not found")
    assert not await passes(DATE, whole(None))
    assert await passes(DATE, whole(calls(("now", "{}"))))


async def test_what_must_be_absent() -> None:
    assert await passes(NO_LINKS, whole("No links here."))
    verdict = await judged(NO_LINKS, whole("See https://example.com for more."))
    assert (verdict.passed, verdict.reason) == (False, "forbidden pattern found")
    assert await passes(NO_LINKS, whole(None))


async def test_flags_stand_in_the_pattern() -> None:
    assert await passes(Regex(pattern="(?i)^grösse$"), whole("GRÖSSE"))
    assert await passes(Regex(pattern="(?m)^b$"), whole("a\nb"))


async def test_every_choice_is_judged() -> None:
    assert (await judged(DATE, whole("2024-03-15", "March"))).reason == "choice 1: pattern not found"


async def test_a_prefix_can_only_hold_what_must_be_absent() -> None:
    assert await passes(DATE, prefix("It was"))
    assert not await passes(NO_LINKS, prefix("See https://example.com for"))
    assert NO_LINKS.can_fail_prefix and not DATE.can_fail_prefix
    assert Regex.prefix_words is None


@pytest.mark.parametrize(
    ("pattern", "start", "rest"),
    [(r"\bclass\b", "a class", "ical piece"), ("foo$", "foo", "d"), ("foo(?!d)", "a foo", "d"), (r"foo\Z", "foo", "d")]
    + [("foo(?!ds)", "a food", "s"), (r"(?s)a(?=.*z)", "a.z", "b")],
)
async def test_a_match_that_more_text_may_undo_does_not_fail_a_prefix(pattern: str, start: str, rest: str) -> None:
    check = Regex(pattern=pattern, absent=True)
    assert await passes(check, prefix(start))
    await judged(check, whole(start + rest))


def test_a_pattern_must_compile() -> None:
    with pytest.raises(ValidationError, match="not a regular expression"):
        Regex(pattern="(")


@given(st.text(), st.text())
async def test_what_a_prefix_fails_the_whole_fails(start: str, rest: str) -> None:
    check = Regex(pattern=r"\b[a-m]+\b|\d{2,}", absent=True)
    if not await passes(check, prefix(start)):
        assert not await passes(check, whole(start + rest))
