"""Tiers beside each other: who speaks, and when the next one is asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.chat import ChatRequest, CostCap, Verdict
from gateway.checks.length import Length
from gateway.checks.not_refusal import NotRefusal
from gateway.checks.regex import Regex
from gateway.chunks import Chunk
from gateway.draft import Draft
from gateway.responders.cascade import Cascade
from gateway.responders.hold import Racing, Tier
from gateway.trace import Trace
from tests.responders.racers import AT_ONCE, NEVER, PATIENT, Model, ask, held, pair, within

# --- who speaks


async def test_a_slow_draft_is_overtaken_by_the_first_word_of_the_next() -> None:
    small, large, cascade = pair()
    asked = ask(cascade)
    await small.say("not ", "yet ")
    await large.say("here ")
    await within(small.gone.wait())
    await large.answer("I am")
    answer = await asked.answer()
    assert asked.text == "here I am" == next(answer.texts)
    assert asked.trace.path == "small!raced,large"
    assert small.was_cancelled and not large.was_cancelled
    assert [hop.spend.usage.output_tokens for hop in asked.trace.models() if hop.spend] == [2, 2]


async def test_a_draft_that_passes_first_cancels_the_next_before_it_is_heard() -> None:
    small, large, cascade = pair()
    asked = ask(cascade)
    await large.say({"role": "assistant", "content": ""})
    await small.answer("good ", "enough")
    answer = await asked.answer()
    assert answer.model == "small" and asked.text == "good enough"
    assert large.was_cancelled
    assert asked.trace.path == "small,large!raced"
    assert asked.trace.cost_usd == pytest.approx(0.003), "both are paid for"


async def test_where_the_draft_fails_the_next_has_a_head_start() -> None:
    small, large, cascade = pair(PATIENT)
    asked = ask(cascade)
    await large.say("already ", "at ", "it")
    assert asked.text == ""
    await small.answer("bad")
    await large.say("!")
    assert asked.text == "already at it!"
    await large.end()
    await asked.answer()
    assert asked.trace.path == "small!regex,large"


async def test_who_is_preferred_is_waited_for_although_the_next_has_words() -> None:
    small, large, cascade = pair(PATIENT)
    asked = ask(cascade)
    await large.say("quick ", "words")
    await small.answer("good")
    assert (await asked.answer()).model == "small"
    assert asked.text == "good" and large.was_cancelled


async def test_who_is_preferred_is_waited_for_up_to_the_end_of_the_next() -> None:
    small, large, cascade = pair(PATIENT)
    asked = ask(cascade)
    await small.say("slow")
    await large.answer("all ", "of it")
    assert (await asked.answer()).model == "large"
    assert asked.text == "all of it" and small.was_cancelled


async def test_nobody_is_asked_beside_a_tier_that_is_quick_enough() -> None:
    small, large, cascade = pair(NEVER)
    asked = ask(cascade)
    await small.answer("good")
    await asked.answer()
    assert not large.asked.is_set() and asked.trace.path == "small"


async def test_without_a_race_the_next_waits_for_the_end() -> None:
    small, large, cascade = pair(NEVER)
    asked = ask(cascade)
    await small.answer("bad")
    await large.answer("better")
    assert (await asked.answer()).model == "large"
    assert asked.trace.path == "small!regex,large"


async def test_where_the_answer_is_wanted_whole_the_first_whole_one_that_passes_answers() -> None:
    small, large, cascade = pair()
    asked = ask(cascade, stream=False)
    await small.say("good")
    await large.answer("done")
    answer = await asked.answer()
    assert (answer.model, asked.heard, asked.trace.path) == ("large", [], "small!raced,large")

    small, large, cascade = pair()
    asked = ask(cascade, stream=False)
    await large.say("nearly")
    await small.answer("good")
    assert (await asked.answer()).model == "small"


async def test_thinking_is_no_word_to_overtake_with_but_flows_where_nobody_else_speaks() -> None:
    small, large, cascade = pair()
    asked = ask(cascade)
    await small.say("so ")
    await large.say({"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {"reasoning_content": "m"})
    assert not small.was_cancelled and asked.heard == []
    await small.answer("bad")
    await large.say({"reasoning_content": "!"})
    thought = [choice["delta"].get("reasoning_content") for chunk in asked.heard for choice in chunk.choices]
    assert thought == [None, "hm", "m", "!"]
    await large.answer("well")
    await asked.answer()


async def test_a_call_of_a_tool_is_a_word() -> None:
    small, large, cascade = pair()
    asked = ask(cascade)
    await small.say("well")
    await large.say({"tool_calls": [{"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}]})
    await within(small.gone.wait())
    await large.end()
    assert (await asked.answer()).model == "large"


async def test_the_next_tiers_own_checks_come_first() -> None:
    small, large, cascade = pair(last=NotRefusal())
    third = Model("third")
    cascade = Cascade([*cascade.tiers, Tier("third", third)])
    asked = ask(cascade)
    await small.say("slow")
    await large.answer("I'm sorry, but I can't help with that.")
    assert asked.heard == [] and not small.was_cancelled
    await third.say("third")  # the place of one that has failed beside another is the next one's
    await within(small.gone.wait())
    await third.end()
    await asked.answer()
    assert asked.trace.path == "small!raced,large!not_refusal,third"


async def test_a_prefix_that_has_passed_speaks_before_its_end() -> None:
    small, large = Model("small"), Model("large")
    checks: list[Any] = [Length(max_words=50)]
    first = Tier("small", small, checks, 2, race=AT_ONCE)
    asked = ask(Cascade([first, Tier("large", large)]))
    await within(large.asked.wait())
    await small.say("one ", "two ")
    await within(large.gone.wait())
    assert asked.text == "one two "
    await small.answer("three")
    assert (await asked.answer()).model == "small"
    assert asked.text == "one two three"


async def test_what_was_held_is_heard_before_what_comes_meanwhile() -> None:
    """The client reads slowly, and the model goes on."""
    small, large, cascade = pair(PATIENT)
    reads, heard = asyncio.Semaphore(0), list[str]()

    async def emit(chunk: Chunk) -> None:
        await reads.acquire()
        heard.extend(choice["delta"].get("content") or "" for choice in chunk.choices)

    request = ChatRequest({"messages": [], "stream": True})
    answering = asyncio.create_task(cascade.respond(request, emit, Trace("request", "")))
    await large.say("a", "b", "c")
    await small.answer("bad")
    more = asyncio.create_task(large.answer("d", "e"))
    for _ in range(20):
        reads.release()
        await asyncio.sleep(0)
    await within(answering)
    await more
    assert "".join(heard) == "abcde"


# --- when the next is asked


async def test_doubt_asks_the_next_at_once_but_gives_it_no_word_before_the_time() -> None:
    small, large, cascade = pair(Racing(after_s=3000.0, doubt=0.5))
    cascade.tiers[0].odds.note(left=True)  # which makes it 0.65
    asked = ask(cascade)
    await large.say("ready")
    assert asked.heard == []
    await small.answer("good")
    assert (await asked.answer()).model == "small"
    facts = [hop.facts for hop in asked.trace.children]
    assert facts[1] is not None and facts[1]["raced"] == "doubt"


async def test_a_difficult_request_is_doubted() -> None:
    for difficulty, is_raced in ((0.4, False), (0.6, True)):
        small, large, cascade = pair(Racing(after_s=3000.0, doubt=0.5))
        asked = ask(cascade, difficulty=difficulty)
        if is_raced:
            await within(large.asked.wait())
        await small.answer("good")
        await asked.answer()
        assert large.asked.is_set() == is_raced


async def test_auto_waits_as_long_as_half_of_the_drafts_take() -> None:
    small, large, cascade = pair(Racing(after_s=None))
    odds = cascade.tiers[0].odds
    for _ in range(4):
        odds.note_time(0.0, whole=True)
    asked = ask(cascade)
    await small.answer("good")
    await asked.answer()
    assert not large.asked.is_set(), "four drafts and one under way tell nothing yet"
    median_s = odds.median_s(whole=True)
    assert median_s is not None and median_s < 1
    small.asked.clear()
    asked = ask(cascade)
    await large.answer("now")
    assert (await asked.answer()).model == "large"


async def test_a_draft_that_was_overtaken_counts_as_a_long_one() -> None:
    small, large, cascade = pair(Racing(after_s=None))
    odds = cascade.tiers[0].odds
    for seconds in (0.0, 0.0, 0.0, 3000.0, 3000.0):
        odds.note_time(seconds, whole=True)
    for _ in range(2):
        small.asked.clear()
        large.asked.clear()
        asked = ask(cascade)
        await large.answer("now")
        await asked.answer()
    assert (odds.median_s(whole=True) or 0.0) > 0.0, "else only quick drafts would ever count"
    odds.note_time(0.0, whole=True, at_least=True)
    assert len(odds._times[True]) == 7, "what was broken off before half of them are done tells nothing"


async def test_the_model_of_a_tool_loop_is_waited_for() -> None:
    small, large, cascade = pair()
    asked = ask(cascade, stay_with="small")
    await small.answer("good")
    await asked.answer()
    assert not large.asked.is_set()


@pytest.mark.parametrize(("usd", "is_raced"), [(0.0022, True), (0.0018, False)])
async def test_there_is_a_race_only_with_money_for_both(usd: float, is_raced: bool) -> None:
    """Each may take 1024 tokens and a few of its prompt, of a dollar a million."""
    small, large, cascade = pair()
    root = Trace("request", "")
    asked = ask(cascade, caps=(CostCap(root, usd),))
    if is_raced:
        await within(large.asked.wait())
    await small.answer("bad")
    await large.answer("better")
    await asked.answer()
    raced = [(hop.facts or {}).get("raced") for hop in asked.trace.children]
    assert raced == [None, "time" if is_raced else None]


async def test_an_unknown_price_is_no_race_under_a_cap() -> None:
    small, large, cascade = pair()
    large.price = None
    asked = ask(cascade, caps=(CostCap(Trace("request", ""), 100.0),))
    await small.answer("good")
    await asked.answer()
    assert not large.asked.is_set()


async def test_each_tier_of_three_has_its_own_time() -> None:
    models = [Model(name) for name in ("a", "b", "c")]
    tiers = [held(model.name, model, Regex("good"), race=AT_ONCE) for model in models[:2]]
    asked = ask(Cascade([*tiers, Tier("c", models[2])]))
    for model in models:
        await within(model.asked.wait())
    await models[1].answer("good")
    answer = await asked.answer()
    assert answer.model == "b"
    assert asked.trace.path == "a!raced,b,c!raced"


# --- what a verdict teaches


async def test_only_a_draft_that_was_judged_changes_the_odds() -> None:
    small, large, cascade = pair()
    before = [tier.odds.of_leaving for tier in cascade.tiers]
    asked = ask(cascade)
    await small.say("slow")
    await large.answer("quick")
    await asked.answer()
    assert cascade.tiers[0].odds.of_leaving == before[0]
    tiers = asked.trace.children
    assert [(tier.facts or {}).get("judged") for tier in tiers] == [None, None]


async def test_a_verdict_on_who_came_too_late_is_no_verdict() -> None:
    """Its draft had passed, while another one was preferred."""
    checked = asyncio.Event()

    class Slow(Regex):
        async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
            if draft.complete:
                await checked.wait()
            return await super().__call__(request, draft, trace)

    small, large, cascade = pair(PATIENT, last=Slow("."))
    asked = ask(cascade)
    await large.answer("well")
    await small.answer("good")
    assert (await asked.answer()).model == "small"
    assert not (asked.trace.children[1].facts or {}).get("judged")
