"""Races between scripted upstreams: what a client sees of them, and what holds of all of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.backends.openai import OpenAIBackend
from gateway.chat import Answer, ChatRequest, Responder
from gateway.chunks import Chunk
from gateway.errors import BackendError
from gateway.gateway import _go
from gateway.responders.cascade import Cascade
from gateway.responders.hold import Racing
from gateway.responders.limited import Limited
from gateway.routing.policy import Decision, Facts, Route
from gateway.routing.signals import Noted
from gateway.trace import RequestTrace
from tests.conftest import Serve
from tests.responders.racers import pair, within
from tests.test_one_voice import leaves, trees

SLOW = "{text: good and slow, between_ms: 400}"
SILENT = "{silent: true}"
QUICK = "{text: here I am}"


def models(first: str, second: str = QUICK) -> str:
    return f"models:\n  m1: {{engine: scripted, replies: [{first}]}}\n  m2: {{engine: scripted, replies: [{second}]}}\n"


def policy(race: str, checks: str = "regex: good", more: str = "") -> str:
    tiers = f"[{{model: m1, checks: [{{{checks}}}], race: {race}}}, {{model: m2}}]"
    return f"policy: default\nroutes: [{{name: a, answer: {{cascade: {tiers}{more}}}}}]\n"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_hears_one_of_them_and_sees_the_way(serve: Serve, stream: bool) -> None:
    client = await serve(models(SLOW), default=policy("0.02"))
    reply = await client.chat(stream=stream)
    assert reply.text == "here I am"
    assert reply.headers["x-gateway-path"] == reply.gateway["path"] == "m1!raced,m2"
    assert reply.gateway["usage"]["estimated"], "the loser never said what it used"


@pytest.mark.parametrize("stream", [True, False])
async def test_who_is_done_in_time_answers(serve: Serve, stream: bool) -> None:
    client = await serve(models("{text: good, first_token_ms: 40}", SILENT), default=policy("0"))
    reply = await client.chat(stream=stream)
    assert (reply.text, reply.gateway["path"]) == ("good", "m1,m2!raced")


async def test_a_broken_beginning_is_no_race(serve: Serve) -> None:
    """It fails at its first word, long before the time."""
    client = await serve(
        models('{text: "Sure! Here you are: {}", between_ms: 400}'), default=policy("60", "json: {fenced: true}")
    )
    reply = await client.chat(stream=True)
    assert (reply.text, reply.gateway["path"]) == ("here I am", "m1!json,m2")


async def test_a_loser_has_not_failed_at_anything_that_could_be_learned(serve: Serve) -> None:
    for race, kept in (("0", []), ("60", [{"m1": "regex"}])):
        learning = policy(race).replace("default\n", "default\nlearn: true\n", 1)
        client = await serve(models("{text: bad, first_token_ms: 200}"), default=learning)
        assert (await client.chat()).text == "here I am"
        opened = client.runtime.bookcase.opened
        assert opened is not None
        await opened.lessons.flush()
        assert [lesson.failed for lesson in await opened.lessons.find()] == kept


async def test_several_choices_are_one_racers(serve: Serve) -> None:
    client = await serve(models(SLOW), default=policy("0.02"))
    reply = await client.chat(n=2, stream=True)
    texts = ["", ""]
    for event in reply.events[:-1]:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == ["here I am"] * 2


async def test_a_deadline_ends_all_of_them(serve: Serve) -> None:
    client = await serve(models(SILENT, SILENT), default=policy("0"))
    reply = await client.chat(headers={"x-gateway-deadline-s": "0.2"})
    assert (reply.status, reply.error["code"]) == (504, "upstream_timeout")
    assert reply.headers["x-gateway-path"] == "m1!timeout,m2!timeout"


async def test_a_client_that_leaves_is_nobodys_cost_for_long(serve: Serve) -> None:
    client = await serve(models(SILENT, SILENT), default=policy("0"))
    before = asyncio.all_tasks()
    call = client.start_chat(stream=True)
    await asyncio.sleep(0)
    while len(asyncio.all_tasks() - before) < 3:  # the request and its two racers
        await asyncio.sleep(0.001)
    call.leave()
    await call.done()
    assert not [task for task in asyncio.all_tasks() - before if "_attempt" in repr(task)]


@st.composite
def raced(draw: st.DrawFn) -> Responder:
    return _raced(draw, draw(trees()))


def _raced(draw: st.DrawFn, tree: Responder) -> Responder:
    match tree:
        case Cascade():
            tiers = []
            for tier in tree.tiers:
                times = st.sampled_from([0.0, 0.001, 0.004, None])
                terms = st.builds(Racing, times, st.sampled_from([None, 0.1]), st.sampled_from(["first", "earlier"]))
                racing = draw(st.none() | terms | terms)
                tiers.append(replace(tier, responder=_raced(draw, tier.responder), race=racing))
            return replace(tree, tiers=tiers)
        case Limited():
            return replace(tree, inner=_raced(draw, tree.inner))
        case OpenAIBackend():
            script = tree.client.script  # type: ignore[attr-defined]
            reply = script.spec.replies[0]
            paced = {
                "first_token_ms": draw(st.sampled_from([0, 0, 1, 4])),
                "between_ms": draw(st.sampled_from([0, 0, 0.1])),
            }
            script.spec = script.spec.model_copy(update={"replies": (reply.model_copy(update=paced),)})
    return tree


@settings(max_examples=30, deadline=None)
@given(tree=raced(), stream=st.booleans())
def test_there_is_one_voice_and_all_that_was_spent_is_known(tree: Responder, stream: bool) -> None:
    heard: list[Chunk] = []

    async def emit(chunk: Chunk) -> None:
        await asyncio.sleep(0)
        heard.append(chunk)

    async def run() -> tuple[Answer | None, RequestTrace]:
        trace = RequestTrace("test")
        request = ChatRequest({"model": "x", "messages": [{"role": "user", "content": "hi"}], "stream": stream})
        answer = None
        try:
            with trace:
                answer = await tree.respond(request, emit, trace)
        except BackendError:
            pass
        assert len(asyncio.all_tasks()) == 1, "somebody runs on"
        return answer, trace

    answer, trace = asyncio.run(run())
    speakers = {chunk.model for chunk in heard}
    assert len(speakers) <= 1, "two models were heard"
    text = "".join(c["delta"].get("content") or "" for chunk in heard for c in chunk.choices)
    by_name = {leaf.name: leaf for leaf in leaves(tree)}
    for speaker in speakers:
        whole = by_name[speaker].client.script.spec.replies[0].text or ""  # type: ignore[attr-defined]
        assert whole.startswith(text), "words that the speaker never said, or said in another order"
    if answer is not None and stream:
        assert text == next(answer.texts) and speakers == {answer.model}
    assert stream or not heard

    hops = [hop for hop in trace.walk() if hop.kind == "model"]
    assert all(hop.ended is not None for hop in trace.walk())
    for hop in hops:  # whoever was sent anything has its spend, however it ended
        assert hop.spend is not None or (hop.left or "").startswith("http_")
        if hop.spend is not None:
            price = by_name[hop.name].price
            assert hop.spend.cost_usd == (price.cost_usd(hop.spend.usage, hop.spend.busy_s) if price else None)
    if answer is not None:
        assert [hop.name for hop in hops if hop.left is None] == [answer.model] or answer.checks_failed, trace.path


async def test_a_difficulty_that_a_rule_has_read_is_known_to_a_race() -> None:
    small, large, cascade = pair(Racing(after_s=3000.0, doubt=0.5))
    for value in (Noted(0.9, {}), 0.9):
        small.asked.clear()
        large.asked.clear()
        facts = Facts(ChatRequest({"messages": [], "stream": True}))
        facts.known.signals["difficulty", None] = (value, 0.0)
        decision = Decision(Route("a", cascade), facts)

        async def emit(chunk: Chunk) -> None:
            pass

        answering = asyncio.ensure_future(_go(decision, facts.request, emit, RequestTrace()))
        await within(large.asked.wait())
        await small.answer("good")
        assert (await within(answering)).model == "small"
