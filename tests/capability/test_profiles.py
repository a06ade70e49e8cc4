"""What a gateway knows of its models: noted from finished requests, kept, rated, and read from what was learned."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.capability.cards import Prediction
from gateway.capability.profiles import (
    LEARNED,
    STATE,
    Learned,
    Look,
    Profiles,
    read_learned,
    told_by,
    write_learned,
)
from gateway.capability.table import Table
from gateway.chat import ChatRequest
from gateway.embedding import Embedded, EmbeddingRequest
from gateway.embedding.remembered import Embeddings
from gateway.errors import BackendUnavailable, ConfigError
from gateway.trace import RequestTrace, Spend, Trace, Usage


@dataclass
class Embedder:
    """Gives each text the first unit vector; counts what it is asked, and fails when told to."""

    name: str = "fake"
    asked: list[str] = field(default_factory=list)
    is_away: bool = False

    async def embed(self, request: EmbeddingRequest, trace: Trace) -> Embedded:
        self.asked += [str(text) for text in request.inputs]
        if self.is_away:
            raise BackendUnavailable("away")
        return Embedded([np.eye(384, dtype="<f4")[0].tobytes()] * len(request.inputs), self.name, 1)


@dataclass
class Said:
    p_right: dict[str, float]
    topic: str | None
    known: float


@dataclass
class Router:
    known: float = 1.0
    floor: float = 0.5

    def predict(self, text: str, vector: bytes | None = None) -> Prediction:
        return Said({"core": 0.2}, "code", self.known)


def now() -> float:
    return 1_800_000_000.0


def profiles_of(home: Path, embedder: Embedder | None = None, **options: Any) -> Profiles:
    return Profiles(home, Embeddings(embedder or Embedder()), clock=now, **options)


def hop(kind: str, name: str, *inside: Trace, left: str | None = None, **facts: Any) -> Trace:
    trace = Trace(kind, name)
    trace.children = list(inside)
    trace.left = left
    trace.facts = facts or None
    trace.ended = trace.started + 2.0
    if kind == "model":
        trace.spend = Spend(name, Usage(10, 20), 0.5, 2.0)
    return trace


def request(*inside: Trace) -> RequestTrace:
    root = RequestTrace()
    root.children = list(inside)
    return root


def asked(text: str) -> ChatRequest:
    return ChatRequest({"messages": [{"role": "user", "content": text}]})


def test_a_trace_tells_what_became_of_each_model() -> None:
    trace = request(
        hop(
            "choose",
            "choose",
            hop("tier", "core", hop("model", "core", left="json"), left="json", judged=True),
            hop("tier", "mid", hop("model", "mid", left="unsure"), left="unsure", passed=0.7),
            hop("tier", "away", hop("model", "away", left="503"), left="503"),
            hop("tier", "expert", hop("model", "expert")),
            cluster=7,
        )
    )
    assert list(told_by(trace)) == [
        (7, "core", 0.0, 0.5, 2.0, 20),
        (7, "mid", 0.7, 0.5, 2.0, 20),
        (7, "expert", None, 0.5, 2.0, 20),
    ]


def test_cascades_and_single_models_tell_too_and_checks_do_not() -> None:
    cascade = [
        hop("tier", "core", hop("model", "core"), hop("check", "judge", hop("model", "expert")), judged=True),
    ]
    assert list(told_by(request(*cascade))) == [(None, "core", 1.0, 0.5, 2.0, 20)]
    assert list(told_by(request(hop("model", "core")))) == [(None, "core", None, 0.5, 2.0, 20)]
    assert list(told_by(request(hop("model", "core", left="503")))) == []
    stood_in = hop("fallbacks", "core", hop("model", "core", left="503"), hop("model", "mid"), stand_in="mid")
    assert list(told_by(request(hop("tier", "core", stood_in, judged=True)))) == [], "it was another's answer"
    assert [told[1] for told in told_by(request(stood_in))] == ["mid"]
    inner = hop("tier", "core>mid", hop("tier", "core", hop("model", "core"), judged=True))
    assert [told[1] for told in told_by(request(inner))] == ["core>mid", "core"]


async def test_nothing_is_noted_before_a_policy_wants_it(tmp_path: Path) -> None:
    profiles = profiles_of(tmp_path)
    profiles.record(request(hop("model", "core")))
    profiles.note(1, "core", 1.0)
    await profiles.close()
    assert not profiles.table.cells() and not (tmp_path / STATE).exists()


async def test_what_was_noted_is_there_after_a_restart(tmp_path: Path) -> None:
    first = profiles_of(tmp_path)
    first.want()
    first.start()
    first.record(request(hop("tier", "core", hop("model", "core"), judged=True)))
    first.note(3, "core", 0.0)
    await first.close()
    second = profiles_of(tmp_path)
    second.want()
    assert (second.table.of_model("core").s, second.table.of_model("core").n) == (1, 2)
    assert list((tmp_path / STATE).parent.iterdir()) == [tmp_path / STATE]
    second.want()  # a reload
    assert second.table.of_model("core").n == 2


async def test_a_damaged_state_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / STATE).parent.mkdir()
    for text in ("{", "[]", '{"version": 9}', '{"version": 1, "clusters": "shipped-1", "cells": {"core": {"x": {}}}}'):
        (tmp_path / STATE).write_text(text)
        profiles = profiles_of(tmp_path)
        with caplog.at_level(logging.WARNING):
            profiles.want()
        assert not profiles.table.cells() and "begins anew" in caplog.text
        assert not (tmp_path / STATE).exists() and (tmp_path / STATE).with_suffix(".damaged").read_text() == text


async def test_a_home_that_cannot_be_written_loses_nothing_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    profiles = profiles_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        profiles.want()
        profiles.note(1, "core", 1.0)
        await profiles.flush()
    assert "cannot be written" in caplog.text and profiles.table.is_changed
    assert profiles.table.of_model("core").n == 1


def test_what_was_learned_is_taken_up(tmp_path: Path) -> None:
    table = Table("shipped-1", now)
    for _ in range(10):
        table.note(5, "core", 1.0)
    write_learned(tmp_path, Learned("shipped-1", 1_700_000_000.0, table.cells()))
    found = read_learned(tmp_path)
    assert found is not None and found.cells == table.cells()
    profiles = profiles_of(tmp_path)
    profiles.want()
    assert profiles.table.near([(5, 1.0)], "core").n == 10
    profiles.note(5, "core", 0.0)
    profiles.want()
    assert profiles.table.near([(5, 1.0)], "core").n == 11


def test_what_was_learned_of_other_clusters_is_not(tmp_path: Path) -> None:
    table = Table("mine", now)
    table.note(5, "core", 1.0)
    write_learned(tmp_path, Learned("mine", 1_700_000_000.0, table.cells()))
    profiles = profiles_of(tmp_path)
    profiles.want()
    assert not profiles.table.cells()


@pytest.mark.parametrize("text", ["version: 2", "[", "", "version: 1\nclusters: a\nlearned_at: x\ncells: {}", "words"])
def test_a_damaged_table_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / LEARNED).parent.mkdir()
    (tmp_path / LEARNED).write_text(text)
    with pytest.raises(ConfigError, match=r"capability\.yaml"):
        profiles_of(tmp_path).want()


def journalled(trace: RequestTrace) -> Any:
    return orjson.loads(orjson.dumps(trace.as_json()))


@pytest.mark.parametrize(("value", "outcome"), [(True, 1.0), (False, 0.0), (0.25, 0.25)])
def test_a_rating_is_an_outcome_of_who_answered(tmp_path: Path, value: float, outcome: float) -> None:
    profiles = profiles_of(tmp_path)
    profiles.want()
    trace = request(
        hop(
            "choose",
            "choose",
            hop("tier", "core", hop("model", "core", left="json"), left="json", judged=True),
            hop("tier", "expert", hop("model", "expert"), hop("check", "judge", hop("model", "judge"))),
            cluster=7,
        )
    )
    profiles.rate(journalled(trace), value)
    cells = profiles.table.cells()
    assert set(cells) == {(7, "expert")}
    assert (cells[7, "expert"].s, cells[7, "expert"].n) == (outcome, 1)
    assert cells[7, "expert"].calls == 0


def test_words_and_other_scales_rate_nothing(tmp_path: Path) -> None:
    profiles = profiles_of(tmp_path)
    profiles.want()
    for value in ("good", 5, -1.0):
        profiles.rate(journalled(request(hop("model", "core"))), value)
    profiles.rate(journalled(request(hop("model", "core", left="503"))), True)
    assert not profiles.table.cells()
    profiles.rate(journalled(request(hop("model", "core"))), True)
    assert profiles.table.of_model("core").n == 1


async def test_a_request_is_placed_by_what_the_user_said(tmp_path: Path) -> None:
    embedder = Embedder()
    profiles = profiles_of(tmp_path, embedder, load_router=Router)
    look = await profiles.look(asked("Write a function" + " !" * 50), wants_topic=True, wants_language=True)
    assert len(look.places) == 3 and sum(weight for _, weight in look.places) == pytest.approx(1)
    assert look.about.topic == "code" and look.about.p_right == {"core": 0.2}
    assert embedder.asked == ["Write a function !"]
    assert (await profiles.look(asked("Write a function"))).about.topic is None
    assert await profiles.look(ChatRequest({"messages": []})) == Look()


async def test_a_router_that_has_seen_nothing_like_it_is_not_believed(tmp_path: Path) -> None:
    profiles = profiles_of(tmp_path, load_router=lambda: Router(known=0.1))
    look = await profiles.look(asked("Wie heißt die Hauptstadt von Österreich?"), wants_topic=True, wants_language=True)
    assert look.about.topic is None and look.about.p_right is None and look.about.language == "de"


async def test_without_vectors_a_request_is_placed_nowhere_and_nobody_waits_again(tmp_path: Path) -> None:
    embedder = Embedder(is_away=True)
    profiles = profiles_of(tmp_path, embedder)
    assert (await profiles.look(asked("one"))).places == ()
    assert (await profiles.look(asked("two"))).places == ()
    assert embedder.asked == ["one"]
