"""Asked again, the model must say the same."""

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.chat import ChatRequest, Verdict
from gateway.checks import Resources
from gateway.checks.agreement import Agreement
from gateway.draft import Draft
from gateway.trace import Trace
from tests.checks.drafts import asking, calls, passes, prefix, whole
from tests.checks.models import Says
from tests.conftest import Serve

SEEDED = asking("6 * 7?", seed=1, stream=True, stream_options={"include_usage": True}, n=1, logprobs=True, max_tokens=9)


async def judged(
    own: Says | None, draft: Draft, request: ChatRequest | None = None, trace: Trace | None = None, **fields: Any
) -> Verdict:
    check = Agreement(**fields)
    models = {check.model: own} if check.model is not None else {}
    bound = check.bound(Resources(models=models, own=own))
    return await bound(request or asking("6 * 7?"), draft, trace or Trace("tier", "t"))


async def test_the_score_is_the_share_that_says_the_same() -> None:
    own = Says("It is 42.", "41", "42")
    verdict = await judged(own, whole("42"))
    assert (verdict.passed, verdict.score) == (True, pytest.approx(2 / 3))
    assert not (await judged(Says("41", "42", "43"), whole("42"))).passed


async def test_it_asks_for_other_samples_of_the_same_request() -> None:
    own = Says("42")
    await judged(own, whole("42"), SEEDED, samples=2)
    assert len(own.asked) == 2
    body = own.asked[0].body
    assert body["temperature"] == 0.7 and body["max_tokens"] == 9
    assert not {"seed", "stream", "stream_options", "n", "logprobs"} & set(body)
    assert SEEDED.body["seed"] == 1, "the client's request is as it was"


async def test_another_model_is_asked_once_as_the_client_asked() -> None:
    other = Says("The answer is 42.")
    verdict = await judged(other, whole("42"), asking("6 * 7?", temperature=0.2), model="second")
    assert (verdict.passed, verdict.score, len(other.asked)) == (True, 1.0, 1)
    assert other.asked[0].body["temperature"] == 0.2


async def test_what_it_asks_is_in_the_trace_and_not_on_the_path() -> None:
    trace = Trace("tier", "core")
    await judged(Says("42"), whole("42"), trace=trace, samples=3)
    totals = trace.totals()
    assert (totals.path, totals.input_tokens, totals.cost_usd) == ("", 30, pytest.approx(0.003))
    assert [hop.name for hop in totals.consulted] == ["other"] * 3
    assert list(trace.models()) == [] and trace.known_cost_usd == pytest.approx(0.003)
    assert [child.kind for child in trace.children] == ["check"]


async def test_samples_that_fail_do_not_count_and_none_at_all_fails() -> None:
    assert (await judged(Says(None, "42", "42"), whole("42"))).score == 1.0
    verdict = await judged(Says(None), whole("42"))
    assert (verdict.passed, verdict.reason, verdict.score) == (False, "no second answer", None)


async def test_calls_are_compared() -> None:
    call = calls(("look_up", '{"city": "Paris"}'))
    assert (await judged(Says(calls(("look_up", '{"city":"Paris"}'))), whole(call))).passed
    assert not (await judged(Says(calls(("look_up", '{"city": "Rome"}'))), whole(call))).passed
    assert not (await judged(Says("Paris"), whole(call))).passed


async def test_the_least_agreed_choice_decides() -> None:
    verdict = await judged(Says("42"), whole("42", "41"), asking("?", n=2))
    assert (verdict.passed, verdict.score) == (False, 0.0)


async def test_nothing_is_asked_about_an_empty_draft_or_a_beginning() -> None:
    own = Says("42")
    assert not (await judged(own, whole(""))).passed
    assert not (await judged(own, Draft.of({"choices": []}))).passed
    assert passes(Agreement().bound(Resources(own=own)), prefix("4"))
    assert own.asked == []


async def test_an_inactive_model_fails_the_draft() -> None:
    assert (await judged(None, whole("42"), model="second")).reason == "model 'second' is inactive"


@pytest.mark.parametrize("fields", [{"samples": 0}, {"at_least": 0.0}, {"temperature": -1.0}, {"model": 3}])
def test_parameters_have_bounds(fields: Any) -> None:
    with pytest.raises(ValidationError):
        Agreement(**fields)


CONFIG = """
models:
  m1: {engine: scripted, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1},
       replies: [{times: 1, text: forty-two}, {times: 1, text: forty-one}, {text: forty-three}]}
  m2: {engine: scripted, price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}, replies: [{text: from the second}]}
"""
POLICY = """
policy: default
routes: [{name: a, answer: {cascade: [{model: m1, checks: [not_empty, {agreement: 3}]}, {model: m2}]}}]
"""


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cascade_goes_on_where_the_model_contradicts_itself(serve: Serve, stream: bool) -> None:
    client = await serve(CONFIG, default=POLICY)
    reply = await client.chat("6 * 7?", stream=stream)
    assert reply.text == "from the second"
    assert reply.gateway["path"] == "m1!agreement,m2"
    assert b"forty" not in reply.body
    row = await client.runtime.journal.find(reply.headers["x-gateway-trace"])  # type: ignore[union-attr]
    assert row is not None and row.path == "m1!agreement,m2" and row.trace.count('"name":"m1"') == 5
    usage = reply.gateway["usage"]
    assert usage["input_tokens"] > 4 * 2, "the samples are paid for"
