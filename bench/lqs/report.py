"""What came of a pass: the scorer's numbers, one line a step, and where the local share comes from."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from bench.lqs import score_workload as scorer

Record = dict[str, Any]
OPTIONS = argparse.Namespace(target=0.99, delta=0.05, usd_in=2.5, usd_out=10.0, curve=False, json=False)


def scored(records: Sequence[Record], answers: Sequence[Record]) -> dict[str, Any]:
    found: dict[str, Any] = scorer.report(list(records), {line["id"]: line for line in answers}, OPTIONS)
    return found


def row(name: str, result: Mapping[str, Any]) -> list[str]:
    """One line of the ablation. Intervals are of the loss, one-sided, 95 %."""
    lqs = result["LQS99"]
    return [
        name,
        str(result["requests"]),
        f"{result['local_share']:.1%}",
        f"{result['local_accuracy']:.1%}" if result["local_share"] else "–",
        f"{result['quality_net']:.4f} (≥ {1 - lqs['net_upper'] / result['strong_accuracy']:.4f})",
        f"{result['quality_strict']:.4f} (≥ {1 - lqs['strict_upper'] / result['strong_accuracy']:.4f})",
        str(result["destroyed"]),
        "–" if result["cost_ratio"] is None else f"{result['cost_ratio']:.3f}",
        f"{lqs['lqs_net']:.1%} / {lqs['lqs_strict']:.1%}",
    ]


HEADS = ["step", "n", "local", "of it right", "quality net", "strict", "destroyed", "cost ratio", "LQS99 net / strict"]


def families(records: Sequence[Record], answers: Sequence[Record]) -> list[list[str]]:
    """Per family: what was answered locally, and what kept the rest from it."""
    result = scored(records, answers)
    why: dict[str, dict[str, int]] = {}
    family = {record["id"]: record["family"] for record in records}
    for line in answers:
        if not line["local"]:
            left = (line.get("path") or "").split(",")[0].partition("!")[2] or "not asked"
            counts = why.setdefault(family[line["id"]], {})
            counts[left] = counts.get(left, 0) + 1
    out = []
    for name, found in result["families"].items():
        reasons = sorted(why.get(name, {}).items(), key=lambda item: -item[1])
        told = ", ".join(f"{reason} {count}" for reason, count in reasons[:3])
        local = round(found["local_share"] * found["n"])
        right = round(found["local_accuracy"] * local)
        out.append(
            [name, str(found["n"]), str(local), str(right), str(found["destroyed"]), str(found["rescued"]), told]
        )
    return out


FAMILY_HEADS = ["family", "n", "local", "right", "destroyed", "rescued", "why the rest went on"]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "|".join("---" for _ in heads) + "|"]
    return "\n".join(lines + ["| " + " | ".join(cells) + " |" for cells in rows])
