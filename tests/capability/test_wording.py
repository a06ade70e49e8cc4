"""What of a request is read to decide who answers it."""

from __future__ import annotations

import random
import string

import pytest

from gateway.capability.wording import HEAD_CHARS, TAIL_CHARS, is_noise, telling_part, without_padding
from gateway.chat import ChatRequest

QUESTION = "What is the capital of France, and how many people live there?"
RANDOM = random.Random(7)


def scrambled(letters: str, words: int, length: int) -> str:
    return " ".join("".join(RANDOM.choice(letters) for _ in range(length)) for _ in range(words))


@pytest.mark.parametrize(
    "padding",
    [
        scrambled(string.ascii_letters + string.digits + string.punctuation, 30, 9),
        scrambled("bcdfghjklm", 12, 7),
        "aGVsbG8gd29ybGQgdGhpcyBpcyBhIHRlc3Q" * 3,
        "}}}}}}}} {{{{{{{{ ]]]]]]]] ((((((((",
    ],
)
def test_noise_at_the_end_is_not_read(padding: str) -> None:
    assert without_padding(f"{QUESTION} {padding}") == QUESTION


@pytest.mark.parametrize("unit", ["! ", "please ", "the proof of the theorem ", "?!"])
def test_of_a_run_that_repeats_itself_one_is_left(unit: str) -> None:
    assert len(without_padding(f"{QUESTION} {unit * 40}")) <= len(QUESTION) + 1 + len(unit)


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
    assert without_padding(text) == text


@pytest.mark.parametrize("text", ["!!!!!!!!!!", "xkcdqwrt zzgrbnmt qqwrtpsd"])
def test_of_a_text_that_is_nothing_else_something_is_left(text: str) -> None:
    assert without_padding(text) in (text, "!")


def test_only_the_users_last_words_are_read() -> None:
    messages = [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "second"}]},
        {"role": "tool", "content": "result"},
    ]
    assert telling_part(ChatRequest({"messages": messages})) == "second"
    assert telling_part(ChatRequest({"messages": messages[:1]})) == ""
    assert telling_part(ChatRequest({"prompt": "go on"})) == "go on"


def test_of_a_long_text_beginning_and_end_are_read() -> None:
    text = "Beginning. "
    filler = " ".join(f"Sentence {i} says something else about topic {i * 7}." for i in range(2000))
    read = telling_part(ChatRequest({"messages": [{"role": "user", "content": f"{text}{filler} What is the end?"}]}))
    assert len(read) <= HEAD_CHARS + TAIL_CHARS
    assert read.startswith("Beginning.") and read.endswith("What is the end?")


def test_reading_takes_no_time_whatever_is_sent() -> None:
    for text in ("a" * 1_000_000, "ab " * 300_000, "x9!Q " * 200_000, " " * 1_000_000):
        assert len(telling_part(ChatRequest({"messages": [{"role": "user", "content": text}]}))) <= 1000


def test_a_path_is_a_word() -> None:
    assert not is_noise("/usr/lib/python3.11/site-packages/numpy/core/_multiarray_umath.cpython-311.so")
    assert is_noise("kJ8#mQ!zR2x")
