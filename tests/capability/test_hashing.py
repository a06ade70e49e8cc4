from __future__ import annotations

import random
import string

import numpy as np
import pytest

from gateway.capability import hashing
from tests.capability import questions

ORDINARY = [
    *questions.make(400).texts,
    "SELECT name FROM people WHERE age > 30 AND city = 'Bern' ORDER BY name;",
    "Könnten Sie mir bitte erklären, wie die Wahl ausging und weshalb?",
    "Solve $x^4 - 5x^2 + 4 = 0$ for real x, and say how many roots there are.",
    "def area(width, height): return width * height  # what is area(3, 4)?",
] * 5


@pytest.fixture(scope="module")
def odds() -> hashing.Floats:
    return hashing.pair_odds(ORDINARY)


def test_equal_texts_have_equal_buckets_whatever_their_case() -> None:
    assert hashing.grams("The Great Red Spot").tolist() == hashing.grams("the great red spot").tolist()
    assert hashing.grams("").tolist() == []


def test_pairs_of_words_know_their_order() -> None:
    one, other = set(hashing.grams("dog bites man").tolist()), set(hashing.grams("man bites dog").tolist())
    assert len(one) == len(other) == 5
    assert len(one & other) == 3


def test_buckets_are_the_same_in_every_process() -> None:
    assert hashing.grams("2 cats").tolist() == [3597, 2706, 2203]


def test_statistics_tell_options_from_the_question() -> None:
    with_options = hashing.statistics("Which is a prime?\nA. 4\nB. 6\nC. 7\nAnswer:")
    without = hashing.statistics("Which is a prime?")
    assert with_options.shape == without.shape == (hashing.STATISTICS,)
    assert with_options[2] == pytest.approx(0.3)
    assert without[2] == 0
    assert with_options[0] == without[0]


@pytest.mark.parametrize("text", ["", " ", "\n", "😀" * 50, "\ud800", "x" * 100_000, "\x00\x01"])
def test_any_text_can_be_read(text: str, odds: hashing.Floats) -> None:
    read = hashing.readable(text, odds)
    assert np.isfinite(hashing.statistics(read)).all()
    assert hashing.grams(read).dtype == np.int64
    hashing.asked(read)


def test_beginning_and_end_of_a_long_question_are_embedded_and_its_options_are_not() -> None:
    told = hashing.asked("begin " + "middle " * 300 + "end?\nA. one\nB. two\nAnswer:")
    assert told.startswith("begin") and told.endswith("end?")
    assert len(told) <= 2 * hashing.ASKED_CHARS + 3


@pytest.mark.parametrize("alphabet", [string.ascii_lowercase + " ", string.ascii_letters + string.punctuation + " "])
def test_noise_at_the_end_is_not_read(alphabet: str, odds: hashing.Floats) -> None:
    rng = random.Random(0)
    for text in ORDINARY[:20]:
        noisy = text + " " + "".join(rng.choices(alphabet, k=200))
        assert len(hashing.readable(noisy, odds)) < len(text) + 20


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Say hello please please please please please", "Say hello please"),
        ("What!!!!!!!!!!", "What!"),
        ("Fill the gap: ________", "Fill the gap: ________"),
        ("again and again and again", "again and again and again"),
    ],
)
def test_of_what_repeats_itself_at_the_end_once_is_read(text: str, read: str, odds: hashing.Floats) -> None:
    assert hashing.readable(text, odds) == read


@pytest.mark.parametrize("text", ORDINARY[400:404])
def test_ordinary_texts_are_read_whole(text: str, odds: hashing.Floats) -> None:
    assert hashing.readable(text, odds) == text


def test_noise_alone_is_read_for_want_of_better(odds: hashing.Floats) -> None:
    assert hashing.readable("xqzjvwkqpzxjqkvw qzxkjvbwpq", odds)
