"""The learned router: the chance that each model answers a request right, how hard it is, and what it is about.

A linear model over what a text is like: hashed n-grams and (where there is one) the embedding tell the class of a
request, that is which kind of question it is; the class, statistics of its form and the embedding tell the rest. numpy
is imported with this module, so who needs it imports it when a request first does.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.capability import hashing

Floats = NDArray[np.float32]
SHIPPED = Path(__file__).parent / "data" / "router.yaml"
DIMENSIONS = 384
CLASS_WAVES, TARGET_WAVES, WAVE_SEED, WAVE_GAMMA = 400, 500, 7, 0.03
TOPIC_SCALE = np.float32(4.0)  # of a topic's chance beside statistics in standard deviations
FORM_WEIGHT, VECTOR_WEIGHT, GRAM_WEIGHT = 0.7, 0.3, 0.1  # of statistics, embedding and n-grams, beside the classes
SHARPNESS = 8.0  # from class scores, about 0 to 1, to chances
FEW_GRAMS = 5  # as if so many more said nothing
LIMIT = np.float32(4.0)  # standard deviations
SURE = 0.4  # of a topic
FLOOR = 0.05
SMALL, LARGE = "small", "large"
"""What stands for the small and for the large models on average, among the targets."""


@dataclass(frozen=True)
class Prediction:
    """Args:
    difficulty: chance that a small model fails, 0 to 1.
    p_right: chance that each model it was trained on answers right, by name.
    topic: one of the router's `topics`; None where nothing fits well enough.
    known: 0 to 1, how like its training data the request is: the share of those that are less so. Under
        `Router.floor` the rest means nothing.
    gain: chance, 0 to 1, that a large model is right where a small one is wrong.
    """

    difficulty: float
    p_right: Mapping[str, float]
    topic: str | None
    known: float
    gain: float = 0.0


@dataclass(frozen=True)
class Heads:
    """From features to scores: with the embedding among the features, or without it.

    Args:
        classes: shape (features, classes). targets: shape (features, targets). Each with its last row for the
            intercept.
        likeness: quantiles, rising, of what `known` is read from in training.
    """

    classes: Floats
    targets: Floats
    likeness: tuple[float, ...]


@dataclass(frozen=True)
class Reading:
    """What training found out about texts: it is the same for all that is predicted.

    Args:
        form: mean and standard deviation of each of `hashing.statistics`, shape (2, 25).
        grams: log of how much likelier a bucket is in each class, shape (buckets, classes).
        gram_scale: mean and standard deviation of each class's score by n-grams, shape (2, classes).
        pairs: `hashing.pair_odds` of the prompts, by which noise is known.
        centroids: of the embeddings of training, unit vectors, shape (k, 384); k may be 0.
    """

    form: Floats
    grams: Floats
    gram_scale: Floats
    pairs: Floats
    centroids: Floats

    def standard(self, statistics: Floats) -> Floats:
        """In standard deviations from the mean."""
        return _bounded((statistics - self.form[0]) / self.form[1])

    def gram_scores(self, raw: Floats) -> Floats:
        return _bounded((raw - self.gram_scale[0]) / self.gram_scale[1])

    def raw_gram_scores(self, ids: NDArray[np.int64]) -> Floats:
        scores: Floats = self.grams.take(ids, axis=0).sum(axis=0) * np.float32((len(ids) + FEW_GRAMS) ** -0.5)
        return scores


def _bounded(values: Floats) -> Floats:
    bounded: Floats = np.minimum(np.maximum(values, -LIMIT), LIMIT)  # a third of what np.clip takes
    return bounded


def waves(values: Floats, count: int, weight: float = 1.0) -> Floats:
    """Random Fourier features of a Gaussian kernel, shape (…, count). Source: Rahimi and Recht 2007."""
    directions, offsets = _directions(values.shape[-1], count)
    found: Floats = np.cos(values @ directions + offsets)
    found *= weight * math.sqrt(2 / count)
    return found


@lru_cache(maxsize=8)
def _directions(inputs: int, count: int) -> tuple[Floats, Floats]:
    rng = np.random.RandomState(WAVE_SEED)  # whose numbers are the same in every version of numpy
    directions = rng.normal(size=(inputs, count)) * np.sqrt(2 * WAVE_GAMMA)
    return directions.astype(np.float32), rng.uniform(0, 2 * np.pi, count).astype(np.float32)


def class_features(form: Floats, gram_scores: Floats, vectors: Floats | None) -> Floats:
    """Args: form: statistics in standard deviations. Rows may be many, or one without its dimension."""
    parts = [waves(form, CLASS_WAVES), GRAM_WEIGHT * gram_scores]
    return np.concatenate(parts if vectors is None else [*parts, vectors], axis=-1)


def target_features(form: Floats, chances: Floats, topics: Floats, vectors: Floats | None) -> Floats:
    """Args: chances, topics: of each class and of each topic."""
    both = np.concatenate([form, TOPIC_SCALE * topics], axis=-1)
    parts = [waves(both, TARGET_WAVES, FORM_WEIGHT), chances]
    return np.concatenate(parts if vectors is None else [*parts, VECTOR_WEIGHT * vectors], axis=-1)


def chances_of(scores: Floats) -> Floats:
    """Of each class, from its scores; sums to 1."""
    powers: Floats = np.exp((scores - scores.max(axis=-1, keepdims=True)) * np.float32(SHARPNESS))
    powers /= powers.sum(axis=-1, keepdims=True)
    return powers


@dataclass(frozen=True)
class Router:
    """Args:
    classes: kinds of questions in training, each `topic/kind`; a kind of no topic is `/kind`.
    targets: what is predicted: SMALL and LARGE, then models by name.
    base_rate: difficulty of a request of which nothing is known.
    means: of each target in training.
    """

    classes: tuple[str, ...]
    targets: tuple[str, ...]
    reading: Reading
    plain: Heads
    full: Heads | None
    means: tuple[float, ...]
    floor: float = FLOOR

    @property
    def base_rate(self) -> float:
        return 1 - self.means[self.targets.index(SMALL)]

    @cached_property
    def topics(self) -> tuple[str, ...]:
        return topics_of(self.classes)

    @cached_property
    def _topic_of(self) -> Floats:
        return memberships(self.classes)

    def predict(self, text: str, vector: bytes | None = None) -> Prediction:
        """Args:
        text: the user's own words; padding at their end is left out.
        vector: of `hashing.asked(hashing.readable(text))` by all-MiniLM-L6-v2, float32, of unit length; without it
            n-grams alone tell.
        """
        text = hashing.readable(text, self.reading.pairs)
        row = None if vector is None else np.frombuffer(vector, "<f4")
        scores, chances, known = self.read(text, row)
        small, large, *right = np.minimum(np.maximum(scores, 0), 1).tolist()
        by_name = dict(zip(self.targets[2:], right, strict=True))
        return Prediction(1 - small, by_name, self._topic(chances), known, large * (1 - small))

    def read(self, text: str, vector: Floats | None) -> tuple[Floats, Floats, float]:
        """Scores of the targets (not bounded), chances of the classes, and `known`."""
        heads = self.plain if vector is None or self.full is None else self.full
        vector = None if heads is self.plain else vector
        reading = self.reading
        form = reading.standard(hashing.statistics(text))
        grams = reading.gram_scores(reading.raw_gram_scores(hashing.grams(text)))
        class_scores = class_features(form, grams, vector) @ heads.classes[:-1] + heads.classes[-1]
        chances = chances_of(class_scores)
        scores = (
            target_features(form, chances, chances @ self._topic_of, vector) @ heads.targets[:-1] + heads.targets[-1]
        )
        likeness = float(class_scores.max()) if vector is None else float((reading.centroids @ vector).max())
        return scores, chances, share_below(heads.likeness, likeness)

    def _topic(self, chances: Floats) -> str | None:
        if not self.topics:
            return None
        of_topics: list[float] = (chances @ self._topic_of)[:-1].tolist()
        most = max(of_topics)
        return self.topics[of_topics.index(most)] if most >= SURE else None

    @classmethod
    def load(cls, path: Path) -> Router:
        """Raises: ConfigError for a damaged file."""
        from gateway.capability.router_file import read

        return read(path)

    def save(self, path: Path) -> None:
        from gateway.capability.router_file import write

        write(self, path)


def topics_of(classes: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({name.split("/")[0] for name in classes} - {""}))


def memberships(classes: Sequence[str]) -> Floats:
    """Shape (classes, topics + 1), 1 where a class is of a topic; the last column for classes of none."""
    topics = (*topics_of(classes), "")
    return np.array([[name.split("/")[0] == topic for topic in topics] for name in classes], np.float32)


def share_below(quantiles: Sequence[float], value: float) -> float:
    """0 to 1, between rising quantiles by the straight line."""
    place = bisect_left(quantiles, value)
    if not 0 < place < len(quantiles):
        return min(1.0, float(place))
    below, above = quantiles[place - 1], quantiles[place]
    return (place - 1 + (value - below) / (above - below)) / (len(quantiles) - 1)


@lru_cache(maxsize=1)
def shipped() -> Router:
    """The general prior that comes with the package."""
    return Router.load(SHIPPED)
