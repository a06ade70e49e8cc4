"""Fits a combiner to labelled drafts. Pure: the same rows and seed give the same combiner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gateway.quality.calibration import ece, fit_isotonic
from gateway.quality.combiner import COLD, FAR, KIND, SLOPED, Combiner, Line, Row, Term

Floats = NDArray[np.float64]

FEWEST = 40  # rows; with fewer, the cold start stays
FOLDS = 5
STRENGTHS = (1.0, 4.0, 16.0, 64.0)  # of what holds weights back; chosen on rows that were left out
RARE = 8  # rows that a feature, or its being missing, must be seen in
LINE_STRENGTH = 2.0
HALF_A_CURVE = 150  # rows from which half of the chance is the curve's
STEPS = 60


def fit(rows: Sequence[Row], seed: int = 0) -> Combiner:
    """A combiner for these drafts. With few rows it stays near the cold start: weights are held back towards it.

    The calibration is fitted to scores of rows that the weights were not fitted to, and so is the error it states.
    """
    if len(rows) < FEWEST:
        return COLD
    return _fit(rows, seed)[0]


def fit_and_predict(rows: Sequence[Row], seed: int = 0) -> tuple[Combiner, list[float]]:
    """As `fit`, and the chance of each row as a combiner predicts it that has not seen the row."""
    if len(rows) < FEWEST:
        return COLD, [COLD.predict(row.features) for row in rows]
    return _fit(rows, seed)


def _fit(rows: Sequence[Row], seed: int) -> tuple[Combiner, list[float]]:
    design = _Design(rows)
    folds = np.random.default_rng(seed).permutation(len(rows)) % FOLDS
    logits = {strength: _out_of_fold(design, folds, strength) for strength in STRENGTHS}
    best = min(STRENGTHS, key=lambda strength: _log_loss(logits[strength], design.labels, design.weights))
    share = len(rows) / (len(rows) + HALF_A_CURVE)
    combiner = design.combiner(_weights(design.matrix, design.labels, design.weights, design.prior, best))
    lines = _lines(design, logits[best], np.ones(len(rows), bool))
    straight = design.straightened(logits[best], lines)
    curve = fit_isotonic(straight.tolist(), design.labels.tolist(), design.weights.tolist())
    chances = _chances(design, folds, logits[best], share)
    error = ece(chances.tolist(), design.labels.tolist(), design.weights.tolist())
    fitted = replace(combiner, curve=curve, curve_share=share, rows=len(rows), error=error, lines=lines)
    return fitted, chances.tolist()


class _Design:
    """Rows as a matrix: a column of ones, then for each feature its value, its being missing, and its value in drafts
    of each kind."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.labels = np.array([row.label for row in rows], float)
        weights = np.array([row.weight for row in rows], float)
        self.weights = weights / weights.mean()
        self.scales: dict[str, tuple[float, float]] = {}
        self.layout: list[
            tuple[str, str]
        ] = []  # of each column but the ones: feature, and `value`, `missing` or a kind
        self._columns, self._prior = [np.ones(len(rows))], [COLD.intercept]
        names = sorted({name for row in rows for name in row.features})
        values = {name: np.array([row.features.get(name, np.nan) for row in rows], float) for name in names}
        kinds = {name: np.nan_to_num(values[name]) > 0 for name in names if name.startswith(KIND)}
        self.kinds = {name: flag for name, flag in kinds.items() if RARE <= flag.sum() <= len(rows) - RARE}
        for name in names:
            self._take(name, values[name])
        self.matrix, self.prior = np.column_stack(self._columns), np.array(self._prior)

    def _take(self, name: str, values: Floats) -> None:
        known = np.isfinite(values)
        if known.sum() < RARE or (np.ptp(values[known]) == 0 and known.all()):
            return
        mean, scale = float(values[known].mean()), float(values[known].std()) or 1.0
        self.scales[name] = mean, scale
        distance = np.where(known, np.clip((values - mean) / scale, -FAR, FAR), 0.0)
        cold = COLD.terms.get(name)
        self._prior[0] += cold.weight * (mean - cold.mean) / cold.scale if cold else 0.0
        self._add(name, "value", distance, cold.weight * scale / cold.scale if cold else 0.0)
        if (~known).sum() >= RARE:
            self._add(name, "missing", (~known).astype(float))
        for kind, flag in self.kinds.items() if name in SLOPED else ():
            self._add(name, kind, distance * flag)

    def _add(self, name: str, part: str, column: Floats, prior: float = 0.0) -> None:
        self.layout.append((name, part))
        self._columns.append(column)
        self._prior.append(prior)

    def straightened(self, logits: Floats, lines: Mapping[str, Line]) -> Floats:
        out = logits.copy()
        for kind, line in lines.items():
            flag = self.kinds[kind]
            out[flag] = line.intercept + line.slope * logits[flag]
        return out

    def combiner(self, weights: Floats) -> Combiner:
        found: dict[str, dict[str, float]] = {name: {} for name in self.scales}
        for (name, part), weight in zip(self.layout, weights[1:], strict=True):
            found[name][part] = float(weight)
        terms = {
            name: Term(
                *self.scales[name],
                weight=parts.pop("value"),
                missing=parts.pop("missing", 0.0),
                kinds=tuple(parts.items()),
            )
            for name, parts in found.items()
        }
        return Combiner(float(weights[0]), terms)


