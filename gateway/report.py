"""`gateway report`: the journal's summary as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.chat import Json
from gateway.store.summary import Summary, Tally


def show(summary: Summary, console: Console) -> None:
    total = summary.total
    console.print(f"requests {total.requests}, answered {summary.answered}, errors {total.errors}", highlight=False)
    if summary.escalation_rate is not None:
        console.print(f"escalated {summary.escalated} ({summary.escalation_rate:.1%} of answered)", highlight=False)
        console.print(f"time p50 {summary.p50_ms:.0f} ms, p95 {summary.p95_ms:.0f} ms", highlight=False)
    console.print(f"tokens {total.input_tokens} in, {total.output_tokens} out; cost {money(total)}", highlight=False)
    for title, groups in (("model", summary.by_model), ("path", summary.by_path), ("route", summary.by_route)):
        if groups:
            console.print(_table(title, groups))


def show_promises(promises: Sequence[Json], console: Console) -> None:
    """How far each policy's promise has come, and how often a draft was accepted that should not have been."""
    if not promises:
        return
    heads = ("promise", "target", "state", "threshold", "labels", "local", "audits", "accepted wrongly")
    table = Table(*heads, box=None, title_justify="left")
    for one in promises:
        low, high = one["false_accept_interval"]
        rate, share = one["false_accept_rate"], one["local_share"]
        table.add_row(
            escape(one["arm"]),
            f"{one['target']:g} at {one['confidence']:g}",
            str(one["status"]).replace("_", " "),
            "–" if one["threshold"] is None else f"{one['threshold']:.3f}",
            f"{one['labels']} of at least {one['labels_needed']}",
            "–" if share is None else f"{share:.1%}",
            str(one["audits"]),
            "–" if rate is None else f"{rate:.1%} ({low:.1%} to {high:.1%})",
        )
    console.print(table)


def money(tally: Tally) -> str:
    """Known cost, and how many requests are not in it."""
    text = f"${tally.known_cost_usd:.6f}"
    return text + (f" and {tally.unknown_cost} requests of unknown cost" if tally.unknown_cost else "")


def _table(title: str, groups: Iterable[tuple[str | None, Tally]]) -> Table:
    table = Table(title, "requests", "errors", "tokens in", "tokens out", "cost", box=None, title_justify="left")
    for name, tally in groups:
        counts = (tally.requests, tally.errors, tally.input_tokens, tally.output_tokens)
        table.add_row(escape(name or "nobody"), *map(str, counts), money(tally))
    return table
