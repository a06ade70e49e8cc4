"""`gateway replay` on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Json = dict[str, Any]
MOST_REASONS = 8
MEASURES = (
    ("quality", "quality", "{:+.4f}"),
    ("cost_usd", "$ a request", "{:+.6f}"),
    ("latency_s", "seconds", "{:+.3f}"),
)


def show(report: Json, console: Console) -> None:
    runs = report["runs"]
    table = Table("", box=None)
    for title in ("covered", "quality", "$ each", "p50 s", "p95 s", "escalated", "local"):
        table.add_column(title, no_wrap=True)
    for run in runs:
        table.add_row(
            escape(run["name"]),
            f"{run['covered']} of {run['requests']}",
            _number(run["quality"]["value"], "{:.3f}"),
            _number(run["cost_usd"]["mean"], "{:.6f}"),
            _number(run["latency_s"]["p50"], "{:.2f}"),
            _number(run["latency_s"]["p95"], "{:.2f}"),
            _number(run["escalated"], "{:.1%}"),
            _number(run["local"], "{:.1%}"),
        )
    console.print(table)
    for one in report["differences"]:
        against = escape(f"{runs[0]['name']} against {one['against']}")
        console.print(f"{against}, on {one['requests']} requests:", highlight=False, soft_wrap=True)
        for measure, unit, form in MEASURES:
            if one[measure]["value"] is not None:
                interval = _interval(one[measure], form)
                console.print(f"  {unit} {interval}", highlight=False)
    if report["differences"]:
        console.print("in brackets: 95 % intervals of the paired difference", style="dim")
    _show_missing(runs[0], console)


def _show_missing(run: Json, console: Console) -> None:
    missing = run["requests"] - run["covered"]
    if not missing:
        return
    console.print(f"{missing} requests are not covered, and left out: nobody recorded what they would have needed")
    for what, count in list(run["not_covered"].items())[:MOST_REASONS]:
        console.print(f"  {count} {escape(what)}", highlight=False)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _interval(found: Json, form: str) -> str:
    if found["value"] is None:
        return "-"
    value, low, high = (form.format(found[name]) for name in ("value", "low", "high"))
    return escape(f"{value} [{low}, {high}]")
