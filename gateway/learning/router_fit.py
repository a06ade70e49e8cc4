"""Fits the learned router: prompts and what became of them in, a `Router` out. A pure function.

Two steps. First the classes: what a text's n-grams (naive Bayes) and its embedding say of the kind of question it is.
Then the targets, by ridge regression on what the first step says of each text when it has not seen it. Where there are
few outcomes, `prior` gives the first step, and the second only adds to what the prior says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.capability import hashing
from gateway.capability.clusters import fit as spherical_k_means
from gateway.capability.router import (
    DIMENSIONS,
    LARGE,
    SMALL,
    VECTOR_WEIGHT,
    Floats,
    Heads,
    Reading,
    Router,
    chances_of,
    class_features,
    memberships,
    target_features,
)
from gateway.learning import ridge

CLASS_PENALTY, TARGET_PENALTY = 1.0, 8.0
TOP_PENALTY, PRIOR_TRUST = 40.0, np.float32(0.85)  # where a prior is added to
SMOOTHING = 4.0  # of n-gram counts, in texts
FEWEST_TEXTS = 2  # that have a bucket, else it says nothing
LEAST_SPREAD = 1e-3
CENTROIDS, CLUSTERED = 256, 10_000
QUANTILES = np.linspace(0, 1, 41)
NO_CLASS = "/"
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class _Texts:
    """What was read of each prompt: statistics, buckets, and embeddings where there are any; and by which pairs."""

    form: Floats
    ids: Sequence[Ids]
    pairs: Floats
    vectors: Floats | None


def fit(
    prompts: Sequence[str],
    outcomes: Mapping[str, Sequence[float]],
    vectors: Sequence[bytes] | None = None,
    *,
    labels: Sequence[str] | None = None,
    small: Collection[str] | None = None,
    large: Collection[str] | None = None,
    prior: Router | None = None,
) -> Router:
    """Args:
        outcomes: for each model how good its answer to each prompt was, 0 to 1; NaN where it was not asked.
        vectors: of `hashing.asked` of each prompt, as `Router.predict` takes them.
        labels: class of each prompt, as in `Router.classes`; None: all are one class.
        small, large: models; None: those that are below or above the middle of all by their mean outcome.
        prior: a router whose classes are used, and whose forecasts are what is added to; then `labels` are not read.
    Raises: ValueError if nothing was asked, or lengths differ.
    """
    right = {name: np.asarray(list(of_model), np.float32) for name, of_model in outcomes.items()}
    right = {name: of_model for name, of_model in right.items() if not np.isnan(of_model).all()}
    if not right or any(len(of_model) != len(prompts) for of_model in right.values()):
        raise ValueError("outcomes want a number or NaN for each prompt, and one number at least")
    if vectors is not None and len(vectors) != len(prompts):
        raise ValueError("there must be a vector for each prompt, or none")
    below, above = _tiers(right, small, large)
    targets = {SMALL: _mean_of(right, below), LARGE: _mean_of(right, above), **right}
    texts = _read(prompts, vectors, hashing.pair_odds(prompts) if prior is None else prior.reading.pairs)
    if prior is not None:
        members = {name: (name in below, name in above) for name in right}
        return _adapted(prior, texts, targets, members | {SMALL: (True, False), LARGE: (False, True)})
    names = list(labels) if labels is not None else [NO_CLASS] * len(prompts)
    classes = tuple(sorted(set(names)))
    numbers = np.array([classes.index(name) for name in names])
    return _fresh(classes, numbers, texts, targets)


def _tiers(
    right: Mapping[str, Floats], small: Collection[str] | None, large: Collection[str] | None
) -> tuple[list[str], list[str]]:
    means = {name: float(np.nanmean(of_model)) for name, of_model in right.items()}
    middle = float(np.median(list(means.values())))
    below = [name for name in right if (name in small if small is not None else means[name] <= middle)]
    above = [name for name in right if (name in large if large is not None else means[name] >= middle)]
    return below or list(right), above or list(right)


def _mean_of(right: Mapping[str, Floats], names: Sequence[str]) -> Floats:
    """Over those that were asked; NaN where none was."""
    rows = np.stack([right[name] for name in names])
    asked = ~np.isnan(rows)
    counts = asked.sum(axis=0)
    sums = np.where(asked, rows, 0).sum(axis=0)
    means: Floats = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)
    return means


def _read(prompts: Sequence[str], vectors: Sequence[bytes] | None, pairs: Floats) -> _Texts:
    texts = [hashing.readable(prompt, pairs) for prompt in prompts]
    rows = None if vectors is None else np.stack([np.frombuffer(vector, "<f4") for vector in vectors])
    return _Texts(np.stack([hashing.statistics(t) for t in texts]), [hashing.grams(t) for t in texts], pairs, rows)


def _fresh(classes: tuple[str, ...], numbers: Ids, texts: _Texts, targets: Mapping[str, Floats]) -> Router:
    reading, held_out_grams = _reading(texts, numbers, len(classes))
    members = np.eye(len(classes), dtype=np.float32)[numbers]
    form, grams = reading.standard(texts.form), reading.gram_scores(held_out_grams)
    topic_of = memberships(classes)

    def heads(vectors: Floats | None) -> Heads:
        of_classes = ridge.fit(class_features(form, grams, vectors), members, CLASS_PENALTY)
        chances = chances_of(of_classes.held_out)
        features = target_features(form, chances, chances @ topic_of, vectors)
        alike = of_classes.held_out.max(axis=1) if vectors is None else _nearest(vectors, reading.centroids)
        return Heads(of_classes.weights, _target_weights(features, targets), _quantiles(alike))

    full = None if texts.vectors is None else heads(texts.vectors)
    return Router(classes, tuple(targets), reading, heads(None), full, _means(targets))


def _adapted(
    prior: Router, texts: _Texts, targets: Mapping[str, Floats], members: Mapping[str, tuple[bool, bool]]
) -> Router:
    """What the prior says of small and large models, plus what these outcomes add to it.

    Args:
        members: is a target of the small models, of the large ones?
    """
    reading = prior.reading
    tier_of = {name: _shares(*of) for name, of in members.items()}
    form, topic_of = reading.standard(texts.form), memberships(prior.classes)
    grams = reading.gram_scores(np.stack([reading.raw_gram_scores(ids) for ids in texts.ids]))

    def heads(old: Heads, vectors: Floats | None) -> Heads:
        chances = chances_of(class_features(form, grams, vectors) @ old.classes[:-1] + old.classes[-1])
        features = target_features(form, chances, chances @ topic_of, vectors)
        dimensions = 0 if vectors is None else DIMENSIONS
        weights = _weights_on_top(features, targets, old.targets[:, :2], tier_of, dimensions)
        return Heads(old.classes, weights, old.likeness)

    full = heads(prior.full, texts.vectors) if prior.full is not None and texts.vectors is not None else None
    means = _means(targets)
    return Router(prior.classes, tuple(targets), reading, heads(prior.plain, None), full, means, prior.floor)


def _shares(is_small: bool, is_large: bool) -> Floats:
    both = np.array([is_small, is_large], np.float32)
    shares: Floats = both / both.sum() if both.any() else np.full(2, 0.5, np.float32)
    return shares


def _target_weights(features: Floats, targets: Mapping[str, Floats]) -> Floats:
    """Shape (features + 1, targets): those that were asked the same prompts are fitted together."""
    weights = np.zeros((features.shape[1] + 1, len(targets)), np.float32)
    for rows, places, right in _asked_together(targets):
        weights[:, places] = ridge.fit(features[rows], right, TARGET_PENALTY).weights
    return weights


def _asked_together(targets: Mapping[str, Floats]) -> list[tuple[NDArray[np.bool_], list[int], Floats]]:
    groups: dict[bytes, list[int]] = {}
    columns = list(targets.values())
    for place, right in enumerate(columns):
        groups.setdefault(np.isnan(right).tobytes(), []).append(place)
    out = []
    for places in groups.values():
        rows = ~np.isnan(columns[places[0]])
        out.append((rows, places, np.stack([columns[place][rows] for place in places], axis=1)))
    return out


def _weights_on_top(
    features: Floats, targets: Mapping[str, Floats], old: Floats, tier_of: Mapping[str, Floats], dimensions: int
) -> Floats:
    """What the prior says of the tier that a model is of, and a ridge on what that leaves to say.

    Args:
        old: the prior's weights for SMALL and LARGE, shape (features + 1, 2).
        tier_of: how much of each of the two a target is taken for.
        dimensions: of the embedding, which are the last features; few outcomes lean on it more than many do.
    """
    scale = np.ones(features.shape[1], np.float32)
    scale[len(scale) - dimensions :] = 1 / VECTOR_WEIGHT
    weights = np.zeros((features.shape[1] + 1, len(targets)), np.float32)
    names = list(targets)
    for rows, places, right in _asked_together(targets):
        base = old @ (PRIOR_TRUST * np.stack([tier_of[names[place]] for place in places], axis=1))
        left = right - (features[rows] @ base[:-1] + base[-1])
        found = ridge.fit(features[rows] * scale, left, TOP_PENALTY).weights
        weights[:, places] = base + np.append(scale, np.float32(1))[:, None] * found
    return weights


def _means(targets: Mapping[str, Floats]) -> tuple[float, ...]:
    return tuple(float(np.nanmean(right)) for right in targets.values())


def _reading(texts: _Texts, numbers: Ids, classes: int) -> tuple[Reading, Floats]:
    """And each text's raw scores by n-grams, as if it had not been counted."""
    form = np.stack([texts.form.mean(axis=0), np.maximum(texts.form.std(axis=0), LEAST_SPREAD)])
    counts = np.zeros((hashing.BUCKETS, classes), np.float32)
    for ids, number in zip(texts.ids, numbers, strict=True):
        counts[ids, number] += 1
    sizes = np.bincount(numbers, minlength=classes).astype(np.float32)
    held_out = np.stack([_without_it(i, n, counts, sizes) for i, n in zip(texts.ids, numbers, strict=True)])
    scale = np.stack([held_out.mean(axis=0), np.maximum(held_out.std(axis=0), LEAST_SPREAD)])
    centroids = np.zeros((0, DIMENSIONS), np.float32) if texts.vectors is None else _centroids(texts.vectors)
    table = _log_odds(counts, sizes, np.float32(len(texts.ids)))
    return Reading(form.astype(np.float32), table, scale.astype(np.float32), texts.pairs, centroids), held_out


