"""`topic`, `difficulty`, and thresholds that were learned: with a router whose word is known."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway.chat import ChatRequest
from gateway.config import plugins
from gateway.config.conditions import Reader
from gateway.config.lines import read
from gateway.errors import ConfigError, Problem
from gateway.routing.learned import Learned, load_router
from gateway.routing.policy import Condition, Facts
from gateway.routing.services import Errands, Services, Sessions
from gateway.routing.thresholds import read_thresholds
from tests.conftest import build_from
from tests.routing.planted import WordVectors

MODELS = "models: {m: {engine: scripted, replies: [{text: hi}]}}"


@dataclass(frozen=True)
class Said:
    difficulty: float
    topic: str | None
    known: float


@dataclass
class Router:
    topics: tuple[str, ...] = ("math", "code", "law")
    floor: float = 0.3
    base_rate: float = 0.45
    asked: list[tuple[str, bool]] = field(default_factory=list)

    def predict(self, text: str, vector: bytes | None = None) -> Said:
        self.asked.append((text, vector is not None))
        if "integral" in text:
            return Said(0.9, "math", 0.8)
        return Said(0.1, "code", 0.8) if "print" in text else Said(0.99, "law", 0.1)


def saying(text: str) -> ChatRequest:
    return ChatRequest({"model": "auto", "messages": [{"role": "user", "content": text}]})


def services(home: Path, router: Router, vectors: WordVectors | None = None) -> Services:
    vectors = vectors or WordVectors()
    learned = Learned(home, vectors, lambda home: (router, []))
    return Services(vectors, {}, learned, Sessions(), Errands())


Conditioned = Callable[[str], Condition]


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def condition(tmp_path: Path, router: Router) -> Conditioned:
    """From YAML; raises ConfigError with what is wrong."""
    plugins.load()
    around = services(tmp_path, router)

    def made(when: str) -> Condition:
        (tmp_path / "when.yaml").write_text(when)
        problems: list[Problem] = []
        document = read(tmp_path / "when.yaml")
        found = Reader(document, problems, around).when(document.data, (), None)
        if problems:
            raise ConfigError(problems)
        return found

    return made


async def test_the_topic_and_the_difficulty_are_the_routers(condition: Conditioned) -> None:
    hard = saying("what is the integral of x")
    assert await condition("{topic: [math, code]}").holds(Facts(hard))
    assert not await condition("{topic: law}").holds(Facts(hard))
    assert await condition("{difficulty: {above: 0.8}}").holds(Facts(hard))
    assert await condition("{difficulty: {below: 0.4}}").holds(Facts(saying("print hello")))


async def test_both_come_from_one_prediction(condition: Conditioned, router: Router) -> None:
    both = condition("{topic: math, difficulty: {above: 0.5}}")
    facts = Facts(saying("what is the integral of x"))
    assert await both.holds(facts)
    assert router.asked == [("what is the integral of x", True)]
    shown = facts.known.as_json()
    assert [(entry["signal"], entry["value"]) for entry in shown] == [("topic", "math"), ("difficulty", 0.9)]
    assert all(entry["known"] == 0.8 and "of" not in entry and entry["us"] >= 0 for entry in shown)


async def test_of_what_is_like_nothing_learned_there_is_no_topic_and_the_base_rate(condition: Conditioned) -> None:
    facts = Facts(saying("something else"))
    assert not await condition("{topic: [math, code, law]}").holds(facts)
    assert await condition("{difficulty: {above: 0.44, below: 0.46}}").holds(Facts(saying("something else")))
    (entry,) = facts.known.as_json()
    assert entry["value"] is None and entry["abstained"] is True and entry["known"] == 0.1


async def test_without_a_vector_n_grams_decide_and_it_is_asked_again(tmp_path: Path, router: Router) -> None:
    vectors = WordVectors()
    vectors.is_away = True
    learned = services(tmp_path, router, vectors).learned
    request = saying("what is the integral of x")
    assert (await learned.forecast(request)).note == {"known": 0.8, "vector": False}
    vectors.is_away = False
    assert (await learned.forecast(request)).note == {"known": 0.8}
    await learned.forecast(request)
    assert [with_vector for _, with_vector in router.asked] == [False, True]


async def test_a_request_without_text_is_of_no_topic(tmp_path: Path, router: Router) -> None:
    forecast = await services(tmp_path, router).learned.forecast(saying(""))
    assert forecast.topic is None and forecast.difficulty == 0.45 and router.asked == []


def test_what_is_cheap_to_know_is_asked_first_wherever_it_stands(condition: Conditioned, router: Router) -> None:
    facts = Facts(saying("what is the integral of x"))
    assert condition("{is_about: a sum, topic: math, keywords: [derivative]}").told(facts) is False
    assert [entry["signal"] for entry in facts.known.as_json()] == ["keywords"] and router.asked == []


def test_signals_that_nobody_reads_import_nothing_heavy() -> None:
    code = "import sys; from gateway.config import plugins; plugins.load(); print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_topic_that_there_is_not_is_a_problem(condition: Conditioned) -> None:
    with pytest.raises(ConfigError) as caught:
        condition("{topic: maths}")
    assert "'maths' is not a value of 'topic'" in caught.value.message and "math" in caught.value.problems[0].hint


# --- thresholds by name


def learn(home: Path, text: str) -> None:
    (home / "learned").mkdir(exist_ok=True)
    (home / "learned" / "thresholds.yaml").write_text(text)


async def test_a_threshold_may_be_a_learned_one(tmp_path: Path, condition: Conditioned) -> None:
    learn(tmp_path, "version: 1\nthresholds: {hard: 0.85, easy: {value: 0.2, share: 0.5}}\n")
    hard = saying("what is the integral of x")
    assert await condition("{difficulty: {above: learned.hard}}").holds(Facts(hard))
    assert not await condition("{difficulty: {below: {learned: easy, default: 0.95}}}").holds(Facts(hard))


async def test_a_default_stands_until_it_is_learned(condition: Conditioned) -> None:
    assert await condition("{difficulty: {above: {learned: hard, default: 0.5}}}").holds(Facts(saying("integral")))


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("{difficulty: {below: learned.hardd}}", "nothing that was learned is called 'hardd'"),
        ("{turns: {below: {learned: other}}}", "nothing that was learned is called 'other'"),
        ("{difficulty: {below: {learned: [a]}}}", "wants {learned: NAME, default: a number}"),
        ("{difficulty: {below: {learned: hard, default: much}}}", "wants {learned: NAME, default: a number}"),
        ("{difficulty: {below: {learnt: hard}}}", "wants a number, or learned.NAME"),
        ("{difficulty: {below: much}}", "wants a number, or learned.NAME"),
    ],
)
def test_what_is_no_threshold(tmp_path: Path, condition: Conditioned, when: str, message: str) -> None:
    learn(tmp_path, "version: 1\nthresholds: {hard: 0.85}\n")
    with pytest.raises(ConfigError) as caught:
        condition(when)
    assert message in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "version: 2\nthresholds: {}",
        "thresholds: {}",
        "version: 1\nthresholds: [1]",
        "{",
        "version: 1\nthresholds: {a: x}",
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, condition: Conditioned, text: str) -> None:
    learn(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_thresholds(tmp_path)
    assert caught.value.problems[0].file.endswith("learned/thresholds.yaml")
    with pytest.raises(ConfigError):
        condition("{difficulty: {below: learned.a}}")


def test_without_a_file_nothing_was_learned(tmp_path: Path) -> None:
    assert read_thresholds(tmp_path) == {}


# --- the router that is shipped


async def test_the_shipped_router_serves_until_there_is_another(tmp_path: Path) -> None:
    router, problems = load_router(tmp_path)
    assert problems == [] and {"math", "code"} <= set(router.topics)
    (tmp_path / "learned").mkdir()
    (tmp_path / "learned" / "router.yaml").write_text("{")
    same, problems = load_router(tmp_path)
    assert same.topics == router.topics
    assert problems[0].file.endswith("learned/router.yaml")


def test_a_damaged_router_is_a_warning_and_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "home" / "learned").mkdir(parents=True)
    (tmp_path / "home" / "learned" / "router.yaml").write_text("{")
    policy = """
    policy: default
    routes:
      - {name: a, when: {topic: math, difficulty: {below: 0.4}}, answer: {model: m}}
      - {name: b, answer: {model: m}}
    """
    gateway, _ = build_from(tmp_path, MODELS, default=policy)
    assert gateway.policies["auto"].routes[0].name == "a"
