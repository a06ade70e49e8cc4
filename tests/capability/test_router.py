from __future__ import annotations

import random
import string
import time
from pathlib import Path

import pytest

from gateway.capability.router import Router, share_below, shipped
from gateway.errors import ConfigError
from gateway.learning import router_fit
from tests.capability import questions


@pytest.fixture(scope="module")
def router() -> Router:
    made = questions.make(400)
    return router_fit.fit(made.texts, made.outcomes, made.vectors, labels=made.labels)


@pytest.mark.parametrize("with_vectors", [True, False])
def test_what_a_small_model_gets_wrong_is_difficult(router: Router, with_vectors: bool) -> None:
    fresh = questions.make(60, seed=1)
    said = [router.predict(t, v if with_vectors else None) for t, v in zip(fresh.texts, fresh.vectors, strict=True)]
    assert all(one.difficulty > 0.6 for one in said[::2])
    assert all(one.difficulty < 0.4 for one in said[1::2])
    assert {one.topic for one in said[::2]} == {"math"}
    assert {one.topic for one in said[1::2]} == {"geography"}
    assert all(set(one.p_right) == {"tiny", "big"} and one.p_right["big"] > 0.8 for one in said)
    assert all(0 <= one.gain <= 1 for one in said)


def test_what_is_like_nothing_seen_is_not_known(router: Router) -> None:
    text = questions.make(2, seed=3).texts[0]
    assert router.predict(text, questions.unlike()).known < router.floor
    assert router.predict(text, questions.make(2, seed=3).vectors[0]).known > router.floor


def test_a_saved_router_says_the_same(router: Router, tmp_path: Path) -> None:
    router.save(tmp_path / "learned" / "router.yaml")
    loaded = Router.load(tmp_path / "learned" / "router.yaml")
    assert loaded.topics == router.topics == ("geography", "math")
    assert loaded.base_rate == pytest.approx(router.base_rate, abs=1e-5)
    made = questions.make(20, seed=2)
    for text, vector in zip(made.texts, made.vectors, strict=True):
        for one in (vector, None):
            before, after = router.predict(text, one), loaded.predict(text, one)
            assert after.difficulty == pytest.approx(before.difficulty, abs=0.02)
            assert after.topic == before.topic


def test_a_router_without_vectors_needs_none(tmp_path: Path) -> None:
    made = questions.make(200)
    router_fit.fit(made.texts, made.outcomes, labels=made.labels).save(tmp_path / "router.yaml")
    loaded = Router.load(tmp_path / "router.yaml")
    assert loaded.predict(made.texts[0], made.vectors[0]) == loaded.predict(made.texts[0])


DAMAGES = {
    "empty": "",
    "no mapping": "- 1",
    "no yaml": "{",
    "version": "version: 2",
    "missing": "version: 1\nclasses: [a]\n",
}


@pytest.mark.parametrize("text", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        Router.load(tmp_path / "router.yaml")
    assert caught.value.problems[0].file == str(tmp_path / "router.yaml")


@pytest.mark.parametrize(
    ("old", "new"), [("int8", "int9"), ("base64: ", "base64: A"), ("float16", "float64"), ("small:", "tall:")]
)
def test_a_changed_file_is_named(router: Router, tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "router.yaml"
    router.save(path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match="cannot be read as a learned router"):
        Router.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Router.load(tmp_path / "none.yaml")


def test_the_shipped_router_knows_its_topics() -> None:
    router = shipped()
    said = {
        "Find the derivative of $x^3 + 2x$ and evaluate it at $x = 2$.": "math",
        "Write a python function to find the first repeated character in a given string.": "code",
        "who sang the song in the film that won the most awards": "trivia",
    }
    assert {text: router.predict(text).topic for text in said} == said
    assert {"math", "code", "law", "medicine", "history"} <= set(router.topics)
    assert 0 < router.base_rate < 1


def test_the_shipped_router_is_small() -> None:
    from gateway.capability.router import SHIPPED

    assert SHIPPED.stat().st_size < 1_048_576


PLAIN = (
    "What is the capital of Australia?",
    "Write a Python function that reverses a linked list.",
    "My chest hurts when I breathe, what might it be?",
    "Find all real x with $x^4-5x^2+4=0$.",
    "Is a verbal contract enforceable under English law?",
)


@pytest.mark.parametrize(
    "alphabet",
    [
        string.ascii_lowercase + " ",
        string.ascii_letters,
        string.digits,
        string.ascii_letters + string.punctuation + " ",
    ],
    ids=["words", "letters", "digits", "signs"],
)
def test_random_suffixes_hardly_move_the_difficulty(alphabet: str) -> None:
    router, rng = shipped(), random.Random(0)
    moved = []
    for text in PLAIN:
        before = router.predict(text).difficulty
        suffixes = ["".join(rng.choices(alphabet, k=200)) for _ in range(30)]
        moved += [abs(router.predict(f"{text} {suffix}").difficulty - before) for suffix in suffixes]
    assert sum(moved) / len(moved) < 0.02
    assert sum(one >= 0.1 for one in moved) <= 0.03 * len(moved)


def test_a_prediction_takes_less_than_some_milliseconds() -> None:
    router = shipped()
    router.predict(PLAIN[0])
    times = []
    for text in PLAIN * 10:
        started = time.thread_time()
        router.predict(text)
        times.append(time.thread_time() - started)
    assert sorted(times)[len(times) // 2] < 0.003


def test_shares_lie_between_quantiles() -> None:
    assert share_below((0.0, 1.0, 3.0), -1) == 0
    assert share_below((0.0, 1.0, 3.0), 2) == 0.75
    assert share_below((0.0, 1.0, 3.0), 4) == 1
    assert share_below((1.0, 1.0, 1.0), 1) == 0
