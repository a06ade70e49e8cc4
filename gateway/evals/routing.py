"""Trains the learned router on routing data, in one fixed configuration, and predicts prompts it has not seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gateway.capability.hashing import readable
from gateway.capability.router import LARGE, Prediction, Router
from gateway.errors import GatewayError
from gateway.evals import routing_cascade
from gateway.evals.routing_data import Prompt, RoutingData, RoutingSet
from gateway.evals.routing_vectors import Report, Vectors
from gateway.learning import router_fit

NEXT_TO_STRONG = 0.9  # of the way from the weak to the strong model: none is taken to be as good as the strong one
LARGE_PRICE = 0.5  # of the strong model's price: from there on a model counts as large
DIGITS = 6
EmbedAll = Callable[[Sequence[str]], list[bytes]]


@dataclass(frozen=True)
class Predicted:
    """One prompt, and what is said of it: a line of the file that is written."""

    prompt: Prompt
    line: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    router: Router
    predicted: Mapping[str, Sequence[Predicted]]
    fit_s: float
    trained_on: int
    seconds: Mapping[str, str | None]
    """By set with answers to look at: the model whose opinion is asked beside the weak one's."""


@dataclass(frozen=True)
class _Trained:
    """A router for one set. `knows`: it was trained on outcomes of this set's own models on this set's kind."""

    router: Router
    knows: bool
    prompts: Sequence[Prompt]


def run(train: RoutingData, data: RoutingData, vectors: Vectors, labels: int | None, report: Report) -> Outcome:
    """Args: labels: at most so many labelled prompts of each set of `data`; None: all that `train` has."""
    wanted = [prompt.text for prompt in [*train.all(), *data.all()]]
    vectors.of(wanted, report)
    started = time.perf_counter()
    trained = _with_few(train, data, labels, vectors.of) if labels is not None else _with_all(train, data, vectors.of)
    spent, predicted, seconds = 0.0, {}, {}
    router, rows = None, 0
    for name, of_set in trained:
        confidence = _confidence(data.sets[name], of_set, vectors.of)
        spent = time.perf_counter() - started
        router, rows = of_set.router, max(rows, len(of_set.prompts))
        predicted[name] = _predict(data.sets[name], data.prompts[name], of_set, confidence, vectors.of)
        started = time.perf_counter() - spent
        if confidence is not None:
            seconds[name] = confidence.second
    assert router is not None
    return Outcome(router, predicted, spent, rows, seconds)


def without(train: RoutingData, name: str) -> RoutingData:
    """Raises: GatewayError where there is no such set."""
    if name not in train.prompts:
        raise GatewayError(f"no set '{name}' to leave out: there are {', '.join(train.prompts)}")
    prompts = {other: of_set for other, of_set in train.prompts.items() if other != name}
    return RoutingData({other: train.sets[other] for other in prompts}, prompts)


def _with_all(train: RoutingData, data: RoutingData, embed: EmbedAll) -> Iterator[tuple[str, _Trained]]:
    router = fit(train, embed)
    for name in data.prompts:
        own = train.prompts.get(name, ())
        yield name, _Trained(router, bool(own), own)


def _with_few(train: RoutingData, data: RoutingData, labels: int, embed: EmbedAll) -> Iterator[tuple[str, _Trained]]:
    """A general prior from all other sets and benchmarks, then what few labels add."""
    for name in data.prompts:
        benches = {prompt.bench for prompt in [*train.prompts.get(name, ()), *data.prompts[name]]}
        others = {
            other: [prompt for prompt in of_set if prompt.bench not in benches]
            for other, of_set in train.prompts.items()
            if other != name
        }
        others = {other: of_set for other, of_set in others.items() if of_set}
        if not others:
            raise GatewayError(f"nothing is left to make a prior for '{name}' from")
        prior = fit(RoutingData({other: train.sets[other] for other in others}, others), embed)
        few = representative(train.prompts.get(name, ()), prior, labels, embed)
        if not few:
            yield name, _Trained(prior, False, ())
            continue
        texts = [prompt.text for prompt in few]
        small, large = tiers([train.sets[name]])
        router = router_fit.fit(texts, outcomes(few), embed(texts), small=small, large=large, prior=prior)
        yield name, _Trained(router, True, few)


