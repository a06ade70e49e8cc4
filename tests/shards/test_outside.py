from __future__ import annotations

import datetime
from typing import Any

import orjson
import pytest

from gateway.errors import InvalidRequest
from gateway.shards import Case, Example, Kind, Origin, Scope, Shard, Standing, State, Trust
from gateway.shards.outside import GIVEN_BY_US, read_shard, shown
from gateway.shards.writing import as_json, from_json

FACT = {"kind": "content", "fact": "The capital of Ruritania is Strelsau."}


def refused(body: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_shard(body)
    assert "\n" not in caught.value.message and caught.value.status == 400
    return caught.value


def test_a_fact_is_read_with_what_the_caller_gives() -> None:
    shard = read_shard({**FACT, "source": "wiki"}, id="a" * 32, tenant="acme", writer="bob", trust=Trust.TESTED)
    assert shard == Shard(
        "a" * 32,
        Kind.CONTENT,
        fact=FACT["fact"],
        source="wiki",
        tenant="acme",
        writer="bob",
        trust=Trust.TESTED,
    )
    assert shard.state is State.CANDIDATE and shard.scope is Scope.TENANT
    assert len(read_shard(FACT).id) == 32 and read_shard(FACT).id != read_shard(FACT).id


def test_a_process_shard_is_read_whole() -> None:
    shard = read_shard(
        {
            "kind": "process",
            "examples": [{"user": "3 May 2024", "assistant": "2024-05-03"}],
            "steps": ["Read the day."],
            "options": ["yes", "no"],
            "schema": {"type": "object"},
            "checks": ["not_empty", {"regex": "^[0-9-]+$"}],
            "cases": [
                {"prompt": "4 May 2024", "accepted": ["2024-05-04"], "origin": "held_out"},
                {
                    "messages": [{"role": "user", "content": "5 May", "name": "x"}],
                    "accepted": ["a"],
                    "fields": {"max_tokens": 9},
                },
            ],
            "for_models": ["core"],
            "valid_from": 1,
            "valid_to": 2.5,
            "title": None,
        }
    )
    assert shard.examples == (Example("3 May 2024", "2024-05-03"),) and shard.schema == {"type": "object"}
    assert shard.cases == (
        Case(({"role": "user", "content": "4 May 2024"},), ("2024-05-04",), Origin.HELD_OUT),
        Case(({"role": "user", "content": "5 May", "name": "x"},), ("a",), Origin.SOURCE, {"max_tokens": 9}),
    )
    assert shard.checks == ("not_empty", {"regex": "^[0-9-]+$"}) and shard.valid_from == 1.0
    assert from_json(orjson.loads(orjson.dumps(as_json(shard)))) == shard


def test_a_shard_with_a_user_is_that_users() -> None:
    shard = read_shard({"kind": "memory", "fact": "Ann likes tea.", "user": "ann"})
    assert (shard.scope, shard.user) == (Scope.USER, "ann")
    assert read_shard({**FACT, "scope": "global"}).scope is Scope.GLOBAL


@pytest.mark.parametrize("name", sorted(GIVEN_BY_US))
def test_what_the_gateway_sets_may_not_be_set(name: str) -> None:
    assert refused({**FACT, name: 1}).param == name


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"kind": "poem"}, "kind"),
        ({"kind": 1}, "kind"),
        ({"kind": None}, "kind"),
        ({"fact": ""}, "fact"),
        ({"fact": " \n"}, "fact"),
        ({"fact": "x" * 601}, "fact"),
        ({"fact": ["x"]}, "fact"),
        ({"fact": "a\x00b"}, "fact"),
        ({"fact": "a\x1b[31m"}, "fact"),
        ({"passage": "x" * 6001}, "passage"),
        ({"questions": ["q"] * 17}, "questions"),
        ({"questions": "q"}, "questions"),
        ({"questions": ["q", 1]}, "questions[1]"),
        ({"questions": [""]}, "questions[0]"),
        ({"examples": [{"user": "a", "assistant": "b"}] * 41}, "examples"),
        ({"examples": [{"user": "a"}]}, "examples[0].assistant"),
        (
            {"examples": [{"user": "a", "assistant": "b"}, {"user": "a", "assistant": "x" * 4001}]},
            "examples[1].assistant",
        ),
        ({"examples": [{"user": "a", "assistant": "b", "role": "x"}]}, "examples[0].role"),
        ({"examples": ["a"]}, "examples[0]"),
        ({"checks": [1]}, "checks[0]"),
        ({"checks": [{}]}, "checks[0]"),
        ({"checks": ["ok", {"a": 1, "b": 2}]}, "checks[1]"),
        ({"schema": []}, "schema"),
        ({"cases": [{"prompt": "a", "accepted": ["b"]}] * 65}, "cases"),
        ({"cases": [{"prompt": "a", "accepted": []}]}, "cases[0].accepted"),
        ({"cases": [{"accepted": ["b"]}]}, "cases[0].messages"),
        ({"cases": [{"prompt": "a", "messages": [{"role": "user"}], "accepted": ["b"]}]}, "cases[0].messages"),
        ({"cases": [{"messages": [], "accepted": ["b"]}]}, "cases[0].messages"),
        ({"cases": [{"messages": [{"role": "god"}], "accepted": ["b"]}]}, "cases[0].messages[0].role"),
        (
            {"cases": [{"messages": [{"role": "user", "content": 1}], "accepted": ["b"]}]},
            "cases[0].messages[0].content",
        ),
        ({"cases": [{"prompt": "a", "accepted": ["b"], "origin": "x"}]}, "cases[0].origin"),
        ({"cases": [{"prompt": "a", "accepted": ["b"], "fields": {"model": "m"}}]}, "cases[0].fields.model"),
        ({"scope": "user"}, "user"),
        ({"scope": "tenant", "user": "ann"}, "user"),
        ({"scope": "world"}, "scope"),
        ({"user": ""}, "user"),
        ({"user": 7}, "user"),
        ({"valid_from": "now"}, "valid_from"),
        ({"valid_from": True}, "valid_from"),
        ({"valid_from": 5, "valid_to": 5}, "valid_to"),
        ({"valid_to": 1e300}, "valid_to"),
        ({"needs_review": "yes"}, "needs_review"),
        ({"source": "feed:abc/x"}, "source"),
        ({"source": "bundle:abc/x"}, "source"),
        ({"for_models": [["a"]]}, "for_models[0]"),
    ],
)
def test_what_is_wrong_is_named(more: dict[str, Any], param: str) -> None:
    assert refused({**FACT, **more}).param == param


