from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.shards.reading.markdown import plain
from gateway.shards.reading.sentences import split_long, split_sentences


@pytest.mark.parametrize(
    "marked",
    [
        "The U.S. Army was there.|In 1990 Dr. J. F. Smith came to the U.S.|The rest left.",
        "It was built c. 1848 by Mr. Lee, e.g. for trade.|He sold it.",
        "World War I.|The end was near.|Vitamin C.|Helps much.",
        'He said: "Of course. Certainly! And how!... You\'ve done it."|Then he left.',
        "Pi is 3.14.|It is 5 p.m.|Visitors must go.|At 5 p.m. EST they go.",
        "See Fig. 3 and No. 5.|The answer was no.|We left.",
        '"Really?" he asked.|"Yes!"|Yahoo! is a firm.|Who knows?|Nobody.',
        "In St. Louis, on Main St.|The shop (see p. 5. It is old.) is 6 ft. tall.",
        "He has a Ph.D.|He works with Smith et al. (2010) in Washington, D.C.|They met.",
        "Wait...|What?|Well… perhaps.|“It ended. Quite.”|She left.",
        "The iPhone sold.|iPhone 5 sold.|max_tokens is 5.|2001 was good.|It cost $5.|$6 was too much.",
        "1. The first item.|2. The second item.",
        'The "rest sleeps in my mind".|The series (1997).|It ran.',
        "他来了。|他走了。",
        "He came, i.e. at 3 p.m. on Jan. 5, to the firm Smith & Co. in Bonn.|It rained.",
        "I am here to . . . submit to it.|It is 6'2\" tall.|It stands.",
    ],
)
def test_a_paragraph_is_split_where_its_sentences_end(marked: str) -> None:
    sentences = marked.split("|")
    joined = "".join(sentences) if "。" in marked else " ".join(sentences)
    assert split_sentences(joined) == sentences


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="aB .!?\"'()…“”;1U\n。", max_size=200))
def test_splitting_loses_nothing(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence == " ".join(sentence.split()) != "" for sentence in sentences)


def test_a_long_sentence_is_split_at_its_semicolons_where_each_part_says_something() -> None:
    long = f"It was opened {'very ' * 30}late; and the gates were closed for a year; nobody has ever complained of it."
    assert split_long(long)[1:] == ["The gates were closed for a year.", "Nobody has ever complained of it."]
    names = f"They came from {'far ' * 40}Bonn, a town; Kiel, a port; and Ulm."
    assert split_long(names) == [names]
    assert split_long("It was short; it was good.") == ["It was short; it was good."]
    quoted = f'He said "it was so; it was {"very " * 40}good" and they were all glad of it.'
    assert split_long(quoted) == [quoted]


@pytest.mark.parametrize(
    ("markdown", "words"),
    [
        ("a [link](http://x.y/z_(w)) and ![image](a.png) [ref][1]", "a link and ref"),
        ("**bold** *it* __b__ _i_ ~~gone~~ `co*d*e` snake_case_name", "bold it b i co*d*e snake_case_name"),
        (r"\*not emphasised\* &amp; 2 < 3 <b>tag</b><br>x", "*not emphasised* & 2 < 3 tag x"),
        ("sea[citation needed] and land.[12]:3–4 [[Page|text]]", "sea and land. text"),
        ("soft\u00adhyphen, e\ufb03cient \x00\x1b[1m", "softhyphen, efficient [1m"),
        ("see <https://a.b/c>.", "see https://a.b/c."),
    ],
)
def test_markdown_in_a_line_is_read_as_its_words(markdown: str, words: str) -> None:
    assert plain(markdown) == words


@pytest.mark.parametrize(
    "unit", ["[", "](", "**a", "`", "<a ", "<!--", "a. B", '"', "(", "_x", "![", "a;b ", "[a](b(c"]
)
def test_hostile_text_takes_no_time_that_grows_with_its_square(unit: str) -> None:
    text = (unit * 20_000)[:20_000]
    started = time.process_time()
    for sentence in split_sentences(plain(text)):
        split_long(sentence)
    assert time.process_time() - started < 4
