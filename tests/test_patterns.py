"""Patterns of policies' authors on text that is made to keep them busy."""

from __future__ import annotations

import time

import pytest

from gateway.checks.not_refusal import NotRefusal
from gateway.checks.regex import Regex
from gateway.patterns import Pattern, TookTooLong, pattern_of
from tests.checks.drafts import judged, whole
from tests.conftest import Serve

HOPELESS = "(a|aa)+$"
MADE_FOR_IT = "a" * 80 + "b"
MODELS = "models:\n  m: {engine: scripted, replies: [{text: hi}]}\n"
POLICY = f"""
policy: default
routes:
  - {{name: slow, when: {{regex: "{HOPELESS}"}}, answer: {{model: m}}}}
  - {{name: rest, answer: {{model: m}}}}
"""


@pytest.mark.parametrize(("source", "text"), [(HOPELESS, MADE_FOR_IT), (r"\s+$", " " * 400_000 + "x")])
def test_a_search_is_given_up_in_time(source: str, text: str) -> None:
    began = time.monotonic()
    with pytest.raises(TookTooLong):
        pattern_of(source).find_end(text)
    assert time.monotonic() - began < 5


def test_what_is_found_quickly_is_found_as_by_re() -> None:
    assert pattern_of(r"\d{4}").find_end("in 2024.") == 7
    assert pattern_of("(?i)^b$|c").find_end("B") == 1
    assert pattern_of("ä", ignores_case=True).is_in("Ä")
    assert not Pattern("z").is_in("a")
    for wrong in ("(", "a{2,1}", "[z-a]", "(?P<a>x)(?P<a>y)"):
        with pytest.raises(ValueError, match="not a regular expression"):
            pattern_of(wrong)


def test_a_check_that_cannot_tell_fails_the_draft() -> None:
    for absent in (True, False):
        verdict = judged(Regex(HOPELESS, absent=absent), whole(MADE_FOR_IT))
        assert (verdict.passed, verdict.reason) == (False, "pattern takes too long")
    verdict = judged(NotRefusal([HOPELESS]), whole(MADE_FOR_IT))
    assert (verdict.passed, verdict.reason) == (False, "a pattern of `also` takes too long")


async def test_a_rule_that_cannot_tell_does_not_hold(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    assert (await client.chat("a" * 80)).headers["x-gateway-route"] == "slow"
    assert (await client.chat(MADE_FOR_IT)).headers["x-gateway-route"] == "rest"
