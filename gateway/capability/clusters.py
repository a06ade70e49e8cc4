"""Clusters of requests by what they are about: K centroids, which a request belongs to in part.

numpy is imported with this module, so who needs it imports it when a request first does.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from gateway.learned_file import VERSION, existing_file

K = 64
NEAREST = 3
SHARPNESS = 20.0  # of the weights: a centroid whose cosine is 0.1 lower counts for e^-2 of the nearest
SHIPPED = Path(__file__).parent / "data" / "clusters.yaml"
LEARNED = Path("learned") / "clusters.yaml"
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Clusters:
    """`centroids`: unit vectors, shape (k, dimensions). `id` names the set: numbers of one say nothing in another."""

    id: str
    centroids: Floats

    def of(self, vector: bytes) -> list[tuple[int, float]]:
        """(number, weight) of the three nearest, the nearest first; weights sum to 1.

        Args:
            vector: float32, little-endian, of unit length. Raises: ValueError for another number of dimensions.
        """
        cosines = self.centroids @ np.frombuffer(vector, "<f4")
        near = np.argsort(-cosines)[:NEAREST]
        weights = np.exp((cosines[near] - cosines[near[0]]) * SHARPNESS)
        weights /= weights.sum()
        return [(int(number), float(weight)) for number, weight in zip(near, weights, strict=True)]


def load(home: Path) -> Clusters:
    """Those that were learned here, else those that are shipped. Raises: ConfigError."""
    learned = home / LEARNED
    return read(learned) if learned.exists() else read(SHIPPED)


def read(path: Path) -> Clusters:
    """Raises: ConfigError naming the file."""
    return existing_file(path, "clusters", lambda data: Clusters(str(data["id"]), _unit(_array(data["centroids"]))))


def write(clusters: Clusters, path: Path) -> None:
    array = clusters.centroids.astype("<f2")
    centroids = {
        "dtype": "float16",
        "shape": list(array.shape),
        "base64": base64.b64encode(array.tobytes()).decode(),
    }
    data = {"version": VERSION, "id": clusters.id, "centroids": centroids}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data, sort_keys=False, width=120), "utf-8")


def fit(vectors: Floats, k: int = K, *, seed: int = 0, rounds: int = 50) -> Floats:
    """k-means on the unit sphere: centroids, shape (k, dimensions).

    Args:
        vectors: unit vectors, shape (n, dimensions), n >= k.
    Source: spherical k-means (Dhillon and Modha 2001), begun as k-means++ (Arthur and Vassilvitskii 2007).
    """
    rng = np.random.default_rng(seed)
    centroids = _spread(vectors, k, rng)
    before: NDArray[np.intp] | None = None
    for _ in range(rounds):
        cosines = vectors @ centroids.T
        nearest = cosines.argmax(axis=1)
        if before is not None and np.array_equal(nearest, before):
            break
        before = nearest
        for number in range(k):
            members = vectors[nearest == number]
            # An empty cluster starts anew where vectors are worst served.
            centroids[number] = members.mean(axis=0) if len(members) else vectors[cosines.max(axis=1).argmin()]
        centroids = _unit(centroids)
    return centroids


def _spread(vectors: Floats, k: int, rng: np.random.Generator) -> Floats:
    chosen = [int(rng.integers(len(vectors)))]
    distances = np.maximum(0.0, 1.0 - vectors @ vectors[chosen[0]])
    while len(chosen) < k:
        total = float(distances.sum())
        weights = distances / total if total > 0 else np.full(len(vectors), 1 / len(vectors))
        chosen.append(int(rng.choice(len(vectors), p=weights / weights.sum())))
        distances = np.minimum(distances, np.maximum(0.0, 1.0 - vectors @ vectors[chosen[-1]]))
    return vectors[chosen].astype(np.float32)


def _array(data: Any) -> Floats:
    if data["dtype"] != "float16" or len(data["shape"]) != 2:
        raise ValueError("wants float16 in two dimensions")
    raw = np.frombuffer(base64.b64decode(data["base64"], validate=False), "<f2")
    array = raw.reshape(data["shape"]).astype(np.float32)
    if len(array) < NEAREST or not np.isfinite(array).all():
        raise ValueError(f"wants {NEAREST} centroids or more, of finite numbers")
    return array


def _unit(rows: Floats) -> Floats:
    units: Floats = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return units
