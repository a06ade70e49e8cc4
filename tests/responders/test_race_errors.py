"""Racers that fail, clients that leave, and races inside other tiers."""

from __future__ import annotations

import asyncio

import pytest

from gateway.chat import Answer, ChatRequest, Emit
from gateway.checks.not_refusal import NotRefusal
from gateway.checks.regex import Regex
from gateway.errors import BackendTimeout, BackendUnavailable, ChecksFailed, InvalidRequest
from gateway.responders.cascade import Cascade
from gateway.responders.hold import Tier
from gateway.responders.limited import Limited, Slots
from gateway.trace import Trace
from tests.responders.racers import AT_ONCE, PATIENT, Model, ask, held, pair, within

# --- errors


async def test_an_error_of_the_next_leaves_the_first_running() -> None:
    small, large, cascade = pair()
    asked = ask(cascade)
    await large.end(BackendUnavailable("away"))
    await small.answer("good")
    assert (await asked.answer()).model == "small"
    assert asked.trace.path == "small,large!unavailable"


async def test_an_error_of_the_first_lets_the_next_speak() -> None:
    small, large, cascade = pair(PATIENT)
    asked = ask(cascade)
    await large.say("here")
    await small.end(BackendTimeout("too slow"))
    await large.end()
    assert (await asked.answer()).model == "large"
    assert asked.text == "here"


async def test_where_all_fail_the_last_tiers_error_is_raised_whoever_failed_last() -> None:
    small, large, cascade = pair()
    asked = ask(cascade)
    await large.end(BackendUnavailable("away"))
    await small.end(BackendTimeout("too slow"))
    with pytest.raises(BackendUnavailable):
        await asked.answer()


async def test_where_none_passes_the_best_draft_answers_the_later_tiers_on_a_tie() -> None:
    small, large, cascade = pair(last=Regex("good"))
    asked = ask(cascade)
    await large.answer("so so")
    await small.answer("bad")
    answer = await asked.answer()
    assert (answer.model, answer.checks_failed, asked.text) == ("large", ("regex",), "so so")


async def test_or_an_error_says_so() -> None:
    small, large, cascade = pair(last=Regex("good"))
    asked = ask(Cascade(cascade.tiers, "error"))
    await large.answer("so so")
    await small.answer("bad")
    with pytest.raises(ChecksFailed):
        await asked.answer()
    assert asked.heard == []


async def test_after_the_first_word_an_error_is_loud() -> None:
    small, large, cascade = pair()
    asked = ask(cascade)
    await large.say("half ")
    await within(small.gone.wait())
    await large.end(BackendUnavailable("cut"))
    with pytest.raises(BackendUnavailable):
        await asked.answer()
    assert asked.text == "half "


async def test_what_no_other_tier_can_mend_waits_for_those_before() -> None:
    small, large, cascade = pair()
    asked = ask(cascade)
    await large.end(InvalidRequest("no model"))
    await small.answer("good")
    assert (await asked.answer()).model == "small"

    small, large, cascade = pair()
    asked = ask(cascade)
    await large.end(InvalidRequest("no model"))
    await small.answer("bad")
    with pytest.raises(InvalidRequest):
        await asked.answer()


async def test_a_client_that_leaves_ends_all_of_them() -> None:
    small, large, cascade = pair(PATIENT)
    asked = ask(cascade)
    await small.say("one")
    await large.say("two")
    asked.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(asked.task)
    assert small.was_cancelled and large.was_cancelled
    assert len(asyncio.all_tasks()) == 1
    assert [hop.spend.usage.output_tokens for hop in asked.trace.models() if hop.spend] == [1, 1]


async def test_a_client_that_leaves_while_it_is_spoken_to_ends_all_of_them() -> None:
    small, large, cascade = pair()
    asked = ask(cascade)
    await large.say("half ")
    await within(small.gone.wait())
    asked.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(asked.task)
    assert large.was_cancelled and len(asyncio.all_tasks()) == 1


async def test_a_loser_that_breaks_on_its_way_out_is_logged_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Model):
        async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
            try:
                return await super().respond(request, emit, trace)
            finally:
                raise RuntimeError("on the way out")

    large = Model("large")
    broken = Broken("small")
    asked = ask(Cascade([held("small", broken, Regex("good"), race=AT_ONCE), Tier("large", large)]))
    await within(broken.asked.wait())
    await large.answer("well")
    assert (await asked.answer()).model == "large"
    assert "tier 'small' failed while another one answered" in caplog.text


async def test_a_loser_gives_its_slot_back() -> None:
    small, large, cascade = pair()
    slots = Slots(1)
    first = held("small", Limited("small", small, slots), Regex("good"), race=AT_ONCE)
    cascade = Cascade([first, *cascade.tiers[1:]])
    for _ in range(2):
        small.asked.clear()
        large.asked.clear()
        asked = ask(cascade)
        await within(small.asked.wait())
        await large.answer("well")
        await asked.answer()
    async with asyncio.timeout(1):
        async with slots.taken(None, "small"):
            pass


# --- nested


async def test_an_outer_gate_may_reject_who_has_won() -> None:
    small, large, inner = pair()
    outside = Model("outside")
    outer = Cascade([held("inner", inner, NotRefusal()), Tier("outside", outside)])
    asked = ask(outer)
    await within(small.asked.wait())
    refusal = "I'm sorry, but I can't help with that, whatever you may say to me in this matter of yours. ".split(" ")
    saying = asyncio.create_task(large.say(*(f"{word} " for word in refusal)))
    await outside.answer("certainly")
    assert (await asked.task).model == "outside"
    saying.cancel()
    assert asked.trace.path == "small!raced,large!not_refusal,outside"
    assert asked.text == "certainly"


async def test_a_race_inside_a_tier_of_a_race() -> None:
    small, large, inner = pair()
    outside = Model("outside")
    outer = Cascade([held("inner", inner, Regex("fine"), race=AT_ONCE), Tier("outside", outside)])
    asked = ask(outer)
    for model in (small, large, outside):
        await within(model.asked.wait())
    await outside.say("me ")
    await within(small.gone.wait())
    await within(large.gone.wait())
    await outside.answer("first")
    assert (await asked.answer()).model == "outside"
    assert asked.text == "me first"
