"""`p_correct`: the chance that a draft is right, from its features. One combiner for each policy and model.

A logistic regression on standardised features, of which any may be missing, put right for each kind of answer and by a
calibration. Fitting is in `combiner_fit`; what is here runs for each request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple

from gateway.quality.calibration import DIGITS, Isotonic

VERSION = 1
FAR = 4.0  # standard deviations: what lies farther out says no more
KIND = "kind_"  # begins the names of flags that say what kind of answer it is
SLOPED = ("logprob_mean", "logprob_min", "is_cut", "tokens")  # count differently for each kind


class Row(NamedTuple):
    """A draft that was compared. `label`: 1 where it was right, as good as the larger model's. `weight`: how many
    drafts it stands for, 1 / audit rate for one that was accepted."""

    features: Mapping[str, float]
    label: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Term:
    """What a feature adds to the logit: `weight` times its distance from `mean` in units of `scale`, and where it is
    missing `missing`. `kinds`: more weight for drafts of a kind."""

    mean: float
    scale: float
    weight: float
    missing: float = 0.0
    kinds: tuple[tuple[str, float], ...] = ()


class Line(NamedTuple):
    """What a logit comes to for a kind of answer: how much can be told from it differs."""

    intercept: float
    slope: float


@dataclass(frozen=True)
class Combiner:
    """Args:
    lines: by the names of kinds; where there is none, the logit stays.
    curve: from the logit to a chance; None: the logistic one.
    curve_share: of the curve; the rest is the logistic one's (fewer labels, less of a curve).
    rows: it was fitted to.
    error: expected calibration error on drafts it was not fitted to; None where it was not fitted.
    """

    intercept: float
    terms: Mapping[str, Term]
    curve: Isotonic | None = None
    curve_share: float = 0.0
    rows: int = 0
    error: float | None = None
    lines: Mapping[str, Line] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with what it predicts."""
        return blake2b(repr(self.as_json()).encode(), digest_size=6).hexdigest()

    def logit(self, features: Mapping[str, float]) -> float:
        logit = self.intercept
        for name, term in self.terms.items():
            value = features.get(name)
            if value is None or value != value:
                logit += term.missing
                continue
            distance = (value - term.mean) / term.scale
            distance = FAR if distance > FAR else -FAR if distance < -FAR else distance
            logit += term.weight * distance
            for kind, weight in term.kinds:
                if features.get(kind):
                    logit += weight * distance
        for kind, line in self.lines.items():
            if features.get(kind):
                return line.intercept + line.slope * logit
        return logit

    def predict(self, features: Mapping[str, float]) -> float:
        """The chance that the draft is right."""
        logit = self.logit(features)
        chance = 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0
        if self.curve is None:
            return chance
        return chance + self.curve_share * (self.curve(logit) - chance)

    def as_json(self) -> dict[str, Any]:
        """Numbers that a reader can compare: one line a feature."""
        terms: dict[str, dict[str, Any]] = {}
        for name, term in sorted(self.terms.items()):
            terms[name] = {key: round(getattr(term, key), DIGITS) for key in ("mean", "scale", "weight", "missing")}
            if term.kinds:
                terms[name]["kinds"] = {kind: round(weight, DIGITS) for kind, weight in term.kinds}
        out: dict[str, Any] = {
            "version": VERSION,
            "rows": self.rows,
            "intercept": round(self.intercept, DIGITS),
            "terms": terms,
        }
        if self.lines:
            out["lines"] = {
                kind: {"intercept": round(line.intercept, DIGITS), "slope": round(line.slope, DIGITS)}
                for kind, line in sorted(self.lines.items())
            }
        if self.error is not None:
            out["error"] = round(self.error, DIGITS)
        if self.curve is not None:
            out |= {"curve_share": round(self.curve_share, DIGITS), "curve": self.curve.as_json()}
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Combiner:
        """Raises: ValueError for what is no combiner."""
        try:
            if data["version"] != VERSION:
                raise ValueError(f"version {data['version']}, not {VERSION}")
            curve = Isotonic.from_json(data["curve"]) if "curve" in data else None
            combiner = cls(
                float(data["intercept"]),
                {str(name): _term(term) for name, term in data["terms"].items()},
                curve,
                float(data.get("curve_share", 0.0)),
                int(data["rows"]),
                float(data["error"]) if "error" in data else None,
                {
                    str(kind): Line(float(line["intercept"]), float(line["slope"]))
                    for kind, line in (data.get("lines") or {}).items()
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"not a combiner: {exc}") from exc
        numbers = [combiner.intercept, combiner.curve_share]
        numbers += [number for line in combiner.lines.values() for number in line]
        for term in combiner.terms.values():
            numbers += [term.mean, term.scale, term.weight, term.missing, *(weight for _, weight in term.kinds)]
        if not all(map(math.isfinite, numbers)) or any(term.scale <= 0 for term in combiner.terms.values()):
            raise ValueError("not a combiner: a number in it is none, or a scale is not above 0")
        return combiner


def _term(data: Mapping[str, Any]) -> Term:
    kinds = tuple((str(kind), float(weight)) for kind, weight in (data.get("kinds") or {}).items())
    mean, scale, weight, missing = (float(data[key]) for key in ("mean", "scale", "weight", "missing"))
    return Term(mean, scale, weight, missing, kinds)


COLD = Combiner(0.6, {"logprob_mean": Term(0.0, 1.0, 2.0, -1.2)})
"""Before there are labels: by the mean log-probability alone, the best single feature (AUROC .65 to .85 with models of
135M to 8B). It puts drafts in order; its chances are a guess, and what is fitted later moves away from it."""