def _weights(matrix: Floats, labels: Floats, weights: Floats, prior: Floats, strength: float) -> Floats:
    """By Newton's method: logistic regression whose weights are held back towards the prior; the intercept hardly."""
    penalty = np.full(len(prior), strength)
    penalty[0] = 0.1
    found = prior.copy()
    for _ in range(STEPS):
        chances = 1 / (1 + np.exp(-np.clip(matrix @ found, -30, 30)))
        slope = matrix.T @ (weights * (chances - labels)) + penalty * (found - prior)
        curvature = (matrix * (weights * np.maximum(chances * (1 - chances), 1e-6))[:, None]).T @ matrix
        step = np.linalg.solve(curvature + np.diag(penalty), slope)
        found = found - step * min(1.0, 5.0 / max(1e-12, float(np.abs(step).max())))
        if float(np.abs(step).max()) < 1e-7:
            break
    return found


def _out_of_fold(design: _Design, folds: NDArray[np.int64], strength: float) -> Floats:
    """The logit of each row, by weights that were fitted to the others."""
    logits = np.empty(len(design.labels))
    for fold in range(FOLDS):
        out = folds == fold
        found = _weights(design.matrix[~out], design.labels[~out], design.weights[~out], design.prior, strength)
        logits[out] = design.matrix[out] @ found
    return logits


def _lines(design: _Design, logits: Floats, among: NDArray[np.bool_]) -> dict[str, Line]:
    """For each kind, after Platt: held back towards leaving the logit as it is."""
    found = {}
    for kind, flag in design.kinds.items():
        own = flag & among
        matrix = np.column_stack([np.ones(int(own.sum())), logits[own]])
        line = _weights(matrix, design.labels[own], design.weights[own], np.array([0.0, 1.0]), LINE_STRENGTH)
        found[kind] = Line(float(line[0]), float(line[1]))
    return found


def _chances(design: _Design, folds: NDArray[np.int64], logits: Floats, share: float) -> Floats:
    """Of each fold, under lines and a curve that were fitted to the others."""
    chances = np.empty(len(logits))
    for fold in range(FOLDS):
        out = folds == fold
        straight = design.straightened(logits, _lines(design, logits, ~out))
        curve = fit_isotonic(straight[~out].tolist(), design.labels[~out].tolist(), design.weights[~out].tolist())
        said = np.array([curve(logit) for logit in straight[out].tolist()])
        chances[out] = 1 / (1 + np.exp(-np.clip(straight[out], -30, 30)))
        chances[out] += share * (said - chances[out])
    return chances


def _log_loss(logits: Floats, labels: Floats, weights: Floats) -> float:
    return float(np.average(np.logaddexp(0, logits) - labels * logits, weights=weights))
