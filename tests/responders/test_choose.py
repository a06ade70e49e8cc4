"""`choose`: who is asked, what is held, and what the trace says of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest

from gateway.capability.budget import Budget, write_lambdas
from gateway.capability.cards import Card
from gateway.capability.choosing import Rate
from gateway.capability.profiles import Profiles
from gateway.chat import Answer, ChatRequest, Emit
from gateway.checks import CHECKS, Check
from gateway.chunks import Chunk
from gateway.config import plugins
from gateway.embedding import Embedded, EmbeddingRequest
from gateway.embedding.remembered import Embeddings
from gateway.errors import BackendUnavailable, ChecksFailed, ConfigError, ContextTooLong
from gateway.explain import explain
from gateway.responders.cascade import models_in
from gateway.responders.choose import Candidate, Choose, Terms
from gateway.responders.hold import WHOLE, Tier
from gateway.trace import Price, RequestTrace, Spend, Trace, Usage
from tests.conftest import Serve, build_from, running

plugins.load()
ASK = {"messages": [{"role": "user", "content": "hi"}]}
CHEAP, DEAR = Price(0, 1), Price(0, 50)


class Nobody:
    """Has no vectors: estimates rest on cards and on what is known of a model everywhere."""

    name = "nobody"

    async def embed(self, request: EmbeddingRequest, trace: Trace) -> Embedded:
        raise BackendUnavailable("none")


@dataclass
class Leaf:
    """Says its text, streamed in words where that is asked for; or fails."""

    name: str
    text: str = "fine words"
    error: Exception | None = None
    asked: list[ChatRequest] = field(default_factory=list)

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        self.asked.append(request)
        with trace.span("model", self.name) as span:
            if self.error is not None:
                raise self.error
            for word in self.text.split(" ") if request.stream else ():
                choice = {"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}
                await emit(Chunk({"model": self.name, "choices": [choice]}))
            span.spend = Spend(self.name, Usage(5, 7), 0.001, 0.1)
            message = {"role": "assistant", "content": self.text}
            return Answer({"model": self.name, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def wants(pattern: str) -> tuple[Check, ...]:
    check: Check = CHECKS["regex"](pattern)
    return (check,)


@dataclass
class World:
    """Two leaves or more under one `choose`; keeps what reached the client."""

    home: Path
    candidates: list[Candidate]
    rate: Rate = field(default_factory=lambda: Rate(1.0))
    explore: float = 0.0
    on_exhausted: Literal["best", "error"] = "best"
    options: dict[str, Any] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)
    rng: random.Random = field(default_factory=lambda: random.Random(3))

    def __post_init__(self) -> None:
        self.profiles = Profiles(self.home, Embeddings(Nobody()), clock=lambda: 1.8e9, rng=self.rng)
        self.profiles.want()

    @property
    def node(self) -> Choose:
        terms = Terms(self.rate, Budget("usd", None, 0.001), self.explore)
        return Choose(self.candidates, terms, self.profiles, self.on_exhausted, **self.options)

    async def ask(self, **fields: Any) -> tuple[Answer, RequestTrace]:
        trace = RequestTrace()

        async def emit(chunk: Chunk) -> None:
            self.heard.append(chunk.choices[0]["delta"]["content"])

        known = {name: fields.pop(name) for name in ("headers", "stay_with") if name in fields}
        with trace:
            answer = await self.node.respond(ChatRequest({**ASK, **fields}, **known), emit, trace)
        self.profiles.record(trace)
        return answer, trace


def candidate(
    leaf: Leaf, parameters: float | None, price: Price = CHEAP, checks: Sequence[Check] = (), **options: Any
) -> Candidate:
    hold = WHOLE if checks else 0
    tier = Tier(leaf.name, leaf, checks, hold, wake=options.pop("wake", None))
    return Candidate(tier, Card(parameters, price=price, **options.pop("card", {})), **options)


def facts(trace: Trace) -> Mapping[str, Any]:
    return next(hop.facts for hop in trace.walk() if hop.kind == "choose" and hop.facts)


async def test_a_cheap_answer_that_passes_ends_it(tmp_path: Path) -> None:
    weak, strong = Leaf("weak"), Leaf("strong")
    world = World(tmp_path, [candidate(weak, 8e9, checks=wants("fine")), candidate(strong, None, DEAR)])
    world.rate = Rate(None, 0.75)
    answer, trace = await world.ask()
    assert answer.model == "weak" and not strong.asked and trace.path == "weak"
    assert [decision["next"] for decision in facts(trace)["decisions"]] == ["weak"]


async def test_a_failed_check_goes_on_to_who_is_worth_it(tmp_path: Path) -> None:
    weak, strong = Leaf("weak", "bad words"), Leaf("strong")
    world = World(tmp_path, [candidate(strong, None, DEAR), candidate(weak, 8e9, checks=wants("fine"))])
    world.rate = Rate(None, 0.8)
    answer, trace = await world.ask(stream=True)
    assert answer.model == "strong" and trace.path == "weak!regex,strong"
    assert "".join(world.heard).strip() == "fine words"
    first, second = facts(trace)["decisions"]
    assert first["next"] == "weak" and second["answered"] == {"weak": 0.0} and second["next"] == "strong"


async def test_a_failed_draft_is_the_answer_where_nobody_is_worth_asking(tmp_path: Path) -> None:
    weak, strong = Leaf("weak", "bad words"), Leaf("strong")
    candidates = [candidate(weak, 8e9, checks=wants("fine")), candidate(strong, None, DEAR)]
    world = World(tmp_path, candidates, Rate(1000.0))
    answer, trace = await world.ask(stream=True)
    assert answer.model == "weak" and answer.checks_failed == ("regex",) and not strong.asked
    world.on_exhausted = "error"
    with pytest.raises(ChecksFailed, match="regex"):
        await world.ask(stream=True)


async def test_an_answer_that_passed_but_is_not_sure_enough_is_held_back(tmp_path: Path) -> None:
    weak, strong = Leaf("weak", "fine but weak"), Leaf("strong")
    world = World(tmp_path, [candidate(weak, 8e9, checks=wants("fine")), candidate(strong, None, DEAR)])
    world.rate = Rate(None, 0.83)
    seen: list[Mapping[str, float]] = []

    def worth_of(model: str, scores: Mapping[str, float]) -> float | None:
        seen.append(scores)
        return 0.4 if model == "weak" else None

    world.options = {"worth_of": worth_of}
    answer, trace = await world.ask(stream=True)
    assert answer.model == "strong" and trace.path == "weak!unsure,strong"
    assert "".join(world.heard).strip() == "fine words" and len(seen) == 1
    assert world.profiles.table.of_model("weak").s == pytest.approx(0.4)


async def test_who_comes_back_unsure_may_still_be_the_best_there_is(tmp_path: Path) -> None:
    weak, strong = Leaf("weak", "fine but weak"), Leaf("strong", error=BackendUnavailable("away"))
    world = World(tmp_path, [candidate(weak, 8e9, checks=wants("fine")), candidate(strong, None, DEAR)])
    world.rate, world.options = Rate(None, 0.83), {"worth_of": lambda model, scores: 0.4}
    answer, trace = await world.ask(stream=True)
    assert answer.model == "weak" and not answer.checks_failed
    assert "".join(world.heard).strip() == "fine but weak"
    assert trace.path == "weak,strong!unavailable"


async def test_the_last_who_can_be_asked_streams_live_and_is_judged_all_the_same(tmp_path: Path) -> None:
    weak, strong = Leaf("weak", "bad words"), Leaf("strong", "worse words")
    checks = wants("fine")
    world = World(tmp_path, [candidate(weak, 8e9, checks=checks), candidate(strong, None, DEAR, checks)])
    world.rate = Rate(None, 0.83)
    heard_before_the_end: list[int] = []
    respond = strong.respond

    async def listening(request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        answer = await respond(request, emit, trace)
        heard_before_the_end.append(len(world.heard))
        return answer

    strong.respond = listening  # type: ignore[method-assign]
    answer, trace = await world.ask(stream=True)
    assert answer.model == "strong" and heard_before_the_end == [2] and len(world.heard) == 2
    assert answer.checks_failed == ("regex",)
    table = world.profiles.table
    assert (table.of_model("strong").s, table.of_model("strong").n) == (0, 1)
    assert (table.of_model("weak").s, table.of_model("weak").n) == (0, 1)


async def test_where_nothing_was_wanted_held_nothing_waits(tmp_path: Path) -> None:
    world = World(tmp_path, [candidate(Leaf("weak"), 8e9), candidate(Leaf("strong"), None, DEAR)], Rate(1000.0))
    answer, _ = await world.ask(stream=True)
    assert answer.model == "weak" and "".join(world.heard).strip() == "fine words"


async def test_errors_move_on_and_the_last_is_told(tmp_path: Path) -> None:
    leaves = [Leaf("a", error=ContextTooLong("a", context=10)), Leaf("b", error=ContextTooLong("b", context=5))]
    world = World(tmp_path, [candidate(leaf, 8e9) for leaf in leaves])
    with pytest.raises(ContextTooLong) as raised:
        await world.ask()
    assert raised.value.context == 10 and all(len(leaf.asked) == 1 for leaf in leaves)
    leaves[1].error = None
    answer, trace = await world.ask()
    assert answer.model == "b"
    assert world.profiles.table.of_model("a").calls == 0


async def test_an_error_after_the_first_word_is_loud(tmp_path: Path) -> None:
    @dataclass
    class Cut(Leaf):
        async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
            await super().respond(request, emit, trace)
            raise BackendUnavailable("cut")

    other = Leaf("other")
    world = World(tmp_path, [candidate(Cut("cut"), None), candidate(other, 135e6, DEAR)], Rate(1000.0))
    with pytest.raises(BackendUnavailable):
        await world.ask(stream=True)
    assert not other.asked


async def test_the_model_whose_calls_are_answered_is_asked_first_and_waited_for(tmp_path: Path) -> None:
    weak, strong = Leaf("weak"), Leaf("strong")
    world = World(tmp_path, [candidate(weak, 8e9), candidate(strong, None, DEAR)], Rate(1000.0), explore=1.0)
    answer, _ = await world.ask(stay_with="strong")
    assert answer.model == "strong" and not strong.asked[0].can_move_on
    assert list(models_in(world.node)) == ["weak", "strong"]
    answer, _ = await world.ask(stay_with="gone")
    assert answer.model == "weak"


async def test_who_others_can_stand_in_for_need_not_be_waited_for_and_loading_counts_as_time(tmp_path: Path) -> None:
    asleep, awake = Leaf("asleep"), Leaf("awake")
    heard: list[float] = []
    candidates = [
        candidate(asleep, 8e9, load_s=lambda: 60.0),
        candidate(awake, 8e9, checks=wants("better")),
        candidate(Leaf("strong"), None, Price(0, 100), wake=heard.append),
    ]
    world = World(tmp_path, candidates)
    await world.ask()
    assert awake.asked and awake.asked[0].can_move_on and not asleep.asked
    assert len(heard) == 1 and 0 < heard[0] < 1


async def test_what_a_candidate_cannot_take_it_is_not_asked(tmp_path: Path) -> None:
    blind, sees = Leaf("blind"), Leaf("sees")
    candidates = [candidate(blind, None), candidate(sees, 135e6, card={"accepts": frozenset({"text", "image"})})]
    world = World(tmp_path, candidates, Rate(1.0))
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    answer, _ = await world.ask(messages=[{"role": "user", "content": [part]}])
    assert answer.model == "sees" and not blind.asked


async def test_what_becomes_of_requests_changes_whom_is_asked(tmp_path: Path) -> None:
    weak, strong = Leaf("weak", "bad words"), Leaf("strong")
    world = World(tmp_path, [candidate(weak, 8e9, checks=wants("fine")), candidate(strong, None, DEAR)])
    world.rate = Rate(None, 0.8)
    for _ in range(60):
        await world.ask()
    assert 3 <= len(weak.asked) < 60 and len(strong.asked) == 60
    weak.asked.clear()
    for _ in range(300):
        world.profiles.note(None, "weak", 1.0, 0.00001, 0.0, 7)
    weak.text = "fine words"
    answer, _ = await world.ask()
    assert answer.model == "weak"


async def test_exploring_asks_others_in_a_share_of_requests_unless_it_is_forbidden(tmp_path: Path) -> None:
    weak, strong = Leaf("weak"), Leaf("strong")
    world = World(tmp_path, [candidate(weak, 1e9, DEAR), candidate(strong, 3e9)], Rate(5.0), explore=0.5)
    explored = [facts((await world.ask())[1])["explored"] for _ in range(100)]
    assert 30 < sum(explored) < 70 and 0 < len(weak.asked) < sum(explored)
    weak.asked.clear()
    for _ in range(50):
        _, trace = await world.ask(headers={"x-gateway-no-explore": "1"})
        assert not facts(trace)["explored"]
    world.explore = 0.0
    for _ in range(50):
        await world.ask()
    assert not weak.asked


async def test_the_trace_holds_numbers_and_no_words(tmp_path: Path) -> None:
    world = World(tmp_path, [candidate(Leaf("weak"), 8e9), candidate(Leaf("strong"), None, DEAR)])
    _, trace = await world.ask()
    known = orjson.loads(orjson.dumps(trace.as_json()))["children"][0]["facts"]
    assert [one["model"] for one in known["candidates"]] == ["weak", "strong"]
    assert {"p", "sigma", "n", "cost_usd", "latency_s", "joules"} <= set(known["candidates"][0])
    (decision,) = known["decisions"]
    assert decision["us"] > 0 and decision["next"] in decision["set"]
    assert "cluster" not in known and "hi" not in orjson.dumps(known).decode()


MODELS = """
models:
  core: {engine: scripted, parameters: 8B, replies: [{text: "small talk"}, {text: "small talk"}]}
  expert:
    engine: scripted
    replies: [{text: "learned words"}]
    languages: [en]
    price: {input_usd_per_mtok: 10, output_usd_per_mtok: 40}
