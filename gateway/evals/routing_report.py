"""What the router made of a set, beside those that need no router: numbers, and a table of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from gateway.capability.router import Router
from gateway.evals import routing_metrics as metrics
from gateway.evals.routing import Outcome, Predicted
from gateway.evals.routing_data import Prompt, RoutingSet
from gateway.evals.routing_vectors import Vectors

TIMED = 300
SHORT_CHARS = (150, 250)  # about 50 tokens
DIGITS = 4


def measured(of_set: RoutingSet, predicted: Sequence[Predicted]) -> dict[str, Any]:
    """One set's numbers: the pair's, those of all models where there are more than two, the cascade's."""
    prompts = [one.prompt for one in predicted]
    weak, strong = (np.array([float(p.models[name]["s"]) for p in prompts]) for name in (of_set.weak, of_set.strong))
    scores = np.array([one.line["score"] for one in predicted])
    lengths = np.array([float(len(prompt.text)) for prompt in prompts])
    numbers = {
        "prompts": len(prompts),
        "always_cheapest": weak.mean(),
        "always_best": strong.mean(),
        "apgr": metrics.apgr(scores, weak, strong),
        "apgr_length": metrics.apgr(lengths, weak, strong),
        "apgr_random": 0.5,
        "random_spread": metrics.random_spread(len(prompts), weak, strong),
        "apgr_oracle": metrics.apgr(strong - weak, weak, strong),
        "ece": metrics.calibration_error(np.array([one.line["p_weak"] for one in predicted]), weak),
    }
    if all("conf" in one.line for one in predicted):
        confidence = metrics.apgr(-np.array([one.line["conf"] for one in predicted]), weak, strong)
        numbers["cascade_gap_closed"] = (confidence - 0.5) / (numbers["apgr_oracle"] - 0.5)
    if all("quality" in one.line for one in predicted):
        numbers |= _of_all_models(of_set, predicted, lengths)
    return {name: _rounded(number) for name, number in numbers.items()}


def _of_all_models(of_set: RoutingSet, predicted: Sequence[Predicted], lengths: metrics.Doubles) -> dict[str, float]:
    rows = [one.prompt.models for one in predicted]
    quality = np.array([[float(row[name]["s"]) for name in of_set.models] for row in rows])
    cost = np.array([[float(row[name].get("c", math.nan)) for name in of_set.models] for row in rows])
    if np.isnan(cost).any():
        return {}
    said = np.array([[one.line["quality"][name] for name in of_set.models] for one in predicted])
    level = quality.mean(axis=0)
    by_length = level - np.outer(np.argsort(np.argsort(lengths)) / len(lengths) - 0.5, level.max() - level)
    ours = metrics.saved(metrics.routed(said, quality, cost), quality, cost)
    return {
        "best_single": level.max(),
        "cheapest_single": level[cost.mean(axis=0).argmin()],
        "saved_at_99": ours.usd,
        "saved_at_99_no_router": metrics.saved(metrics.singles(quality, cost), quality, cost).usd,
        "saved_at_99_length": metrics.saved(metrics.routed(by_length, quality, cost), quality, cost).usd,
        "saved_at_99_oracle": metrics.saved(metrics.routed(quality + 1e-9, quality, cost, cost), quality, cost).usd,
        "best_quality": ours.most,
        "oracle_quality": quality.max(axis=1).mean(),
    }


def _rounded(number: float) -> float | int | None:
    if isinstance(number, int):
        return number
    return None if math.isnan(number) else round(float(number), DIGITS)


def timed(router: Router, prompts: Sequence[Prompt], vectors: Vectors) -> dict[str, float]:
    """Microseconds of a decision, by n-grams alone and with the embedding of a question of about 50 tokens."""
    texts = [prompt.text for prompt in prompts[:TIMED]]
    short = [text for text in texts if SHORT_CHARS[0] <= len(text) <= SHORT_CHARS[1]][:50] or texts[:10]
    plain = _times(lambda text: router.predict(text), texts)
    full = _times(lambda text: router.predict(text, vectors.one(text)), short)
    return {"plain_us": round(statistics.median(plain)), "embedded_us": round(statistics.median(full))}


def _times(decide: Any, texts: Sequence[str]) -> list[float]:
    decide(texts[0])
    out = []
    for text in texts:
        started = time.perf_counter_ns()
        decide(text)
        out.append((time.perf_counter_ns() - started) / 1000)
    return out


def table(outcome: Outcome, numbers: dict[str, dict[str, Any]]) -> Table:
    shown = Table(title="the learned router beside those that need none")
    for heading in ("set", "measure", "ours", "length", "random", "oracle", "cheapest", "best"):
        shown.add_column(heading, justify="left" if heading in ("set", "measure") else "right")
    for name, of_set in numbers.items():
        ends = (of_set["always_cheapest"], of_set["always_best"])
        spread = f"{of_set['apgr_random']:.3f} ±{of_set['random_spread'] or 0:.3f}"
        shown.add_row(
            f"{name} ({of_set['prompts']})",
            "APGR; quality of weak, strong",
            *map(_shown, (of_set["apgr"], of_set["apgr_length"])),
            spread,
            *map(_shown, (of_set["apgr_oracle"], *ends)),
        )
        if "saved_at_99" in of_set:
            keys = ("saved_at_99", "saved_at_99_length", "saved_at_99_no_router", "saved_at_99_oracle")
            ends = (of_set["cheapest_single"], of_set["best_single"])
            shown.add_row("", "dollars saved at 99 %", *[_shown(of_set[key]) for key in keys], *map(_shown, ends))
        if "cascade_gap_closed" in of_set:
            asked = f"gap closed by a cascade, with {outcome.seconds.get(name) or 'no second model'}"
            shown.add_row("", asked, _shown(of_set["cascade_gap_closed"]), "", "0.000", "1.000", "", "")
        shown.add_row("", "calibration error of p_weak", _shown(of_set["ece"]), "", "", "", "", "")
    return shown


def _shown(number: float | None) -> str:
    return "never" if number is None else f"{number:.3f}"
