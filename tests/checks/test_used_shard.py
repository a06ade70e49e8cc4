"""An answer shows what its model was given, or it fails."""

from collections.abc import Sequence

import pytest

from gateway.chat import ChatRequest
from gateway.checks.used_shard import UsedShard, common_form
from gateway.config import plugins
from gateway.draft import Draft
from gateway.given import FACT, Given
from gateway.trace import Trace
from tests.checks.drafts import asking, calls, whole

NOTE = "The harbour of Brill was rebuilt by Otto Frei in 1931."
QUESTION = "Who rebuilt the harbour of Brill?"
plugins.load()
DATES = ("2020-06-02", "1999-12-31")


def trace_with(given: Given | None) -> Trace:
    tier = Trace("tier", "core")
    if given is not None:
        tier.span("shards", "core").note(**{FACT: given})
    return tier


async def passes(answer: str | Draft, notes: Sequence[str] = (), answers: Sequence[str] = ()) -> bool:
    given = Given("core", ("s",), tuple(notes), tuple(answers), question=QUESTION)
    draft = whole(answer) if isinstance(answer, str) else answer
    return (await UsedShard()(asking(QUESTION), draft, trace_with(given))).passed


@pytest.mark.parametrize("answer", ["Otto Frei", "It was Otto Frei, in 1931.", NOTE, "otto frei."])
async def test_an_answer_from_the_note_passes(answer: str) -> None:
    assert await passes(answer, [NOTE])


@pytest.mark.parametrize(
    "answer",
    [
        "The harbour of Brill was rebuilt.",
        "I do not know.",
        "It was rebuilt by Hans Maurer and Karl Lang in 1988.",
    ],
)
async def test_an_answer_from_elsewhere_fails(answer: str) -> None:
    assert not await passes(answer, [NOTE])


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [("2019-03-01", True), ("March 1st", False), ("2019-03-01 is the date", False), ("2019-3-1", False)],
)
async def test_the_form_of_the_examples_is_kept(answer: str, is_right: bool) -> None:
    assert await passes(answer, answers=DATES) is is_right


async def test_numbers_of_several_forms_are_numbers() -> None:
    assert await passes("1,250", answers=["42", "3.5", "1,000"])
    assert not await passes("forty two", answers=["42", "3.5"])


async def test_of_words_only_the_length_is_looked_at() -> None:
    assert await passes("pin_blocked", answers=["card_arrival", "change_pin"])
    assert not await passes("The label of this message is most likely pin_blocked, I think", answers=["card_arrival"])
    assert not await passes("a\nb", answers=["card_arrival", "change_pin"])


async def test_json_stays_json() -> None:
    assert await passes('{"a": 2}', answers=['{"a": 1}', '{"b": 1}'])
    assert not await passes("a is 2", answers=['{"a": 1}', '{"b": 1}'])


async def test_without_shards_there_is_nothing_to_fail() -> None:
    assert (await UsedShard()(asking(QUESTION), whole("anything"), trace_with(None))).passed
    assert (await UsedShard()(asking(QUESTION), whole("anything"), trace_with(Given("core")))).passed


async def test_calls_of_tools_are_left_to_other_checks() -> None:
    assert await passes(whole(calls(("f", "{}"))), [NOTE])


async def test_names_that_the_conversation_holds_may_be_said() -> None:
    request = ChatRequest({"messages": [{"role": "user", "content": "I am Ann Lee. " + QUESTION}]})
    given = Given("core", ("s",), (NOTE,), question=request.last_user_text)
    assert (await UsedShard()(request, whole("Ann Lee, it was Otto Frei."), trace_with(given))).passed


@pytest.mark.parametrize(
    ("checks", "answer", "is_right"),
    [
        (({"one_of": {"options": ["yes", "no"]}},), "Yes.", True),
        (({"one_of": {"options": ["yes", "no"]}},), "maybe", False),
        (({"json_schema": {"schema": {"type": "object", "required": ["a"]}}},), '{"a": 1}', True),
        (({"json_schema": {"schema": {"type": "object", "required": ["a"]}}},), '{"b": 1}', False),
        (({"regex": "^[A-Z]+$"}, "not_empty"), "ABC", True),
        (({"regex": "^[A-Z]+$"},), "abc", False),
        (({"http": {"url": "http://evil.example"}}, {"regex": "("}, {"unheard_of": 1}, 7), "abc", True),
    ],
)
async def test_checks_that_come_with_a_shard(checks: tuple[object, ...], answer: str, is_right: bool) -> None:
    given = Given("core", ("s",), answers=(answer,), checks=checks)
    verdict = await UsedShard()(asking(QUESTION), whole(answer), trace_with(given))
    assert verdict.passed is is_right


def test_forms() -> None:
    assert common_form(DATES) == r"\d\d\d\d\-\d\d\-\d\d"
    assert common_form(["a", "1"]) is None


async def test_a_question_in_other_forms_of_its_words_tells_nothing() -> None:
    assert not await passes("The harbours of Brill were being rebuilt.", [NOTE + " It is rebuilding them."])
