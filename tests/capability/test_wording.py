"""What of a request is read to decide who answers it."""

from __future__ import annotations

import random
import string
from typing import Any

import pytest

from gateway.capability.hashing import ASKED_CHARS, HEAD_CHARS, TAIL_CHARS, readable
from gateway.capability.wording import Wording, wording_of
from gateway.chat import ChatRequest

QUESTION = "What is the capital of France, and how many people live there?"
RANDOM = random.Random(7)


def scrambled(letters: str, words: int, length: int) -> str:
    return " ".join("".join(RANDOM.choice(letters) for _ in range(length)) for _ in range(words))


@pytest.mark.parametrize(
    ("padding", "left"),
    [
        (scrambled(string.ascii_letters + string.digits + string.punctuation, 30, 9), ""),
        (scrambled("bcdfghjklm", 12, 7), ""),
        ("aGVsbG8gd29ybGQgdGhpcyBpcyBhIHRlc3Q" * 3, ""),
        ("}}}}}}}} {{{{{{{{ ]]]]]]]] ((((((((", " }"),  # which code may end with
    ],
)
def test_noise_at_the_end_is_not_read(padding: str, left: str) -> None:
    assert readable(f"{QUESTION} {padding}") == QUESTION + left


@pytest.mark.parametrize("unit", ["! ", "please ", "the proof of the theorem ", "?!"])
def test_of_a_run_that_repeats_itself_one_is_left(unit: str) -> None:
    assert len(readable(f"{QUESTION} {unit * 40}")) <= len(QUESTION) + 1 + len(unit)


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        "Compare iPhone, eBay and McDonald's by revenue.",
        "Wie heißt die Hauptstadt von Österreich? Antworte auf Deutsch.",
        "什么是法国的首都？请用中文回答。",
        "Solve x^2 + 2x - 3 = 0 for x, then give 3x + 1.",
        "Read https://example.org/a/b?c=d&e=f#ghi and mail bob@example.org",
        "def add(a, b):\n    return a + b\n# what does add(2, 3) return?",
        "Strengths of rhythm: why, my, try, cry.",
    ],
)
def test_what_people_write_is_read_as_it_is(text: str) -> None:
    assert readable(text) == text


@pytest.mark.parametrize("text", ["!!!!!!!!!!", "xkcdqwrt zzgrbnmt qqwrtpsd"])
def test_of_a_text_that_is_nothing_else_something_is_left(text: str) -> None:
    assert readable(text) in (text, "!")


def wording(*messages: dict[str, Any], **body: Any) -> Wording:
    return wording_of(ChatRequest({"messages": list(messages)} if messages else body))


def test_only_the_users_last_words_are_read() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "second"}]},
        {"role": "tool", "content": "result"},
    ]
    assert wording(*messages) == ("second", "second")
    assert wording(messages[0]) == ("", "")
    assert wording(prompt="go on").asked == "go on"


def test_of_a_long_text_beginning_and_end_are_read() -> None:
    filler = " ".join(f"Sentence {i} says something else about topic {i * 7}." for i in range(2000))
    read, asked = wording({"role": "user", "content": f"Beginning. {filler} What is the end?"})
    assert len(read) <= HEAD_CHARS + TAIL_CHARS + 1 and len(asked) <= 2 * ASKED_CHARS + 3
    for part in (read, asked):
        assert part.startswith("Beginning.") and part.endswith("What is the end?")


def test_reading_takes_no_time_whatever_is_sent() -> None:
    for text in ("a" * 1_000_000, "ab " * 300_000, "x9!Q " * 200_000, " " * 1_000_000):
        assert len(wording({"role": "user", "content": text}).asked) <= 2 * ASKED_CHARS + 3


def test_it_is_worked_out_once() -> None:
    request = ChatRequest({"messages": [{"role": "user", "content": "Hello"}]})
    assert wording_of(request) is wording_of(request)
