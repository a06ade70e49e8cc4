"""Repeating the prompt is known as such; quoting a little of it, or what tools and shards say, is not repeating."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.chat import ChatRequest
from gateway.checks.not_echo import NotEcho
from tests.checks.drafts import asking, can_fail_prefix, judged, passes, prefix, prefix_words, whole

QUESTION = "Where do I find the form to apply for a parking permit in the old town?"
ARTICLE = (
    "The Supplemental Nutrition Assistance Program provides food benefits to low-income families to supplement their "
    "grocery budget so they can afford the nutritious food essential to health and well-being. It began in 1939."
)


@pytest.mark.parametrize(
    "answer",
    [
        QUESTION,
        "where do i find the form to apply for a parking permit in the old town",
        "**Where do I find the form to apply for a parking permit in the old town?**",
        "Where do I find\nthe form to apply for a parking   permit in the old town?!",
        "the form to apply for a parking permit in the old town",
        QUESTION + " You should find it on the website.",
        "Where do I find the form to apply for a parking permit in the old city, please?",
    ],
)
def test_repeating_the_question_fails(answer: str) -> None:
    assert not passes(NotEcho(), whole(answer), asking(QUESTION))


@pytest.mark.parametrize(
    "answer",
    [
        "You find it on the town's website, under Parking.",
        "a parking permit in the old town",
        "Where do I find the form? That depends on where you live.",
        "The form to apply for a parking permit in the old town is on its website.",
        "",
        None,
        "?",
    ],
)
def test_answering_it_passes(answer: str | None) -> None:
    assert passes(NotEcho(), whole(answer), asking(QUESTION))


def test_typography_does_not_hide_an_echo() -> None:
    asked = "Explain what “well-being” means, in one sentence that a child’s mind can grasp."
    answer = 'Explain what "well-being" means, in one sentence that a child\'s mind can grasp.'
    assert not passes(NotEcho(), whole(answer), asking(asked))


def test_copying_a_passage_instead_of_summing_it_up_fails() -> None:
    request = asking(f"Summarise: {ARTICLE}")
    assert not passes(NotEcho(), whole(ARTICLE), request)
    assert not passes(NotEcho(), whole(ARTICLE.split(". ")[0] + "."), request)
    assert passes(NotEcho(), whole("SNAP helps poor families in the USA to buy healthy food; since 1939."), request)


@pytest.mark.parametrize(
    "answer", ["1939", "It began in 1939.", "low-income families", "grocery budget", '"food benefits"']
)
def test_short_extracts_pass(answer: str) -> None:
    assert passes(NotEcho(), whole(answer), asking(f"{ARTICLE}\nAnswer with words of the text."))


def test_a_short_question_is_no_long_one() -> None:
    assert passes(NotEcho(), whole("Good morning! How can I help you today?"), asking("Good morning!"))
    assert passes(NotEcho(), whole("Good morning!"), asking("Good morning!"))


def test_an_answer_of_before_is_not_given_again() -> None:
    before = "You find the form on the website of the town, under Parking."
    request = ChatRequest(
        {
            "messages": [
                {"role": "user", "content": QUESTION},
                {"role": "assistant", "content": before},
                {"role": "user", "content": "And what does it cost?"},
            ]
        }
    )
    assert not passes(NotEcho(), whole(before), request)


SYSTEM = "You are a helpful assistant that answers questions about the town, briefly and politely. Facts follow."
FACT = "The parking permit of the old town costs 30 euros a year."


def test_the_system_message_is_not_recited() -> None:
    request = asking("What does a permit cost?", system=f"{SYSTEM}\n{FACT}")
    assert not passes(NotEcho(), whole(SYSTEM), request)
    assert not passes(NotEcho(), whole("You are a helpful assistant that answers questions about the town"), request)


def test_facts_of_the_system_message_and_of_tools_may_be_quoted() -> None:
    assert passes(NotEcho(), whole(FACT), asking("What does a permit cost?", system=f"{SYSTEM}\n{FACT}"))
    tool = {"role": "tool", "tool_call_id": "call_0", "content": FACT}
    request = ChatRequest({"messages": [{"role": "user", "content": "What does a permit cost?"}, tool]})
    assert passes(NotEcho(), whole(FACT), request)


def test_text_parts_of_a_message_are_read() -> None:
    parts = [{"type": "text", "text": QUESTION}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    request = ChatRequest({"messages": [{"role": "user", "content": parts}]})
    assert not passes(NotEcho(), whole(QUESTION), request)


def test_other_scripts() -> None:
    assert not passes(NotEcho(), whole("请用三句话总结以下文章。"), asking("请用三句话总结以下文章。"))
    asked = "Напиши, пожалуйста, короткий рассказ о зиме для моей маленькой дочки"
    assert not passes(NotEcho(), whole(asked.upper() + "."), asking(asked))


def test_how_long_is_long_can_be_set() -> None:
    asked = "Напиши рассказ о зиме."
    assert passes(NotEcho(), whole(asked), asking(asked))
    assert not passes(NotEcho(min_words=4), whole(asked), asking(asked))


def test_every_choice_is_judged() -> None:
    verdict = judged(NotEcho(), whole("On the website.", QUESTION), asking(QUESTION))
    assert (verdict.passed, verdict.reason) == (False, "choice 1: begins by repeating the question")


def test_a_prefix_fails_once_most_of_the_question_is_repeated() -> None:
    assert can_fail_prefix(NotEcho) and prefix_words(NotEcho) is None
    assert passes(NotEcho(), prefix(QUESTION[:40]), asking(QUESTION))
    assert not passes(NotEcho(), prefix(QUESTION[:65]), asking(QUESTION))
    assert passes(NotEcho(), prefix(QUESTION[10:]), asking(QUESTION))


def test_large_prompts_are_quick() -> None:
    for text in (ARTICLE, "Кто знает, “что” будет — завтра? ", "请用三句话总结以下文章。"):
        long = (text * 10_000)[:100_000]
        request = asking(long)
        answer = whole(long[50:1_000] + " and so on")
        judged(NotEcho(), answer, request)
        start = time.perf_counter()
        judged(NotEcho(), answer, request)
        assert time.perf_counter() - start < 0.05  # it takes 1 to 4 ms


words = st.lists(st.sampled_from(["one", "Two", "three,", "four.", "五", "—", "\n"]), max_size=30).map(" ".join)


@settings(max_examples=50)
@given(words, words)
def test_what_a_prefix_fails_the_whole_fails(asked: str, answer: str) -> None:
    for end in range(0, len(answer), 7):
        if not passes(NotEcho(), prefix(answer[:end]), asking(asked)):
            assert not passes(NotEcho(), whole(answer), asking(asked))


@given(st.text(), st.text())
def test_any_text_can_be_judged(asked: str, answer: str) -> None:
    judged(NotEcho(min_words=1), whole(answer), asking(asked, system=asked))
