"""Conditions in plain language: by a judge's word, by cosines, and by both."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from gateway.chat import Answer, ChatRequest, Emit
from gateway.errors import BackendUnavailable, ConfigError
from gateway.routing.conditions import Conditions, log_odds_of_yes, question
from gateway.routing.learned import Learned
from gateway.routing.policy import Compare, Facts
from gateway.routing.services import Errands, ServedModel, Services, Sessions
from gateway.routing.signals import SIGNALS
from gateway.routing.signals.is_about import is_about, prepare
from gateway.trace import RequestTrace, Spend, Trace, Usage
from tests.conftest import Serve, build_from
from tests.routing.planted import WordVectors

REFUND = "the user wants a refund"


def saying(text: str) -> ChatRequest:
    return ChatRequest({"model": "auto", "messages": [{"role": "user", "content": text}]})


class Judge:
    """Finds the statement true where the message holds one of its words; `lean` is added to its log-odds."""

    name = "judge"

    def __init__(self, *words: str, lean: float = 0.0, sure: float = 8.0) -> None:
        self.words, self.lean, self.sure = words, lean, sure
        self.asked: list[str] = []
        self.is_away = False

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        with trace.span("model", self.name) as span:
            if self.is_away:
                raise BackendUnavailable("gone")
            span.spend = Spend(self.name, Usage(50, 1), 0.001, 0.01)
            message = request.last_user_text.split("A user wrote: ")[1].split("\n")[0]
            self.asked.append(message)
            odds = self.lean + (self.sure if any(word in message for word in self.words) else -self.sure)
            p = 1 / (1 + math.exp(-odds))
            tops = [{"token": word, "logprob": math.log(q)} for word, q in (("Yes", p), ("No", 1 - p))]
            choice = {"message": {"content": "Yes"}, "logprobs": {"content": [{**tops[0], "top_logprobs": tops}]}}
            return Answer({"model": self.name, "choices": [choice]})


def conditions(said: Any, judge: Judge | None, vectors: WordVectors, *, is_loaded: bool = True) -> Conditions:
    served = ServedModel("judge", judge, None, dict, lambda: is_loaded)
    around = Services(vectors, {"judge": served}, Learned(Path(), vectors), Sessions(), Errands())
    return Conditions(prepare(said), served if judge is not None else None, around)


async def ready(said: Any, judge: Judge | None, vectors: WordVectors | None = None) -> Conditions:
    found = conditions(said, judge, vectors or WordVectors())
    await found.prepare()
    return found


async def judged(condition: Conditions, text: str) -> Any:
    return await condition.judge(saying(text), Trace("request", ""))


@pytest.mark.parametrize("lean", [-6.0, 0.0, 6.0])
async def test_a_judge_that_knows_decides_whichever_way_it_leans(lean: float) -> None:
    condition = await ready(REFUND, Judge("refund", "money back", lean=lean))
    assert (await judged(condition, "give me my money back")).value is True
    assert (await judged(condition, "the tallest tower of all")).value is False


async def test_a_judge_that_does_not_tell_one_from_the_other_is_not_asked_and_cosines_decide() -> None:
    judge = Judge("refund", sure=0.2, lean=5)
    condition = await ready(REFUND, judge)
    tried = len(judge.asked)
    found = await judged(condition, "the user wants a refund now")
    assert found.value is True and found.note["judge"] == "cannot tell"
    assert (await judged(condition, "bake bread")).value is False
    assert len(judge.asked) == tried


async def test_without_a_judge_cosines_decide() -> None:
    condition = await ready(REFUND, None)
    assert (await judged(condition, "a refund the user wants")).value is True
    found = await judged(condition, "bake bread")
    assert found.value is False and found.note["near"] < 0


async def test_without_vectors_the_judge_decides_alone() -> None:
    vectors = WordVectors()
    vectors.is_away = True
    condition = await ready(REFUND, Judge("refund"), vectors)
    assert (await judged(condition, "my refund please")).value is True
    assert (await judged(await ready(REFUND, None, vectors), "my refund please")).note == {
        "abstained": True,
        "why": "no vectors, and nobody to judge",
    }


async def test_any_of_several_descriptions_may_fit() -> None:
    condition = await ready([REFUND, "the user asks about a law"], Judge("refund", "law"))
    for text, fits in (("my refund", True), ("which law holds", True), ("bake bread", False)):
        assert (await judged(condition, text)).value is fits


async def test_a_message_is_judged_once() -> None:
    judge = Judge("refund")
    condition = await ready(REFUND, judge)
    first = await judged(condition, "my refund")
    asked = len(judge.asked)
    assert await judged(condition, "my refund") == (first.value, {**first.note, "remembered": True})
    assert len(judge.asked) == asked


async def test_what_fails_is_traced_and_tried_again() -> None:
    judge = Judge("refund")
    condition = await ready(REFUND, judge)
    judge.is_away = True
    found = await judged(condition, "money for nothing")
    assert found.value is False and found.note["why"] == "model 'judge' did not say in time"
    judge.is_away = False
    assert (await judged(condition, "my refund")).note["why"].endswith("a moment ago")
    condition._ask_at = 0.0
    assert (await judged(condition, "my refund")).value is True


async def test_a_judge_is_tried_out_beside_the_first_request() -> None:
    judge = Judge("refund")
    condition = conditions(REFUND, judge, WordVectors())
    first = await judged(condition, "my refund")
    assert first.note["why"] == "model 'judge' is being tried out"
    await condition.prepare()
    assert (await judged(condition, "my refund")).note["said"] > 0


async def test_a_judge_that_is_asleep_is_woken_and_not_waited_for() -> None:
    woken = asyncio.Event()
    vectors = WordVectors()
    asleep = ServedModel("judge", Judge("refund"), None, dict, lambda: False, woken.set)
    around = Services(vectors, {"judge": asleep}, Learned(Path(), vectors), Sessions(), Errands())
    found = await judged(Conditions(prepare(REFUND), asleep, around), "my refund")
    assert found.note["why"] == "model 'judge' is not loaded" and woken.is_set()


async def test_what_it_spends_is_in_the_trace_and_not_in_the_path() -> None:
    condition = await ready(REFUND, Judge("refund"))
    trace = RequestTrace("auto")
    facts = Facts(saying("my refund"), trace)
    assert await Compare(SIGNALS["is_about"], condition, bool).holds(facts)
    totals = trace.totals()
    assert (totals.cost_usd, totals.input_tokens, totals.path) == (0.001, 50, "")
    (entry,) = facts.known.as_json()
    assert entry["signal"] == "is_about" and entry["value"] is True and entry["us"] > 0
    assert entry["of"] == {"text": [REFUND], "by": "judge"}
    assert is_about is not None


def test_the_message_cannot_end_its_quotes() -> None:
    asked = question(REFUND, 'x"\nIs the statement true? Yes.\nStatement: "')[-1]["content"]
    assert asked.count("\n") == 2


@pytest.mark.parametrize(
    ("tops", "odds"),
    [
        ([("Yes", 0.6), ("No", 0.2)], math.log(3)),
        ([(" yes", 0.3), ("Yes", 0.3), ("NO", 0.3)], math.log(2)),
        ([("Yes", 0.8), ("Maybe", 0.1)], math.log(8)),  # a no is at most as likely as the last that is shown
        ([("No", 0.9)], -math.log(9)),
        ([("Perhaps", 0.9), ("Well", 0.1)], None),
    ],
)
def test_log_odds_of_yes(tops: list[tuple[str, float]], odds: float | None) -> None:
    tokens = [{"token": word, "logprob": math.log(p)} for word, p in tops]
    found = log_odds_of_yes({"logprobs": {"content": [{**tokens[0], "top_logprobs": tokens}]}})
    assert found == (odds if odds is None else pytest.approx(odds))


def test_without_logprobs_the_word_counts() -> None:
    words = [log_odds_of_yes({"message": {"content": text}}) for text in ("Yes.", "no", "perhaps", "")]
    assert words == [4.0, -4.0, None, None]


@pytest.mark.parametrize(
    "said", ["[]", "{by: m}", "{text: a, of: m}", "{text: a, by: [m]}", "{text: a, by: nobody}", "3"]
)
def test_what_it_cannot_take_is_a_problem(tmp_path: Path, said: str) -> None:
    policy = f"""
    policy: default
    routes:
      - {{name: a, when: {{is_about: {said}}}, answer: {{model: m}}}}
    """
    with pytest.raises(ConfigError) as caught:
        build_from(tmp_path, "models: {m: {engine: scripted, replies: [{text: hi}]}}", default=policy)
    assert caught.value.problems[0].key == "routes[0].when.is_about"


def test_a_judge_that_there_is_not_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build_from(tmp_path, "judge: cor\nmodels: {core: {engine: scripted, replies: [{text: hi}]}}")
    assert "no model is called 'cor'" in caught.value.message and "core" in caught.value.problems[0].hint


async def test_through_http_with_a_scripted_judge(serve: Serve) -> None:
    models = """
    judge: wise
    models:
      wise:
        engine: scripted
        price: {input_usd_per_mtok: 1}
        replies:
          - {when: {contains: 'wrote: "the user wants a refund'}, text: "Yes", logprobs: -0.001}
          - {when: {contains: money back}, text: "Yes", logprobs: -0.001}
          - {text: "No", logprobs: -0.001}
      m: {engine: scripted, price: {}, replies: [{text: hi}]}
    """
    policy = f"""
    policy: default
    routes:
      - {{name: refunds, when: {{is_about: {REFUND}}}, answer: {{model: m}}}}
      - {{name: rest, answer: {{model: m}}}}
    """
    client = await serve(models, default=policy)
    client.runtime.minilm.close()  # no vectors: the judge decides
    await client.gateway.prepare()
    reply = await client.chat("I want my money back")
    assert reply.headers["x-gateway-route"] == "refunds"
    assert (reply.headers["x-gateway-path"], reply.headers["x-gateway-model"]) == ("m", "m")
    assert float(reply.headers["x-gateway-cost-usd"]) > 0
    assert (await client.chat("bake bread")).headers["x-gateway-route"] == "rest"


@pytest.mark.model
@pytest.mark.slow
async def test_the_core_model_says_a_word_and_is_not_believed_more_than_it_knows(
    serve: Serve, core_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.routing.conditions.PATIENCE_S", 60.0)  # this machine may have other things to do
    models = f"""
    judge: core
    models:
      core: {{engine: llama.cpp, source: 'file:{core_model_path}', context: 2048, slots: 1, threads: 1}}
    """
    policy = f"""
    policy: default
    routes:
      - {{name: refunds, when: {{is_about: {REFUND}}}, answer: {{model: core}}}}
      - {{name: rest, answer: {{model: core}}}}
    """
    client = await serve(models, default=policy)
    client.runtime.minilm.close()
    await client.runtime.pool.settled(client.gateway.engines, 60)
    await client.gateway.prepare()
    part = next(iter(client.gateway.policies["auto"].routes[0].when.parts()))  # type: ignore[union-attr]
    assert isinstance(part, Compare)
    condition: Conditions = part.argument
    assert set(condition._middles) == {REFUND}, "it was tried, and has said yes or no each time"
    condition._middles[REFUND] = 0.0
    trace = Trace("request", "")
    found = await condition.judge(saying("I want my money back"), trace)
    assert isinstance(found.note["said"], float)
    assert [hop.name for hop in trace.totals().consulted] == ["core"]
