"""Loops are known, those that small models fall into above all; lists, code, data, tables and songs are none."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.checks.no_loop import NoLoop, distinct_share
from tests.checks.drafts import can_fail_prefix, judged, passes, prefix, prefix_words, whole

# Ends of what a model of 135M parameters said at temperature 0 and 0.8, cut at its length limit.
DRAGON = (
    "The dragon was a fierce and majestic creature, with a coat of a lion and a tail of a snake. "
    "The dragon was a fierce and majestic creature, with a coat of a lion and a tail of a snake.\n\n"
) * 2 + "The dragon was a fierce and majestic"
OCTOPUS = "1. Red Fox\n" + "\n".join(f"{i}. Blue-Eared Octopus (Aurora)" for i in range(12, 29)) + "\n29. Blue-Ear"
SWAN = "🐦 13. Black Swallow, (b)  \n" + "".join(f"🐦 {i}. Black Swan, (b)  \n" for i in range(15, 27))
FRANKREICH = "Die Hauptstadt ist die Auswahl" + " der Frankreich, die die Auswahl" * 11 + " der Frankreich, die die"
SEA = "The sea, a lover's lover,\n" + "Abe aria, aria of the sea.\n" * 3 + "\n"
PROS = (
    "Pros: 1. Nuclear power is a clean energy source. \n"
    "Cons: 1. Nuclear power plants can be a source of nuclear waste. \n"
)
SONG = "I will not rest until I have sung it.\n\n" * 9
TNT = "The chemicals are " + "TNT, " * 60
NOUVEAUX = "# Les nouveaux\n" + "# nouveaux nouveaux nouveaux\n" * 12 + "# nouveaux"
CHINESE = "春天是一种美丽的春花，" + "是一种美丽的春花，" * 12 + "是一种美丽的春"
CAT = "".join(
    f"En este lado de la estre\nEl gato este poco de la {end}\n\n"
    for end in "oro marina luna guerra bella nación noche buena".split() * 3
)
LOOPS = {
    "dragon": DRAGON,
    "numbered animals": OCTOPUS,
    "animals with an emoji": SWAN,
    "half a sentence": FRANKREICH,
    "a stanza": SEA * 5,
    "two lines in turn": PROS * 4 + "Pros: 1. Nuclear power is a clean",
    "one line": SONG,
    "one word": TNT,
    "headings": NOUVEAUX,
    "no spaces": CHINESE,
    "almost the same": CAT,
    "a sentence four times": "I like cats. " + "I am a cat. " * 4,
    "a long sentence three times": "This is a rather long sentence about nothing in particular. " * 3,
    "a word": "It is very " + "very " * 30,
    "a word without a space after it": " ".join(["the"] * 21),
    "a letter": "A" + "a" * 200,
    "dashes without end": "| Name | Age |\n|" + "-" * 2_000,
    "zeros without end": "1/7 is about 0.1" + "0" * 1_500,
    "the same object": '[{"name": "Ann", "age": 3}' + ', {"name": "Bob", "age": 4}' * 25,
    "the same row": "| a | b |\n|---|---|\n" + "| Paris | 2 million |\n" * 25,
    "a long paragraph": ("Some words that fill " + ", ".join(str(i) for i in range(300)) + " a paragraph of its own. ")
    * 3,
}

CHORUS = "Oh the wind and the rain,\nthey will come back again,\nand we sing our refrain.\n\n"
ANSWERS = {
    "nothing": "",
    "a word": "Yes.",
    "laughter": "Ha ha ha! That was good.",
    "more laughter": "Ha ha ha ha ha ha ha ha ha ha",
    "a chant": "Hey, hey, hey, hey, na na na na na na na na na na na na",
    "let it be": "Let it be, let it be, let it be, let it be",
    "row your boat": "Row, row, row your boat, gently down the stream.\nMerrily, merrily, merrily, merrily, "
    "life is but a dream.",
    "very": "It was very very very very good.",
    "a rule": "Title\n" + "-" * 80,
    "another rule": "=" * 200,
    "dots": "Chapter 1 " + "." * 120,
    "a blank to fill in": "Name: " + "_" * 100,
    "rows of dashes": ("-" * 40 + "\n") * 8,
    "objects alike": json.dumps([{"id": i, "name": f"user{i}", "active": True, "role": "admin"} for i in range(60)]),
    "objects alike, indented": json.dumps([{"id": i, "name": f"user{i}", "tags": []} for i in range(40)], indent=2),
    "flags": json.dumps([True] * 50),
    "a matrix": json.dumps([[0] * 12] * 12),
    "a python dict": "".join(f"    'key{i}': ['value{i - 1}', 'key{i}'],\n" for i in range(30)),
    "a table": "| Name | Score | Passed |\n|---|---|---|\n"
    + "".join(f"| {n} | 10 | yes |\n" for n in "ABCDEFGHIJKLMNOP"),
    "a table all alike": "| x | y |\n|---|---|\n" + "| yes | no |\n" * 12,
    "csv": "name,passed\n" + "".join(f"user{i},yes\n" for i in range(40)),
    "code": "```python\n" + "".join(f"assert double({i}) == {2 * i}\n" for i in range(40)) + "```",
    "code that repeats": "```html\n<table>\n" + "<tr><td></td><td></td></tr>\n" * 12 + "</table>\n```",
    "open code": "```html\n<table>\n" + "<tr><td></td><td></td></tr>\n" * 12,
    "html": "<ul>\n" + "<li>to be done</li>\n" * 8 + "</ul>",
    "counting": "\n".join(f"{i}. {i}" for i in range(1, 101)),
    "a times table": "\n".join(f"{i} x 7 = {7 * i}" for i in range(1, 31)),
    "a list": "\n".join(f"- {word} is a kind of fruit" for word in "apple pear plum fig kiwi lime date cherry".split()),
    "numbers in words": "\n".join(f"The square of {i} is {i * i}." for i in range(1, 40)),
    "labels": "\n".join(f"{i}. positive" for i in range(1, 21)),
    "labels without numbers": "positive\n" * 12,
    "not stated": "\n".join(f"{i}. Not stated in the text." for i in range(1, 6)),
    "opening hours": "\n".join(
        f"{day}: 9 am to 5 pm" for day in "Monday Tuesday Wednesday Thursday Friday Saturday".split()
    ),
    "a song": f"First we walk down the lane.\n\n{CHORUS}Then we walk to the plain.\n\n{CHORUS}And home.\n\n{CHORUS}",
    "a refrain sung twice at the end": f"Home we go, by the train.\n\n{CHORUS}{CHORUS}",
    "bottles": " ".join(
        f"{n} bottles of beer on the wall, {n} bottles of beer. Take one down and pass it around, {n - 1} bottles of "
        "beer on the wall."
        for n in range(20, 1, -1)
    ),
    "dna": "ACGTTGCAACGGTTAACCGGATATCGCGATTACAGATTACAAGGTCTGA" * 2,
    "chinese": "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。",
    "three times short": "Location, location, location. " * 3,
}


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS.keys())
def test_a_loop_fails(text: str) -> None:
    verdict = judged(NoLoop(), whole(text))
    assert not verdict.passed
    assert len(verdict.reason) < 50


@pytest.mark.parametrize("text", ANSWERS.values(), ids=ANSWERS.keys())
def test_what_is_no_loop_passes(text: str) -> None:
    assert (judged(NoLoop(), whole(text))).reason == ""


@pytest.mark.parametrize("text", ANSWERS.values(), ids=ANSWERS.keys())
def test_no_prefix_of_an_answer_is_a_loop(text: str) -> None:
    for end in range(0, len(text), 83):
        assert passes(NoLoop(), prefix(text[:end]))


@pytest.mark.parametrize("text", [DRAGON, FRANKREICH, SEA * 5, SONG, CHINESE, OCTOPUS])
def test_a_loop_fails_wherever_it_is_cut(text: str) -> None:
    for less in range(40):
        assert not passes(NoLoop(), whole(text[: len(text) - less]))
        assert not passes(NoLoop(), prefix(text[: len(text) - less]))


def test_an_end_after_the_loop_does_not_hide_what_little_was_said() -> None:
    assert not passes(NoLoop(), whole(SONG * 2 + "And that is all there is to it."))


def test_how_many_repeats_are_a_loop_can_be_set() -> None:
    text = "She sells sea shells. " * 5
    assert not passes(NoLoop(), whole(text))
    assert passes(NoLoop(repeats=6), whole(text))
    assert not passes(NoLoop(repeats=2), whole("She sells sea shells. " * 2))
    with pytest.raises(ValidationError):
        NoLoop(repeats=1)


def test_every_choice_is_judged() -> None:
    verdict = judged(NoLoop(), whole("Yes.", SONG))
    assert (verdict.passed, verdict.reason) == (False, "choice 1: ends in a loop")
    assert can_fail_prefix(NoLoop) and prefix_words(NoLoop) is None


def test_the_share_of_new_words() -> None:
    assert distinct_share("one two three " * 20) == 1  # too short to tell
    assert distinct_share("one two three " * 50) < 0.05
    assert distinct_share(" ".join(map(str, range(500)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "ab ",
        "- ",
        "-\n",
        "1.\n",
        "\n",
        "a" * 15 + "b",
        "```",
        "|\n",
        "| \n",
        "1 2 ",
        "春",
        "word " * 9 + "end. ",
        "\n- 1. ",
    ],
)
def test_it_is_quick(text: str) -> None:
    long = (text * 100_000)[:100_000]
    for draft in (whole(long), prefix(long[:20_000])):
        judged(NoLoop(), draft)
        start = time.perf_counter()
        judged(NoLoop(), draft)
        assert time.perf_counter() - start < 0.2


@settings(max_examples=50)
@given(st.text(), st.integers(1, 30))
def test_any_text_can_be_judged(text: str, times: int) -> None:
    judged(NoLoop(), whole(text * times))
    judged(NoLoop(), prefix(text * times))


@settings(max_examples=50)
@given(st.text("abc d\n", min_size=8, max_size=60).filter(str.strip), st.text("xyz ", max_size=60))
def test_every_period_is_found(unit: str, before: str) -> None:
    assert not passes(NoLoop(), whole(before + unit * 60))
