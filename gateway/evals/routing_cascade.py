"""Is the weak model's answer, now that it is there, good enough? A cheap look at it and a second cheap opinion say.

Only what a real cascade would have is read: the weak model's reply, and that of one other model that is no dearer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gateway.capability.router import Floats, Prediction
from gateway.evals.routing_data import Prompt, RoutingSet
from gateway.learning import ridge

PENALTY = 100.0
LEAST_SPREAD = 1e-3
DOUBTS = re.compile(r"\b(?:however|wait|assum\w+|approximat\w+|guess|mistake|incorrect|none of|not match)\b", re.I)
THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
Reply = Mapping[str, Any]


@dataclass(frozen=True)
class Confidence:
    """What the weak model's reply is worth.

    Args:
        second: the other model that is asked; None where none is no dearer than the weak one.
        weights: shape (features + 1, 2): of the weak one's score, and of what the strong one's is above it.
        scale: mean and standard deviation of each feature, shape (2, features).
        level: mean of what the strong one's score is above.
    """

    weak: str
    second: str | None
    weights: Floats
    scale: Floats
    level: float

    def of(self, prompt: Prompt, predicted: Prediction) -> tuple[float, float]:
        """(confidence in the weak model's answer, US dollars that asking the second cost)."""
        row = features(prompt, self.weak, self.second, predicted)
        right, gain = ((row - self.scale[0]) / self.scale[1]) @ self.weights[:-1] + self.weights[-1]
        extra = float(prompt.models[self.second].get("c") or 0.0) if self.second else 0.0
        return _blend(float(right), float(gain), self.level), extra


def has_replies(prompts: Sequence[Prompt], weak: str) -> bool:
    """Is more known of the weak model's answers than their scores?"""
    return all("ok" in prompt.models.get(weak, {}) for prompt in prompts)


def fit(of: RoutingSet, prompts: Sequence[Prompt], predicted: Sequence[Prediction]) -> Confidence:
    """`predicted`: by the router, of each prompt. The second model is the one whose word helps most in training."""
    scores = np.array([[float(one.models[name]["s"]) for name in (of.weak, of.strong)] for one in prompts], np.float32)
    wanted = np.stack([scores[:, 0], scores[:, 1] - scores[:, 0]], axis=1)
    best: tuple[float, Confidence] | None = None
    for second in [None, *seconds(of, prompts)]:
        rows = np.stack([features(one, of.weak, second, p) for one, p in zip(prompts, predicted, strict=True)])
        scale = np.stack([rows.mean(axis=0), np.maximum(rows.std(axis=0), LEAST_SPREAD)])
        fitted = ridge.fit((rows - scale[0]) / scale[1], wanted, PENALTY)
        error = float(np.square(fitted.held_out - wanted).mean())
        if best is None or error < best[0]:
            level = float(wanted[:, 1].mean())
            best = (error, Confidence(of.weak, second, fitted.weights, scale, level))
    assert best is not None
    return best[1]


def seconds(of: RoutingSet, prompts: Sequence[Prompt]) -> list[str]:
    """Models that cost no more than the weak one, by their prices and on these prompts."""
    asked = [name for name in of.models if all("p" in p.models[name] or "ok" in p.models[name] for p in prompts)]
    price = {name: sum(of.prices.get(name, (math.inf,))) for name in of.models}
    spent = {name: sum(float(one.models[name].get("c") or 0.0) for one in prompts) for name in asked}
    return [
        name
        for name in asked
        if name != of.weak and price[name] <= price[of.weak] and spent[name] <= spent.get(of.weak, 0.0)
    ]


def _blend(right: float, gain: float, level: float) -> float:
    """Chance that it is right, less what going on would gain beyond the usual: 0 to 1."""
    return min(1.0, max(0.0, 0.5 * right + 0.5 * (right - (gain - level))))


def features(prompt: Prompt, weak: str, second: str | None, predicted: Prediction) -> Floats:
    reply = prompt.models[weak]
    row = [*_of_reply(reply, prompt.text), predicted.p_right.get(weak, 1 - predicted.difficulty), predicted.gain]
    if second is not None:
        row += _of_both(reply, prompt.models[second])
    return np.array(row, np.float32)


def _of_reply(reply: Reply, prompt: str) -> list[float]:
    short, text = normalised(reply.get("p")), str(reply.get("x") or "")
    value = _value(short)
    words = text.split()
    return [
        float(reply.get("ok", 1)),
        float(reply.get("js", 0)),
        math.log1p(float(reply.get("o", 0))),
        float(bool(short)),
        math.log1p(len(short)),
        float(value is not None),
        float(value is not None and value == int(value)),
        math.log1p(abs(value)) if value is not None else 0.0,
        float(bool(short) and short in prompt.lower().replace(" ", "")),
        math.log1p(len(DOUBTS.findall(text))),
        math.log1p(len(NUMBER.findall(text))),
        math.log1p(text.count("=")),
        math.log1p(text.count("\\n") + text.count("\n")),
        len(set(words)) / max(1, len(words)),
        math.log1p(text.lower().replace(" ", "").count(short)) if short else 0.0,
        math.log1p(len(prompt)),
    ]


def _of_both(reply: Reply, other: Reply) -> list[float]:
    mine, theirs = normalised(reply.get("p")), normalised(other.get("p"))
    return [
        float(bool(mine) and mine == theirs),
        float(bool(theirs)),
        float(other.get("ok", 1)),
        float(other.get("js", 0)),
        math.log1p(float(other.get("o", 0))),
        math.log1p(float(reply.get("o", 0))) * float(bool(mine) and mine == theirs),
    ]


def normalised(short: object) -> str:
    """A short answer so that equal ones read the same."""
    text = "" if short is None else str(short).strip().lower()
    text = text.replace("\\!", "").replace("\\,", "").replace("dfrac", "frac").replace("tfrac", "frac")
    text = "".join(sign for sign in text if sign not in " $").strip("'\"").rstrip(".")
    value = _value(text.replace(",", "") if THOUSANDS.fullmatch(text) else text)
    return text if value is None else f"{value:.6g}"


def _value(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