def _log_odds(counts: Floats, sizes: Floats, texts: np.float32) -> Floats:
    """How much likelier a bucket is in each class than anywhere, shape as `counts`; 0 for buckets too rare to tell."""
    total = counts.sum(axis=1, keepdims=True)
    base = (total + 1) / (texts + 2)
    odds: Floats = np.log((counts + SMOOTHING * base) / (sizes + SMOOTHING)) - np.log(base)
    return np.where(total >= FEWEST_TEXTS, odds, 0).astype(np.float32)


def _without_it(ids: Ids, number: int, counts: Floats, sizes: Floats) -> Floats:
    left, others = counts[ids], sizes.copy()
    left[:, number] -= 1
    others[number] -= 1
    odds = _log_odds(left, others, np.float32(others.sum()))
    scores: Floats = odds.sum(axis=0) / np.float32(np.sqrt(len(ids) + 5))
    return scores


def _centroids(vectors: Floats) -> Floats:
    rng = np.random.default_rng(0)
    some = vectors if len(vectors) <= CLUSTERED else vectors[rng.choice(len(vectors), CLUSTERED, replace=False)]
    return spherical_k_means(some, min(CENTROIDS, max(1, len(some) // 8)), rounds=8)


def _nearest(vectors: Floats, centroids: Floats) -> Floats:
    nearest: Floats = (vectors @ centroids.T).max(axis=1)
    return nearest


def _quantiles(values: Floats) -> tuple[float, ...]:
    return tuple(map(float, np.quantile(values, QUANTILES)))
