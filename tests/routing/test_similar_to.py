"""Semantic routes: on vectors that are known, and on the real embedding model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.chat import ChatRequest
from gateway.errors import ConfigError
from gateway.routing.likeness import SemanticRoute, everyday
from gateway.routing.services import Embeds, Errands
from gateway.routing.signals import Noted
from gateway.routing.signals.similar_to import prepare
from tests.conftest import ROOT, Serve, build_from
from tests.routing.planted import WordVectors

ORDERS = ["cancel my order", "change my order please", "where is my order now", "stop my order today"]
MODELS = "models: {m: {engine: scripted, replies: [{text: hi}]}}"


def saying(text: str) -> ChatRequest:
    return ChatRequest({"model": "auto", "messages": [{"role": "user", "content": text}]})


def route_of(said: Any, embeddings: Embeds) -> SemanticRoute:
    return SemanticRoute(prepare(said), embeddings, Errands(), asyncio.Lock())


async def ready(said: Any, embeddings: Embeds | None = None) -> SemanticRoute:
    route = route_of(said, embeddings or WordVectors())
    await route.prepare()
    return route


async def test_what_is_like_the_examples_matches_and_what_is_like_nothing_abstains() -> None:
    route = await ready(ORDERS)
    like, unlike = await route.judge(saying("please cancel my order now")), await route.judge(saying("bake bread"))
    assert like.value is True
    assert like.note["likeness"] >= like.note["floor"] and "abstained" not in like.note
    assert unlike.value is False and unlike.note["abstained"] is True


async def test_everyday_requests_are_below_the_floor() -> None:
    route = await ready(ORDERS)
    matched = [text for text in everyday() if (await route.judge(saying(text))).value]
    assert len(everyday()) > 250
    assert len(matched) <= 0.02 * len(everyday())


async def test_a_counterexample_that_is_nearer_decides() -> None:
    text = "please cancel my newspaper order"
    assert (await (await ready(ORDERS)).judge(saying(text))).value is True
    route = await ready({"examples": ORDERS, "not": ["cancel my newspaper order", "please cancel my newspaper"]})
    found = await route.judge(saying(text))
    assert found.value is False and found.note["unlike"] > found.note["likeness"]
    assert (await route.judge(saying("cancel my order now"))).value is True


async def test_a_floor_that_is_given_holds() -> None:
    text = "please cancel my order now"
    assert (await (await ready({"examples": ORDERS, "floor": 0.99})).judge(saying(text))).value is False
    assert (await (await ready({"examples": ORDERS, "floor": 0.1})).judge(saying(text))).note["floor"] == 0.1


async def test_the_more_alike_the_examples_are_the_higher_is_the_floor() -> None:
    alike = await ready(["cancel my order", "cancel my order now", "cancel my order please"])
    strewn = await ready(["cancel my order", "where does it stay", "shipping is slow"])
    request = saying("cancel my order")
    assert (await alike.judge(request)).note["floor"] > (await strewn.judge(request)).note["floor"]


async def test_before_there_are_vectors_nothing_matches_and_the_trace_says_why() -> None:
    vectors = WordVectors()
    vectors.is_away = True
    route = await ready(ORDERS, vectors)
    found = await route.judge(saying("cancel my order"))
    assert found == Noted(False, {"abstained": True, "why": "there are no vectors now"})


async def test_a_request_does_not_wait_for_the_examples_but_has_them_read() -> None:
    errands = Errands()
    route = SemanticRoute(prepare(ORDERS), WordVectors(), errands, asyncio.Lock())
    first = await route.judge(saying("cancel my order"))
    assert first.value is False and "why" in first.note
    await route.prepare()
    assert (await route.judge(saying("cancel my order"))).value is True
    await errands.close()


async def test_a_request_without_text_abstains() -> None:
    assert (await (await ready(ORDERS)).judge(saying(""))).note == {"abstained": True, "why": "no text"}


async def test_the_vector_that_does_not_come_in_time_is_no_match() -> None:
    vectors = WordVectors()
    route = await ready(ORDERS, vectors)
    vectors.is_away = True
    assert (await route.judge(saying("cancel my order"))).note["why"] == "no vector of the text in time"


@pytest.mark.parametrize(
    "said",
    [
        "[]",
        "{examples: []}",
        "{not: [a]}",
        "{examples: [a], floor: 2}",
        "{examples: [a], floor: true}",
        "{examples: [a], floors: 0.4}",
        "[1, 2]",
        "[' ']",
    ],
)
def test_what_it_cannot_take_is_a_problem_with_its_line(tmp_path: Path, said: str) -> None:
    policy = f"""
    policy: default
    routes:
      - {{name: a, when: {{similar_to: {said}}}, answer: {{model: m}}}}
      - {{name: b, answer: {{model: m}}}}
    """
    with pytest.raises(ConfigError) as caught:
        build_from(tmp_path, MODELS, default=policy)
    (problem,) = caught.value.problems
    assert problem.key == "routes[0].when.similar_to" and problem.line == 4


def test_anchors_of_yaml_put_lists_together(tmp_path: Path) -> None:
    policy = """
    policy: default
    routes:
      - {name: a, when: {similar_to: &orders [cancel my order, stop my order]}, answer: {model: m}}
      - {name: b, when: {similar_to: {examples: [a refund], not: [*orders, other things]}}, answer: {model: m}}
      - {name: c, answer: {model: m}}
    """
    gateway, _ = build_from(tmp_path, MODELS, default=policy)
    (part,) = list(gateway.policies["auto"].routes[1].when.parts())  # type: ignore[union-attr]
    argument = part.argument  # type: ignore[attr-defined]
    assert argument.said.against == ("cancel my order", "stop my order", "other things")
    assert argument.shown == {"examples": 1, "first": "a refund"}


# --- with all-MiniLM-L6-v2

SETS = json.loads((ROOT / "tests" / "data" / "routing" / "semantic.json").read_text())
ROUTES = ("orders", "billing", "law")
POLICY = {
    "policy": "default",
    "serves": ["auto"],
    "routes": [
        *(
            {
                "name": name,
                "when": {
                    "similar_to": {
                        "examples": SETS[name]["examples"],
                        "not": [SETS[other]["examples"] for other in ROUTES if other != name],
                    }
                },
                "answer": {"model": "m"},
            }
            for name in ROUTES
        ),
        {"name": "else", "answer": {"model": "m"}},
    ],
}


async def test_three_semantic_routes_on_the_real_model(serve: Serve, minilm_home: Path) -> None:
    client = await serve(MODELS, default=json.dumps(POLICY))
    (client.runtime.home / "models").symlink_to(minilm_home / "models")
    await client.gateway.prepare()
    policy = client.gateway.policies["auto"]

    async def routes(texts: list[str]) -> list[str]:
        return [(await policy.decide(saying(text))).route.name for text in texts]

    taken = {name: await routes(SETS[name]["asked"]) for name in ROUTES}
    right = sum(route == name for name, found in taken.items() for route in found)
    assert right / sum(map(len, taken.values())) >= 0.9
    strayed = [route for route in await routes(SETS["everyday"]) if route != "else"]
    assert len(strayed) <= 0.02 * len(SETS["everyday"])

    for text in ("dwugnmrvcawluamtgzyaaozkflaflnggfmhawprf", "今天天气怎么样？", "-C'XcR7oCs% z@m)yR8?kK"):
        decision = await policy.decide(saying(text))
        assert decision.route.name == "else"
        assert all(entry["abstained"] for entry in decision.facts.known.as_json())

    reply = await client.call("POST", "/v1/route/explain", saying("where is the parcel that I ordered?").body)
    assert reply.json["route"] == "orders"
    first = reply.json["signals"][0]
    assert first["signal"] == "similar_to" and first["value"] is True and first["us"] > 0
    assert first["likeness"] > first["floor"]
