"""A cascade tells the pool what it may need next, and a model what it may expect of those behind it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gateway.chat import Answer, ChatRequest, Emit
from gateway.errors import ModelLoading
from gateway.responders.cascade import Cascade
from gateway.responders.hold import Tier
from gateway.responders.odds import Odds
from gateway.trace import Trace

BODY = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}


@dataclass
class Leaf:
    """Answers, or is loading; keeps what it was asked."""

    name: str
    is_loading: bool = False
    asked: list[ChatRequest] = field(default_factory=list)

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        self.asked.append(request)
        if self.is_loading:
            raise ModelLoading(f"model '{self.name}' is being loaded")
        return Answer({**BODY, "model": self.name})


async def ask(cascade: Cascade, request: ChatRequest | None = None) -> Trace:
    async def emit(chunk: object) -> None:
        pass

    trace = Trace("request", "")
    await cascade.respond(request or ChatRequest({"messages": [{"role": "user", "content": "hi"}]}), emit, trace)
    return trace


async def test_all_but_the_last_may_say_that_they_are_not_loaded() -> None:
    first, second, last = Leaf("a", is_loading=True), Leaf("b", is_loading=True), Leaf("c")
    await ask(Cascade([Tier(leaf.name, leaf) for leaf in (first, second, last)]))
    assert [leaf.asked[0].can_move_on for leaf in (first, second, last)] == [True, True, False]


async def test_inside_a_tier_that_others_follow_none_need_be_waited_for() -> None:
    inner, last = Leaf("a", is_loading=True), Leaf("b")
    await ask(Cascade([Tier("cascade", Cascade([Tier("a", inner)], "error")), Tier("b", last)]))
    assert inner.asked[0].can_move_on and not last.asked[0].can_move_on


async def test_the_model_whose_calls_are_answered_is_waited_for() -> None:
    first = Leaf("a")
    request = ChatRequest({"messages": [{"role": "user", "content": "hi"}]}, stay_with="a")
    await ask(Cascade([Tier("a", first), Tier("b", Leaf("b"))]), request)
    assert not first.asked[0].can_move_on


async def test_the_next_tier_hears_its_chance_before_it_is_needed() -> None:
    heard: list[float] = []
    odds = Odds()
    cascade = Cascade([Tier("a", Leaf("a"), odds=odds), Tier("b", Leaf("b"), wake=heard.append)])
    for _ in range(20):
        await ask(cascade)
    assert heard == sorted(heard, reverse=True)
    assert 0.25 < heard[0] < 0.35 and heard[-1] < 0.03


async def test_the_chance_grows_with_what_is_not_taken() -> None:
    heard: list[float] = []
    cascade = Cascade([Tier("a", Leaf("a", is_loading=True)), Tier("b", Leaf("b"), wake=heard.append)])
    for _ in range(20):
        await ask(cascade)
    assert heard[-1] > 0.95


def test_what_was_long_ago_counts_less() -> None:
    odds = Odds()
    for _ in range(1000):
        odds.note(left=True)
    for _ in range(150):
        odds.note(left=False)
    assert odds.of_leaving == pytest.approx(0.05, abs=0.03)
