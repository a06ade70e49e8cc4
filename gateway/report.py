"""`gateway report`: the journal's summary, what was spent and what was saved, as tables; spending as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.chat import Json
from gateway.costs.ledger import UsageSums, add_sums
from gateway.costs.savings import Savings
from gateway.store.spent import MEASURES, Idle, Spent
from gateway.store.summary import Summary, Tally

CSV_COLUMNS = (*MEASURES, "known_cost_usd", "energy_j")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
WIDE = 110  # columns of a terminal
FOR_WIDE = frozenset({"calls", "cached", "busy"})


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


def show_spent(by: Sequence[str], rows: Sequence[Spent], console: Console) -> None:
    """One line a group, and a last one of all."""
    heads = ("requests", "errors", "calls", "tokens in", "cached", "out", "cost", "busy", "energy")
    shown = [head for head in heads if console.width >= WIDE or head not in FOR_WIDE]
    table = _folding(*by, *shown)

    def cells(sums: UsageSums) -> list[str]:
        return [cell for head, cell in zip(heads, _cells(sums), strict=True) if head in shown]

    whole = UsageSums()
    for one in rows:
        add_sums(whole, one.sums)
        table.add_row(*(escape(name or "–") for name in one.group), *cells(one.sums))
    if by:
        table.add_row(*("all" if number == 0 else "" for number in range(len(by))), *cells(whole), style="bold")
    console.print(table)


def _folding(*heads: str) -> Table:
    """Where it is narrow, nothing is cut."""
    table = Table(box=None, title_justify="left")
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def show_savings(found: Sequence[Savings], console: Console) -> None:
    """Against the largest model alone, and the best single one."""
    if not found:
        return
    heads = ("saved", "against", "instead of", "would have cost", "spent", "overhead", "saved", "compared", "as good")
    table = _folding(*heads)
    for one in found:
        for name, side in (("the largest", one.largest), ("the best single", one.best_single)):
            if side is None or side.saved_usd is None:
                table.add_row(escape(one.policy), name, "–", *("–",) * 4, f"0 of {one.requests}", "")
                continue
            share = "" if side.saved_share is None else f" ({side.saved_share:.0%})"
            told = f"{side.compared} of {side.requests}, {side.estimated} estimated"
            money = (side.instead_usd, side.spent_usd, side.overhead_usd)
            models = ", ".join(map(escape, side.models))
            is_given = one.largest is not None and side.models == one.largest.models
            rates = "by definition" if is_given else f"{_rate(side.pass_rate)}, policy {_rate(one.pass_rate)}"
            saved = f"{dollars(side.saved_usd)}{share}"
            table.add_row(escape(one.policy), name, models, *map(dollars, money), saved, told, rates)
    console.print(table)


def show_idle(found: Sequence[Idle], console: Console) -> None:
    """What was loaded and not busy: nobody's request has paid for it."""
    if not found:
        return
    table = Table("idle", "loaded", "busy", "idle", "cost of idling", box=None, title_justify="left")
    for one in found:
        times = map(_duration, (one.loaded_s, one.busy_s, one.idle_s))
        table.add_row(escape(one.model), *times, "unknown" if one.idle_usd is None else dollars(one.idle_usd))
    console.print(table)


def write_csv(by: Sequence[str], rows: Sequence[Spent], out: TextIO) -> None:
    """The columns of `Spent.as_json`; what is not known is empty. A name that a spreadsheet would take for a formula
    begins with an apostrophe."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*by, *CSV_COLUMNS])
    for one in rows:
        told = one.as_json(by)
        writer.writerow([*map(_no_formula, one.group), *(told[name] for name in CSV_COLUMNS)])


def _no_formula(name: str) -> str:
    return f"'{name}" if name.startswith(FORMULA) else name


def _cells(sums: UsageSums) -> list[str]:
    counts = (sums.requests, sums.errors, sums.calls, sums.input_tokens, sums.cached_tokens, sums.output_tokens)
    cost = dollars(sums.cost_usd) + (f" and {sums.unknown_cost} calls of unknown cost" if sums.unknown_cost else "")
    return [*map(str, counts), cost, f"{sums.busy_s:.1f} s", _energy(sums)]


def _energy(sums: UsageSums) -> str:
    known = sums.measured_j + sums.modelled_j
    source = (
        "" if not known else " measured" if not sums.modelled_j else " modelled" if not sums.measured_j else " mixed"
    )
    text = f"{known:.1f} J{source}" if known or not sums.unknown_energy else "unknown"
    return f"{text} and {sums.unknown_energy} calls unknown" if known and sums.unknown_energy else text


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.2f} h"


def _rate(rate: float | None) -> str:
    return "unknown" if rate is None else f"{rate:.1%}"


def dollars(amount: float) -> str:
    return f"-${-amount:.6f}" if amount < 0 else f"${amount:.6f}"


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