def representative(prompts: Sequence[Prompt], prior: Router, most: int, embed: EmbedAll) -> list[Prompt]:
    """Some that are like all, by what the prior takes them for: every n-th in the order of class and forecast."""
    if len(prompts) <= most or not most:
        return list(prompts[:most])
    rows = []
    for place, (prompt, vector) in enumerate(zip(prompts, embed([one.text for one in prompts]), strict=True)):
        scores, chances, _ = prior.read(readable(prompt.text, prior.reading.pairs), np.frombuffer(vector, "<f4"))
        rows.append((int(chances.argmax()), float(scores[1] - scores[0]), place))
    rows.sort()
    return [prompts[rows[int((number + 0.5) * len(rows) / most)][2]] for number in range(most)]


def fit(train: RoutingData, embed: EmbedAll) -> Router:
    prompts = train.all()
    texts = [prompt.text for prompt in prompts]
    small, large = tiers(list(train.sets.values()))
    labels = [prompt.label for prompt in prompts]
    return router_fit.fit(texts, outcomes(prompts), embed(texts), labels=labels, small=small, large=large)


def outcomes(prompts: Sequence[Prompt]) -> dict[str, list[float]]:
    """Score of each model for each prompt, NaN where it was not asked."""
    names = sorted({name for prompt in prompts for name in prompt.models})
    unknown = {"s": float("nan")}
    return {name: [float(prompt.models.get(name, unknown)["s"]) for prompt in prompts] for name in names}


def tiers(sets: Sequence[RoutingSet]) -> tuple[set[str], set[str]]:
    """Small models: no dearer than the weak one of a set. Large: half as dear as its strong one, or more."""
    small, large = set(), set()
    for one in sets:
        price = {name: sum(one.prices.get(name, (0.0, 0.0))) for name in one.models}
        small |= {name for name in one.models if price[name] <= price[one.weak]} | {one.weak}
        large |= {name for name in one.models if price[name] >= LARGE_PRICE * price[one.strong]} | {one.strong}
    return small, large - small


def _confidence(of_set: RoutingSet, trained: _Trained, embed: EmbedAll) -> routing_cascade.Confidence | None:
    if not trained.prompts or not routing_cascade.has_replies(trained.prompts, of_set.weak):
        return None
    texts = [prompt.text for prompt in trained.prompts]
    said = [trained.router.predict(text, vector) for text, vector in zip(texts, embed(texts), strict=True)]
    return routing_cascade.fit(of_set, trained.prompts, said)


def _predict(
    of_set: RoutingSet,
    prompts: Sequence[Prompt],
    trained: _Trained,
    confidence: routing_cascade.Confidence | None,
    embed: EmbedAll,
) -> list[Predicted]:
    out = []
    for prompt, vector in zip(prompts, embed([prompt.text for prompt in prompts]), strict=True):
        said = trained.router.predict(prompt.text, vector)
        quality = qualities(of_set, trained.router, said, knows=trained.knows)
        if trained.knows:
            score = quality[of_set.strong] - quality[of_set.weak]
        else:
            score = abstained(trained.router, said).gain
        line = {"id": prompt.id, "score": round(score, DIGITS), "p_weak": round(quality[of_set.weak], DIGITS)}
        if len(of_set.models) > 2:
            line["quality"] = {name: round(one, DIGITS) for name, one in quality.items()}
        if confidence is not None and routing_cascade.has_replies([prompt], of_set.weak):
            sure, extra = confidence.of(prompt, said)
            line |= {"conf": round(sure, DIGITS), "extra": extra}
        out.append(Predicted(prompt, line))
    return out


def abstained(router: Router, said: Prediction) -> Prediction:
    """Of a request like nothing in training, what is true of all on average."""
    if said.known >= router.floor:
        return said
    means = dict(zip(router.targets, router.means, strict=True))
    p_right = {name: means[name] for name in said.p_right}
    return replace(said, difficulty=router.base_rate, p_right=p_right, gain=means[LARGE] * router.base_rate)


def qualities(of_set: RoutingSet, router: Router, said: Prediction, *, knows: bool) -> dict[str, float]:
    """Chance that each model of the set answers right. One that was in no training is judged by its price, which lies
    between those of the weak and the strong one."""
    said = said if knows else abstained(router, said)
    price = {name: sum(of_set.prices.get(name, (0.0, 0.0))) for name in of_set.models}
    least, most = price.get(of_set.weak, 0.0), price.get(of_set.strong, 0.0)
    small, large = 1 - said.difficulty, min(1.0, said.gain / max(said.difficulty, 1e-6))

    def by_price(name: str) -> float:
        place = (price[name] - least) / (most - least) if most > least else 0.0
        share = 1.0 if name == of_set.strong else min(NEXT_TO_STRONG, max(0.0, place))
        return small + (max(small, large) - small) * share

    return {name: said.p_right.get(name, by_price(name)) for name in of_set.models}
