from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.shards.search.registry import Registry
from gateway.shards.search.vectors import ExactGroup, GraphGroup, Ids, Matrix, Vectors, members, unit_rows, unit_vector

DIMENSIONS = 16


def rows_of(seed: int, count: int) -> Matrix:
    rows = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)
    units: Matrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return units


def numbers(*values: int) -> Ids:
    return np.array(values, np.int64)


def at_once(work: Callable[[], None]) -> None:
    work()


def never() -> bool:
    return False


def nearest(vectors: Vectors, audience: str, vector: Matrix, count: int = 3) -> list[int]:
    exact, rough = vectors.nearest([audience], vector, count, [])
    return [*sorted(exact, key=lambda key: -exact[key]), *rough]


def test_rows_are_made_one_long_and_those_that_are_no_vectors_are_told() -> None:
    blobs = [
        np.array(row, "<f4").tobytes() for row in ([3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [1e-3, 0], [3e38, 3e38])
    ]
    rows, good = unit_rows(blobs)
    assert good.tolist() == [True, False, False, False, True, False]
    assert rows[0].tolist() == pytest.approx([0.6, 0.8])
    assert rows[4].tolist() == pytest.approx([1, 0])


@pytest.mark.parametrize("blob", [None, b"", b"abc", b"\0\0\0\0" * 4, np.array([np.nan], "<f4").tobytes()])
def test_what_is_no_vector_of_a_question_counts_as_none(blob: bytes | None) -> None:
    assert unit_vector(blob) is None


@given(st.lists(st.integers(0, 50)), st.lists(st.integers(0, 50)))
def test_members_are_those_that_numpy_finds(values: list[int], few: list[int]) -> None:
    assert members(numbers(*values), numbers(*few)).tolist() == np.isin(numbers(*values), numbers(*few)).tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 6)), max_size=30), st.randoms(use_true_random=False))
def test_a_matrix_finds_what_a_dict_of_vectors_finds(steps: list[tuple[bool, int]], random: object) -> None:
    group, model, last = ExactGroup(DIMENSIONS), dict[int, Matrix](), 0
    for adds, count in steps:
        if adds:
            ids, rows = numbers(*range(last + 1, last + count + 1)), rows_of(last, count)
            group.add(ids, rows)
            model |= dict(zip(ids.tolist(), rows, strict=True))
            last += count
        else:
            gone = [*sorted(model)[::2][:count], last + 99]
            group.remove(numbers(*gone))
            for key in gone:
                model.pop(key, None)
        assert len(group) == len(model)
        assert sorted(group.ids.tolist()) == sorted(model)
        vector = rows_of(1000 + len(model), 1)[0]
        expected = sorted(model, key=lambda key: -float(model[key] @ vector))[:3]
        found = group.nearest(vector, 3, numbers())
        assert sorted(found, key=lambda key: -found[key])[:3] == expected


def test_a_matrix_tells_the_cosines_of_others_that_are_asked_for() -> None:
    group, rows = ExactGroup(DIMENSIONS), rows_of(1, 50)
    group.add(np.arange(50), rows)
    found = group.nearest(rows[7], 1, numbers(3, 7, 99))
    assert {3, 7} <= set(found)
    assert 99 not in found
    assert found[3] == pytest.approx(float(rows[3] @ rows[7]), abs=1e-6)


def test_a_group_of_one_takes_no_more_memory_than_its_vector() -> None:
    group = ExactGroup(DIMENSIONS)
    group.add(numbers(5), rows_of(1, 1))
    assert group.size_bytes == DIMENSIONS * 4 + 8


def test_a_graph_forgets_keys() -> None:
    graph, rows = GraphGroup(DIMENSIONS), rows_of(3, 300)
    graph.add(np.arange(300), rows)
    assert graph.nearest(rows[42], 5)[0] == 42
    graph.remove(numbers(42, 1000))
    assert 42 not in graph.nearest(rows[42], 50)
    assert len(graph) == 299


