"""`gateway learn` on the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.learned_files import Learned
from gateway.learning.fit import REPORT, Fitted
from gateway.learning.probe import Probed

Json = dict[str, Any]


def show_fitted(fitted: Sequence[Fitted], console: Console) -> None:
    """Before and after, on requests that nothing was learned from."""
    for one in fitted:
        color, word = ("yellow", f"refused: {one.why_not}") if one.why_not else ("green", "learned")
        console.print(f"[{color}]{escape(one.name)}[/] from {one.rows} rows, {word}", highlight=False, soft_wrap=True)
        held = one.held_out
        if held is not None:
            console.print(f"  {held.measure}, on {held.count} newer ones:", highlight=False, soft_wrap=True)
            gain = f"better by {held.gain.value:+.4f} ({held.gain.low:+.4f} to {held.gain.high:+.4f})"
            console.print(f"  {held.before:.4f} before, {held.after:.4f} after; {gain}", highlight=False)


def status_of(learned: Learned, now: float) -> list[Json]:
    """Each file, and what the last run said of it; also of those that were refused."""
    told: Mapping[str, Json] = (learned.read(REPORT) or {}).get("files") or {}
    found = []
    for name in sorted({*learned.names(), *told} - {REPORT}):
        path, said = learned.path(name), told.get(name) or {}
        there = path.exists()
        age_s = now - path.stat().st_mtime if there else None
        found.append({"file": name, "there": there, "age_s": age_s, **said})
    return found


def show_status(rows: Sequence[Json], former: int, console: Console) -> None:
    if not rows:
        console.print("nothing is learned yet: `gateway learn` does so from the journal")
        return
    table = Table("file", "age", "rows", "before", "after", "last run", box=None)
    for row in rows:
        held = row.get("held_out") or {}
        last = "" if "used" not in row else "in use" if row["used"] else f"refused: {row['why']}"
        age = "-" if row["age_s"] is None else _age(row["age_s"])
        numbers = [f"{held[key]:.4f}" if key in held else "-" for key in ("before", "after")]
        table.add_row(escape(row["file"]), age, str(row.get("rows", "-")), *numbers, escape(last))
    console.print(table)
    console.print(f"{former} former sets to go back to with `gateway learn revert`", style="dim")


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def probed_as_json(probed: Probed) -> Json:
    keys = {"model": probed.model, "took_s": round(probed.took_s, 1), "cost_usd": probed.cost_usd}
    return {**keys, "stopped": probed.stopped, "topics": probed.by_topic()}


def show_probed(probed: Probed, console: Console) -> None:
    table = Table("topic", "asked", "right", "s", "$", "tokens", box=None)
    for topic, one in probed.by_topic().items():
        right = "-" if one["right"] is None else f"{one['right']:.0%}"
        numbers = [_number(one["latency_s"], 2), _number(one["cost_usd"], 6), _number(one["output_tokens"], 0)]
        table.add_row(escape(topic), str(one["asked"]), right, *numbers)
    console.print(table)
    stamp = time.strftime("%H:%M:%S", time.gmtime(probed.took_s))
    console.print(f"{escape(probed.model)}: {len(probed.answered)} questions in {stamp}", highlight=False)
    if probed.stopped:
        console.print("[yellow]stopped[/]: the money was spent, or a price is not known")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
