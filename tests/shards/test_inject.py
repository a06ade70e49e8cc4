"""Shards stand where they first stood, byte for byte, and in the order of a set, not of a ranking."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from gateway.chat import ChatRequest
from gateway.shards import Example
from gateway.shards.inject import inject, turn_of
from gateway.shards.rendering import READING, Rendering

SENTENCE = "The moor is closed in March."
NOTE = Rendering("b", 1, notes=(SENTENCE,))
READ = Rendering("c", 1, notes=("Ann chairs it.",), in_user_turn=True, is_read=True)
TASK = Rendering("a", 1, turns=(Example("2 June 2020", "2020-06-02"), Example("1 May", "2019-05-01")))


def asking(*turns: Any) -> ChatRequest:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": turn} for n, turn in enumerate(turns)]
    return ChatRequest({"model": "auto", "messages": [{"role": "system", "content": "Be brief."}, *messages]})


def prompt(request: ChatRequest) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in request.messages]


def test_facts_of_the_first_turn_stand_in_the_system_message_and_examples_behind_it() -> None:
    assert prompt(inject(asking("When?"), {1: [NOTE, TASK]})) == [
        ("system", f"Be brief.\n\nNotes:\n{SENTENCE}"),
        ("user", "2 June 2020"),
        ("assistant", "2020-06-02"),
        ("user", "1 May"),
        ("assistant", "2019-05-01"),
        ("user", "When?"),
    ]


def test_what_a_very_small_model_reads_stands_before_the_question_as_its_examples_show() -> None:
    said = prompt(inject(asking("Who chairs it?"), {1: [READ]}))
    assert said[-1] == ("user", "Ann chairs it.\n\nWho chairs it?")
    assert said[1:-1] == [pair for one in READING for pair in (("user", one.user), ("assistant", one.assistant))]
    for one in READING:
        note, question = one.user.split("\n\n")
        assert one.assistant == note and question.endswith("?")


def test_the_examples_of_reading_come_once() -> None:
    request = asking("Who chairs it?", "Ann chairs it.", "And the moor?")
    said = prompt(inject(request, {1: [READ], 2: [Rendering("d", 1, ("It is wet.",), (), True, True)]}))
    assert [text for role, text in said if text == READING[0].user] == [READING[0].user]
    assert said[-1] == ("user", "It is wet.\n\nAnd the moor?")


def test_later_facts_stand_in_front_of_the_turn_that_they_came_with() -> None:
    said = prompt(inject(asking("Hello", "Hi", "When?"), {2: [NOTE, TASK]}))
    assert said[:3] == [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi")]
    assert said[-1] == ("user", f"Notes:\n{SENTENCE}\n\nWhen?")
    assert said[3] == ("user", "2 June 2020")


def test_without_a_system_message_one_is_made() -> None:
    request = ChatRequest({"messages": [{"role": "user", "content": "When?"}]})
    assert prompt(inject(request, {1: [NOTE]}))[0] == ("system", f"Notes:\n{SENTENCE}")


def test_parts_of_a_message_stay_parts() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    request = asking([{"type": "text", "text": "Who?"}, image])
    assert prompt(inject(request, {1: [READ]}))[-1][1] == [
        {"type": "text", "text": "Ann chairs it."},
        {"type": "text", "text": "Who?"},
        image,
    ]


def test_the_request_itself_is_left_as_it_was() -> None:
    request = asking("When?")
    before = orjson.dumps(request.body)
    inject(request, {1: [NOTE, TASK, READ]})
    assert orjson.dumps(request.body) == before


def test_which_turn_it_is() -> None:
    assert [turn_of(asking(*turns).messages) for turns in ((), ("a",), ("a", "b", "c"))] == [0, 1, 2]


renderings = st.lists(
    st.builds(
        Rendering,
        shard=st.text("abcdef", min_size=4, max_size=4),
        version=st.just(1),
        notes=st.lists(st.text(min_size=1, max_size=20), max_size=2).map(tuple),
        turns=st.lists(st.builds(Example, st.text(min_size=1), st.text(min_size=1)), max_size=2).map(tuple),
        in_user_turn=st.booleans(),
        is_read=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda one: one.shard,
)


@given(st.lists(renderings, min_size=1, max_size=4), st.randoms())
def test_each_turn_goes_on_from_the_prompt_of_the_one_before(placed: list[list[Rendering]], random: Any) -> None:
    turns: list[str] = []
    before: list[tuple[str, Any]] = []
    for turn in range(1, len(placed) + 1):
        turns.append(f"question {turn}")
        some = {n: random.sample(placed[n - 1], len(placed[n - 1])) for n in range(1, turn + 1)}
        now = prompt(inject(asking(*turns), some))
        assert now[: len(before)] == before
        turns.append(f"answer {turn}")
        before = [*now, ("assistant", f"answer {turn}")]