def test_a_kind_needs_its_text() -> None:
    assert refused({"kind": "process", "fact": "x"}).param == "examples"
    assert refused({"kind": "memory", "steps": ["x"]}).param == "fact"
    assert refused({"fact": "x"}).param == "kind"
    for key, value in (("steps", ["Do it."]), ("options", ["a"])):
        assert read_shard({"kind": "process", key: value}).kind is Kind.PROCESS
    assert read_shard({"kind": "content", "passage": "Long."}).passage == "Long."


def test_a_misspelt_key_is_told_with_the_nearest() -> None:
    error = refused({**FACT, "quesions": ["x"]})
    assert error.param == "quesions" and "did you mean 'questions'" in error.message


@pytest.mark.parametrize("body", [None, [], "x", 1])
def test_what_is_no_object_is_refused(body: object) -> None:
    assert "object" in refused(body).message


def test_what_is_no_json_is_refused() -> None:
    deep: Any = {}
    for _ in range(300):
        deep = {"a": deep}
    for value in (deep, datetime.date(2024, 5, 3), {1: 2}, "\ud800", 2**80, {"x": b"y"}):
        assert "JSON" in refused({**FACT, "schema": {"a": value}}).message


def test_the_whole_has_its_limit() -> None:
    many = [{"user": "a" * 2000, "assistant": "b"}] * 40
    assert "64 KB" in refused({"kind": "process", "examples": many}).message


def test_a_shard_is_shown_with_its_readers() -> None:
    shard = read_shard({**FACT, "questions": ["What is the capital?"]}, id="b" * 32).now(revision=7, created=5.0)
    standing = Standing(shard.id, "core", State.LIVE, "fp", {"lift": 0.4}, 3, 2, 1, 0)
    told = shown(shard, [standing, Standing("c" * 32, "other")])
    assert orjson.loads(orjson.dumps(told)) == told
    assert told["object"] == "shard" and told["revision"] == 7 and told["steps"] == [] and told["scope"] == "tenant"
    assert told["questions"] == ["What is the capital?"] and told["trust"] == 3 and told["schema"] is None
    assert list(told["readers"]) == ["core"]
    assert told["readers"]["core"]["state"] == "live" and told["readers"]["core"]["evidence"] == {"lift": 0.4}
    assert {"id", "tenant", "writer", "user", "why", "source", "cases", "valid_to"} <= told.keys()
