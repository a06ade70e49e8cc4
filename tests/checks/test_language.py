"""An answer is in the language of the question, or in a given one."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.checks.language import Language
from gateway.language import identifier
from tests.checks.drafts import asking, calls, can_fail_prefix, judged, passes, prefix, whole

GERMAN = "Die Hauptstadt von Frankreich ist Paris, eine Stadt an der Seine."
ENGLISH = "The capital of France is Paris, a city on the river Seine."
FRENCH = "La capitale de la France est Paris, une ville au bord de la Seine."
JAPANESE = "フランスの首都はパリです。"


@pytest.fixture(autouse=True, scope="module")
def loaded_model() -> None:
    """Loaded ahead, for then the check has nothing to wait for."""
    identifier()


@pytest.mark.parametrize(
    ("asked", "right", "wrong"),
    [
        ("Wie heißt die Hauptstadt von Frankreich?", GERMAN, ENGLISH),
        ("What is the capital of France?", ENGLISH, GERMAN),
        ("Quelle est la capitale de la France ?", FRENCH, ENGLISH),
        ("フランスの首都はどこですか？", JAPANESE, ENGLISH),
        ("Какой город является столицей Франции?", "Столица Франции — город Париж.", ENGLISH),
    ],
)
def test_the_language_of_the_question(asked: str, right: str, wrong: str) -> None:
    assert passes(Language(), whole(right), asking(asked))
    assert not passes(Language(), whole(wrong), asking(asked))


def test_the_reason_names_both() -> None:
    verdict = judged(Language(), whole(ENGLISH), asking("Wie heißt die Hauptstadt von Frankreich?"))
    assert verdict.reason == "in en, expected de"


@pytest.mark.parametrize(
    "answer", ["Paris", "", None, "42", "```python\nprint('hello, my dear world')\n```", "OK.", "東京"]
)
def test_an_answer_in_no_certain_language_passes(answer: str | None) -> None:
    assert passes(Language(), whole(answer), asking("Wie heißt die Hauptstadt von Frankreich?"))


@pytest.mark.parametrize("asked", ["", "?", "1 + 1", "Paris", "https://example.com/die/hauptstadt/von/frankreich"])
def test_a_question_in_no_certain_language_lets_all_pass(asked: str) -> None:
    assert passes(Language(), whole(GERMAN), asking(asked))


def test_given_languages() -> None:
    assert passes(Language(expected="de"), whole(GERMAN), asking("What is the capital of France?"))
    assert not passes(Language(expected="de"), whole(ENGLISH), asking("What is the capital of France?"))
    assert passes(Language(expected=["de", "fr"]), whole(FRENCH))
    verdict = judged(Language(expected=["de", "fr"]), whole(ENGLISH))
    assert verdict.reason == "in en, expected de or fr"


def test_the_questions_language_or_a_given_one() -> None:
    check = Language(expected=["same", "en"])
    request = asking("Wie heißt die Hauptstadt von Frankreich?")
    assert passes(check, whole(ENGLISH), request)
    assert passes(check, whole(GERMAN), request)
    assert not passes(check, whole(FRENCH), request)


def test_every_choice_is_judged() -> None:
    assert (judged(Language(expected="en"), whole(ENGLISH, GERMAN))).reason == "choice 1: in de, expected en"


def test_calls_and_prefixes_are_not_judged() -> None:
    assert not can_fail_prefix(Language)
    assert passes(Language(expected="en"), whole(calls(("now", "{}"))))
    assert passes(Language(expected="en"), prefix(GERMAN))


@pytest.mark.parametrize("expected", ["english", "EN", "xx", [], "", ["en", "klingon"], 7])
def test_unknown_languages_are_errors(expected: Any) -> None:
    with pytest.raises(ValidationError):
        Language(expected=expected)


@settings(max_examples=50)
@given(st.text(), st.text())
def test_any_text_can_be_judged(asked: str, answer: str) -> None:
    judged(Language(), whole(answer), asking(asked))
