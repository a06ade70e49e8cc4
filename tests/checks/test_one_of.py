"""An answer is one of the options."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.checks.one_of import OneOf
from tests.checks.drafts import calls, can_fail_prefix, judged, passes, prefix, whole

LABELS = OneOf(options=["card_arrival", "change_pin", "Größe", "是", "etc."])


@pytest.mark.parametrize(
    "text",
    [
        "card_arrival",
        " change_pin\n",
        '"card_arrival"',
        "Card_Arrival.",
        "'change_pin'.",
        "“change_pin.”",
        "`change_pin`",
    ]
    + ["GRÖSSE", "「是」。", "是。", "etc", "etc."],
)
def test_an_option_passes(text: str) -> None:
    assert passes(LABELS, whole(text))


@pytest.mark.parametrize(
    "text", ["", None, ".", "card", "card_arrival, change_pin", "The label is card_arrival.", "否"]
)
def test_anything_else_fails(text: str | None) -> None:
    verdict = judged(LABELS, whole(text))
    assert (verdict.passed, verdict.reason) == (False, "none of the options")


def test_case_counts_where_asked_for() -> None:
    check = OneOf(options=["Yes", "No"], case_sensitive=True)
    assert passes(check, whole("Yes."))
    assert not passes(check, whole("yes"))


def test_every_choice_is_judged() -> None:
    assert (judged(LABELS, whole("是", "否"))).reason == "choice 1: none of the options"


def test_calls_and_prefixes_are_not_judged() -> None:
    assert not can_fail_prefix(OneOf)
    assert passes(LABELS, whole(calls(("now", "{}"))))
    assert passes(LABELS, prefix("The label"))


def test_options_must_be_there() -> None:
    with pytest.raises(ValidationError):
        OneOf(options=[])
    with pytest.raises(ValidationError):
        OneOf(options="yes")  # type: ignore[arg-type]  # what a careless YAML file holds


@settings(max_examples=50)
@given(st.lists(st.text(), min_size=1), st.text())
def test_every_option_is_itself(options: list[str], other: str) -> None:
    check = OneOf(options=options)
    for option in options:
        assert passes(check, whole(option))
    judged(check, whole(other))
