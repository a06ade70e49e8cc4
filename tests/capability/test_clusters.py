"""Clusters: fitted, stored, read again, and what is shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.capability import clusters
from gateway.capability.clusters import Clusters, fit, load, read, write
from gateway.capability.profiles import LEARNED_CLUSTERS, SHIPPED_CLUSTERS
from gateway.embedding import EmbeddingRequest, as_bytes
from gateway.embedding.minilm import MiniLM
from gateway.errors import ConfigError
from gateway.trace import Trace


def blobs(count: int, of_each: int) -> clusters.Floats:
    rng = np.random.default_rng(3)
    centres = np.eye(16, dtype=np.float32)[:count]
    rows = np.repeat(centres, of_each, axis=0) + rng.normal(0, 0.05, (count * of_each, 16)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_vectors_that_lie_together_are_one_cluster() -> None:
    vectors = blobs(8, 40)
    centroids = fit(vectors, 8)
    numbers = (vectors @ centroids.T).argmax(axis=1).reshape(8, 40)
    assert (numbers == numbers[:, :1]).all() and len(set(numbers[:, 0])) == 8


def test_the_same_seed_gives_the_same_clusters_and_few_vectors_are_enough() -> None:
    vectors = blobs(4, 3)
    assert np.array_equal(fit(vectors, 6, seed=1), fit(vectors, 6, seed=1))
    same = np.repeat(vectors[:1], 5, axis=0)
    assert np.allclose(fit(same, 3), same[:3], atol=1e-5)


def test_a_vector_belongs_to_the_nearest_three() -> None:
    found = Clusters("x", np.eye(5, dtype=np.float32))
    vector = np.array([0.8, 0.6, 0, 0, 0], "<f4").tobytes()
    places = found.of(vector)
    assert [number for number, _ in places][:2] == [0, 1] and len(places) == 3
    assert sum(weight for _, weight in places) == pytest.approx(1)
    assert places[0][1] > 0.95
    with pytest.raises(ValueError):
        found.of(b"\0" * 8)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    before = Clusters("mine", fit(blobs(4, 10), 4))
    write(before, tmp_path / LEARNED_CLUSTERS)
    after = load(tmp_path)
    assert after.id == "mine" and np.allclose(after.centroids, before.centroids, atol=1e-3)
    assert load(tmp_path / "elsewhere").id == SHIPPED_CLUSTERS


@pytest.mark.parametrize(
    "text",
    [
        "version: 2\nid: x\ncentroids: {}",
        "id: x",
        "[",
        "just words",
        "version: 1\nid: x\ncentroids: {dtype: float16, shape: [3, 4], base64: AAAA}",
        "version: 1\nid: x\ncentroids: {dtype: float32, shape: [3, 4], base64: AAAA}",
        "version: 1\nid: x\ncentroids: {dtype: float16, shape: [1, 2], base64: AAAAAA==}",
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clusters.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"clusters\.yaml.*cannot be read as clusters"):
        read(path)


def test_what_is_shipped_is_small_and_whole() -> None:
    shipped = read(clusters.SHIPPED)
    assert shipped.centroids.shape == (clusters.K, 384)
    assert np.allclose(np.linalg.norm(shipped.centroids, axis=1), 1, atol=1e-3)
    assert clusters.SHIPPED.stat().st_size < 100_000


async def test_what_is_shipped_tells_requests_apart(minilm_home: Path) -> None:
    async def no_decoder() -> None:
        return None

    texts = (
        "How do I find the derivative of x^3 at x = 2?",
        "Find the remainder when 7^100 is divided by 13.",
        "Who painted the Mona Lisa?",
        "Which band recorded the song Yesterday?",
        "Book a table for two at an Italian restaurant tonight",
        "def f(text):\n    return text[::-1]\nassert f('abc') == ??",
    )
    model = MiniLM(minilm_home, no_decoder)
    embedded = await model.embed(EmbeddingRequest(texts), Trace("test", ""))
    model.close()
    shipped = read(clusters.SHIPPED)
    places = [{number for number, _ in shipped.of(as_bytes(vector))} for vector in embedded.vectors]
    maths, trivia, chore, code = places[0] | places[1], places[2] | places[3], places[4], places[5]
    assert not maths & trivia and not maths & chore and not code & trivia and not chore & trivia