def test_many_keys_of_one_audience_become_a_graph_that_takes_over_when_it_is_complete() -> None:
    vectors, rows = Vectors(at_once, exact_limit=100), rows_of(4, 400)
    place = ("g", DIMENSIONS)
    for start in range(0, 400, 80):
        part = slice(start, start + 80)
        vectors.add([(place, np.arange(400)[part], rows[part])], never)
    assert nearest(vectors, "g", rows[10])[0] == 10  # while it is built the matrix answers
    assert len(vectors) == 160
    vectors.publish()
    assert len(vectors) == 400
    assert all(nearest(vectors, "g", rows[n])[0] == n for n in range(0, 400, 7))
    more = rows_of(5, 3)
    vectors.add([(place, numbers(900, 901, 902), more)], never)
    assert nearest(vectors, "g", more[1])[0] == 901
    vectors.remove("g", numbers(901))
    assert 901 not in nearest(vectors, "g", more[1], 50)


def test_keys_that_go_while_a_graph_is_built_are_not_in_it() -> None:
    vectors, rows = Vectors(at_once, exact_limit=100), rows_of(4, 200)
    vectors.add([(("g", DIMENSIONS), np.arange(200), rows)], never)
    vectors.remove("g", np.arange(150))
    vectors.publish()
    assert len(vectors) == 50
    assert nearest(vectors, "g", rows[160])[0] == 160


def test_a_graph_that_is_built_is_left_when_the_server_stops() -> None:
    vectors = Vectors(at_once, exact_limit=100)
    vectors.add([(("g", DIMENSIONS), np.arange(200), rows_of(4, 200))], lambda: True)
    assert len(vectors) == 200  # the matrix; nothing was added to the graph


def test_audiences_and_lengths_are_kept_apart() -> None:
    vectors, rows = Vectors(at_once), rows_of(6, 2)
    vectors.add([(("ta", DIMENSIONS), numbers(1), rows[:1]), (("tb", DIMENSIONS), numbers(2), rows[1:])], never)
    assert nearest(vectors, "ta", rows[1]) == [1]
    assert nearest(vectors, "tc", rows[1]) == []
    assert nearest(vectors, "ta", rows[1][:8]) == []
    vectors.remove("ta", numbers(1, 2))
    assert nearest(vectors, "ta", rows[1]) == []
    assert nearest(vectors, "tb", rows[1]) == [2]


# -- the registry --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["g", "t1", "u2"]), st.booleans(), st.booleans()),
        max_size=40,
    )
)
def test_the_registry_knows_what_each_shard_has(steps: list[tuple[str, str, bool, bool]]) -> None:
    registry = Registry()
    model: dict[int, tuple[str, str, bool]] = {}
    for number, (shard, audience, embedded, removes) in enumerate(steps, start=1):
        if removes:
            gone = registry.of_shards([shard, "none"])
            assert sorted(gone.tolist()) == sorted(key for key, held in model.items() if held[0] == shard)
            expected: dict[str, set[int]] = {}
            for key in gone.tolist():
                _, whose, has_vector = model.pop(key)
                if has_vector:
                    expected.setdefault(whose, set()).add(key)
            assert {whose: set(ids.tolist()) for whose, ids in registry.remove(gone).items()} == expected
        registry.add(numbers(number), [shard], [audience], np.array([embedded]))
        model[number] = (shard, audience, embedded)
        assert registry.last == number
        assert len(registry) == len(model)
        assert registry.without_vector().tolist() == sorted(key for key, held in model.items() if not held[2])
        assert sum(registry.counts.values()) == len(model)
        assert set(registry.counts) == {held[1] for held in model.values()}


def test_a_key_that_has_got_its_vector_waits_no_more() -> None:
    registry = Registry()
    registry.add(numbers(3, 5, 9), ["a", "b", "b"], ["g", "t1", "t1"], np.array([False, False, True]))
    assert registry.embed(numbers(5)) == ["t1"]
    assert registry.without_vector().tolist() == [3]


def test_the_graph_and_the_embedding_model_live_in_one_process() -> None:
    """Their libraries crash where usearch is the first to be loaded."""
    code = "from gateway.shards.search.vectors import GraphGroup; GraphGroup(8); import onnxruntime; print('alive')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "alive", done.stderr[-500:]
