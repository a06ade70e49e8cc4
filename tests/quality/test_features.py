"""What can be seen of a draft: numbers, and none where there is nothing to see."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gateway.given import ADAPTER, FACT, Adapted, Given
from gateway.quality.features import WINDOW, features_of
from gateway.trace import Trace
from tests.checks.drafts import asking, calls


def body(text: str | None, *logprobs: float | None, **choice: Any) -> dict[str, Any]:
    tokens = [{"token": "x", "logprob": logprob, "top_logprobs": []} for logprob in logprobs]
    logs = {"content": tokens, "refusal": None} if tokens else None
    return {"choices": [{"index": 0, "message": {"content": text}, "logprobs": logs, **choice}]}


def seen(answer: dict[str, Any], trace: Trace | None = None, user: str = "?", **fields: Any) -> dict[str, float]:
    return features_of(asking(user, **fields), answer, trace or Trace("tier", "core"))


def test_logprobs_are_told_by_mean_least_quantile_and_window() -> None:
    features = seen(body("x", *[-0.1] * 30, *[-2.0] * WINDOW, -8.0, *[-0.1] * 30))
    count = 61 + WINDOW
    assert features["logprob_mean"] == pytest.approx((-6 - 2 * WINDOW - 8) / count)
    assert features["logprob_min"] == -8.0
    assert features["logprob_q10"] == -2.0
    assert features["logprob_window"] == pytest.approx(-(2.0 * (WINDOW - 1) + 8.0) / WINDOW)
    assert features["tokens"] == pytest.approx(math.log1p(count))
    assert "logprob_margin" not in features


def test_of_a_short_answer_the_window_is_all_of_it() -> None:
    assert seen(body("x", -1.0, -3.0))["logprob_window"] == -2.0


def test_margins_are_between_the_two_likeliest_tokens() -> None:
    answer = body("x", -0.1, -0.2)
    tokens = answer["choices"][0]["logprobs"]["content"]
    tokens[0]["top_logprobs"] = [{"logprob": -3.1}, {"logprob": -0.1}, {"logprob": -5}]
    tokens[1]["top_logprobs"] = [{"logprob": -0.2}]
    assert seen(answer)["logprob_margin"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    "logprobs",
    [None, {}, {"content": None}, {"content": []}, {"content": ["x", {}, {"logprob": None}, {"logprob": "-1"}]}],
)
def test_without_logprobs_there_are_no_such_features(logprobs: Any) -> None:
    features = seen(body("fine", logprobs=logprobs))
    assert not [name for name in features if name.startswith("logprob") or name == "tokens"]


def test_impossible_tokens_count_as_very_unlikely() -> None:
    features = seen(body("x", float("-inf"), float("nan"), -0.5))
    assert features["logprob_min"] == -30 and features["logprob_mean"] == -15.25


def test_of_several_choices_the_least_certain_one_is_looked_at() -> None:
    both = {"choices": [*body("sure", -0.1)["choices"], *body("not so sure", -2.0)["choices"]]}
    features = seen(both)
    assert features["logprob_mean"] == -2.0 and features["answer_words"] == pytest.approx(math.log1p(3))


def test_the_kind_of_answer_is_flagged() -> None:
    def kind(answer: dict[str, Any], trace: Trace | None = None, **fields: Any) -> list[str]:
        return [name for name in seen(answer, trace, **fields) if name.startswith("kind_")]

    typed = Trace("tier", "core")
    typed.span("model", "core").note(typed={"options": 4, "p": 0.9, "margin": 0.7, "calls": 1})
    assert kind(body("fine")) == ["kind_text"]
    assert kind(body(' {"a": 1}')) == ["kind_json"]
    assert kind(body("[1"), response_format={"type": "json_object"}) == ["kind_json"]
    assert kind(body("billing"), typed) == ["kind_closed"]
    assert kind({"choices": [calls(("now", "{}"))]}, typed) == ["kind_tool"]
    features = seen(body("billing"), typed)
    assert (features["typed_p"], features["typed_margin"]) == (0.9, 0.7)


def test_soft_checks_have_left_their_scores_with_the_tier() -> None:
    tier = Trace("tier", "core")
    tier.note(agreement=0.67, grounded=1.0, judge="crashed", json=1, logprob=float("nan"), used_shard=True)
    tier.span("model", "core").note(agreement=0.1)  # not a tier's
    features = seen(body("x"), tier)
    assert {name: value for name, value in features.items() if name.startswith("check_")} == {
        "check_agreement": 0.67,
        "check_grounded": 1.0,
    }


def test_shards_are_counted_and_the_most_alike_one_named() -> None:
    tier = Trace("tier", "core")
    considered = [
        {"shard": "a", "in": True, "cosine": 0.6},
        {"shard": "b", "in": True, "cosine": 0.7},
        {"shard": "c", "in": False, "cosine": 0.9},
        {"shard": "d", "in": True},
    ]
    tier.span("shards", "core").note(**{FACT: Given("core", ("a", "b", "d"), considered=considered)})
    features = seen(body("x"), tier)
    assert (features["shards"], features["shard_likeness"]) == (3.0, 0.7)
    bare = Trace("tier", "core")
    bare.span("shards", "core").note(**{FACT: Given("core")})
    assert seen(body("x"), bare)["shards"] == 0 and "shard_likeness" not in seen(body("x"), bare)


def test_numbers_and_names_of_the_answer_are_looked_for_in_the_prompt() -> None:
    user = "Order 1234 of Anna Berg arrived on 2026-03-04."
    assert seen(body("It is Anna, order 1234."), user=user)["told_in_prompt"] == 1.0
    assert seen(body("It is Otto, order 1234."), user=user)["told_in_prompt"] == 0.5
    assert "told_in_prompt" not in seen(body("It has arrived."), user=user)
    assert seen(body("x"), user=user)["prompt_words"] == pytest.approx(math.log1p(8))


@pytest.mark.parametrize(
    "answer", [{}, {"choices": []}, {"choices": [{}]}, body(None), {"choices": [{"message": None}]}]
)
def test_an_empty_draft_has_features_too(answer: dict[str, Any]) -> None:
    features = seen(answer)
    assert features["answer_words"] == 0 and all(math.isfinite(value) for value in features.values())


def test_what_a_note_has_of_the_question_and_the_answer_of_the_note() -> None:
    tier = Trace("tier", "core")
    given = Given("core", ("a",), notes=("The bridge was opened in 1932.",), question="When did the bridges open?")
    tier.span("shards", "core").note(**{FACT: given})
    features = seen(body("It opened in 1932."), tier)
    assert features["asked_in_notes"] == pytest.approx(3 / 5)  # the, bridge, open; not: when, did
    assert (features["told_in_notes"], features["number_told"]) == (1.0, 1.0)
    assert seen(body("The bridges opened."), tier)["number_told"] == 0.0
    assert seen(body("The bridges opened."), tier)["told_words"] == 0.0
    assert (features["note_words"], features["is_memory"]) == (pytest.approx(math.log1p(6)), 0.0)


def test_an_answer_that_was_cut_off_is_flagged() -> None:
    cut = {"choices": [{"message": {"content": "It is"}, "finish_reason": "length"}]}
    assert seen(cut)["is_cut"] == 1.0 and seen(body("It is Anna."))["is_cut"] == 0.0


def test_the_nearest_requests_that_were_answered_so_and_otherwise() -> None:
    tier = Trace("tier", "core")
    known = (("card_lost", 0.9), ("balance", 0.7), ("Card found.", 1.1))
    tier.span("shards", "core").note(**{FACT: Given("core", ("a",), answers=("balance",), known=known)})
    features = seen(body("card_lost"), tier)
    assert (features["neighbour"], features["neighbour_same"]) == (1.1, 0.9)
    assert features["neighbour_margin"] == pytest.approx(0.9 - 1.1)
    assert seen(body("transfer"), tier)["neighbour_margin"] == pytest.approx(-1.1)


def test_how_often_it_was_right_before_is_told_of_examples_and_of_adapters() -> None:
    tier = Trace("tier", "core")
    considered = ({"shard": "a", "in": True, "rate": 0.85}, {"shard": "b", "in": False, "rate": 0.95})
    tier.span("shards", "core").note(**{FACT: Given("core", ("a",), answers=("balance",), considered=considered)})
    assert seen(body("balance"), tier)["shard_rate"] == 0.85
    adapted = Trace("tier", "core")
    adapted.span("adapter", "core").note(**{ADAPTER: Adapted("k", "core:one", "core:one", 0.7, 30)})
    found = seen(body("balance"), adapted)
    assert found["adapter_rate"] == 0.7 and found["adapter_pairs"] > 3
    alone = Trace("tier", "core")
    alone.span("adapter", "core").note(**{ADAPTER: Adapted("k", tried="core:one")})
    assert "adapter_rate" not in seen(body("balance"), alone)