"""
POLICY = """
policy: default
routes:
  - name: rest
    answer:
      choose:
        among: [{model: core, checks: [{regex: talk}]}, expert]
        quality: 0.75
        explore: 0
"""


def link(minilm_home: Path, home: Path) -> None:
    (home / "models").symlink_to(minilm_home / "models")


async def test_through_the_whole_gateway(tmp_path: Path, minilm_home: Path) -> None:
    (tmp_path / "home").mkdir()
    link(minilm_home, tmp_path / "home")
    async with running(tmp_path, MODELS, default=POLICY) as client:
        profiles, journal = client.runtime.profiles, client.runtime.journal
        assert journal is not None
        async with asyncio.timeout(30):
            while await profiles._place("hello") is None:  # loading the embedding model takes its time
                pass
        profiles._blind_until = 0.0
        reply = await client.chat("What is the derivative of x^2?")
        assert reply.headers["x-gateway-path"] == "core" and reply.text == "small talk"
        row = await journal.find(reply.headers["x-gateway-trace"])
        assert row is not None
        cluster = orjson.loads(row.trace)["children"][0]["facts"]["cluster"]
        assert profiles.table.near([(cluster, 1.0)], "core").n == pytest.approx(1, rel=1e-3)
        streamed = await client.chat("What is the derivative of x^3?", stream=True)
        assert streamed.text == "small talk" and streamed.events[-1] == "[DONE]"
        rating = {"trace": reply.headers["x-gateway-trace"], "value": False}
        assert (await client.call("POST", "/v1/feedback", rating)).status == 201
        assert profiles.table.near([(cluster, 1.0)], "core").s < profiles.table.near([(cluster, 1.0)], "core").n
        body = {"model": "auto", "messages": [{"role": "user", "content": "What is the derivative of x^2?"}]}
        told = (await client.call("POST", "/v1/route/explain", body)).json
        (choice,) = told["choices"]
        assert choice["clusters"][0]["cluster"] == cluster and len(choice["clusters"]) == 3
        assert choice["set"] == ["core"] or choice["set"][0] == "core"
        assert {"model", "p", "sigma", "cost_usd", "latency_s", "value"} <= set(choice["candidates"][0])
        assert {"among", "quality"} <= set(told["answer"]["choose"])
    assert (tmp_path / "home" / "state" / "capability.json").exists()


async def test_explaining_asks_nobody(tmp_path: Path) -> None:
    gateway, runtime = build_from(tmp_path, MODELS, default=POLICY)
    runtime.profiles._embeddings = Embeddings(Nobody())
    told = await explain(gateway, ChatRequest({**ASK, "model": "auto"}))
    assert told["choices"][0]["unit"] == "usd" and told["choices"][0]["clusters"] == []
    await runtime.close()


def terms_in(folder: Path, policy: str, models: str = MODELS) -> Terms:
    gateway, _ = build_from(folder, models, default=policy)
    node = gateway.policies["default"].routes[0].answer
    assert isinstance(node, Choose)
    return node.terms


def test_what_quality_is_worth_comes_from_what_was_learned_else_from_the_policy(tmp_path: Path) -> None:
    assert terms_in(tmp_path, POLICY).rate == Rate(None, 0.75)
    without = POLICY.replace("        quality: 0.75\n", "")
    assert terms_in(tmp_path, without).rate == Rate(1.0)
    seconds = without.replace("explore: 0", "budget: {seconds: 3}")
    assert terms_in(tmp_path, seconds).rate == Rate(0.01)
    assert terms_in(tmp_path, seconds).budget.unit == "seconds" and terms_in(tmp_path, seconds).explore == 0.02
    write_lambdas(tmp_path / "home", {"default/routes/0/answer": {"lambda": 42.0}})
    assert terms_in(tmp_path, POLICY).rate == Rate(42.0)


def test_inactive_models_are_left_out_and_nodes_may_be_anything(tmp_path: Path) -> None:
    away = "{engine: openai, base_url: 'https://x.example/v1', api_key: '${NOT_SET_AT_ALL}', model: m}"
    models = f"{MODELS}  far: {away}\n"
    policy = """
    policy: default
    routes:
      - name: rest
        answer:
          choose:
            among: [far, {cascade: [{model: core, checks: [not_empty]}, {model: expert}]}, expert, expert]
    """
    gateway, _ = build_from(tmp_path, models, default=policy)
    node = gateway.policies["default"].routes[0].answer
    assert isinstance(node, Choose)
    assert [one.key for one in node.candidates] == ["core>expert", "expert", "expert#4"]
    assert node.candidates[0].card.parameters is None and node.candidates[1].card.languages == ("en",)
    only = "policy: default\nroutes:\n  - {name: rest, answer: {choose: {among: [far, far]}}}\n"
    gateway, _ = build_from(tmp_path, models, default=only)
    assert not isinstance(gateway.policies["default"].routes[0].answer, Choose)


@pytest.mark.parametrize(
    ("node", "complaint"),
    [
        ("{among: [core]}", "at least 2"),
        ("{among: [core, core, core, core, core]}", "at most 4"),
        ("{among: [core, nobody]}", "no model is called 'nobody'"),
        ("{among: [core, expert], quality: 1.5}", "less than 1"),
        ("{among: [core, expert], explore: 0.5}", "0.02"),
        ("{among: [core, expert], budget: {}}", "exactly one of"),
        ("{among: [core, expert], budget: {seconds: 1, joules: 2}}", "exactly one of"),
        ("{among: [core, expert], budget: {seconds: 1}, latency_weight_usd_per_s: 1}", "costs in dollars"),
        ("{among: [core, expert], wrong: 1}", "wrong"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, node: str, complaint: str) -> None:
    policy = f"policy: default\nroutes:\n  - {{name: rest, answer: {{choose: {node}}}}}\n"
    with pytest.raises(ConfigError, match=complaint):
        build_from(tmp_path, MODELS, default=policy)


def test_a_damaged_file_of_what_was_learned_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "home" / "learned").mkdir(parents=True)
    (tmp_path / "home" / "learned" / "clusters.yaml").write_text("version: 9")
    two = POLICY + "  - {name: more, answer: {choose: {among: [core, expert]}}}\n"
    with pytest.raises(ConfigError) as raised:
        build_from(tmp_path, MODELS, default=two)
    assert len(raised.value.problems) == 1 and "clusters.yaml" in str(raised.value)


async def test_a_key_that_is_no_number_is_the_clients_mistake(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    client.runtime.profiles._embeddings = Embeddings(Nobody())
    reply = await client.chat("hello", max_tokens="many")
    assert reply.status == 400
