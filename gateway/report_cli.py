"""`gateway report`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.costs.period import Period, moment
from gateway.errors import ConfigError
from gateway.terminal import MODELS, POLICIES, AsJson, Models, Policies, console, print_json, with_database

DAY_S = 86_400


def report(
    days: Annotated[float | None, typer.Option(min=0, help="Only the last so many days.")] = None,
    since: Annotated[
        str | None, typer.Option(help="From then on: 7d, 24h, 2026-11-01, 2026-11-01T08:00 (UTC).")
    ] = None,
    until: Annotated[str | None, typer.Option(help="To before then.")] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="Spending by key, policy, route, model, layer, purpose, hour, day, month.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print spending as CSV.")] = False,
    models: Models = MODELS,
    policies: Policies = POLICIES,
    as_json: AsJson = False,
) -> None:
    """Requests, paths, tokens, cost, escalations, promises, and what was saved; with --by what was spent by whom."""
    from gateway.store.spent import groups_of

    if as_csv and as_json:
        raise typer.BadParameter("is one of two: --csv or --json", param_hint="--csv")
    if since is not None and days is not None:
        raise typer.BadParameter("says the same as --days: leave one of them out", param_hint="--since")
    now = time.time()
    begin = now - days * DAY_S if days is not None else _moment("--since", since, now)
    period = Period(begin, _moment("--until", until, now))
    try:
        groups = groups_of(by or (("day", "key", "policy", "route", "model", "layer", "purpose") if as_csv else ()))
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--by") from None
    if groups:
        _report_spent(groups, period, as_csv=as_csv, as_json=as_json)
    else:
        _report_all(period, _prices_per_hour(models, policies), as_json=as_json)


def _moment(option: str, text: str | None, now: float) -> float | None:
    try:
        return None if text is None else moment(text, now)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint=option) from None


def _report_spent(by: Sequence[str], period: Period, *, as_csv: bool, as_json: bool) -> None:
    from gateway.report import show_spent, write_csv
    from gateway.store.spent import spent

    rows = with_database(lambda database: spent(database, by, period))
    if as_csv:
        write_csv(by, rows, sys.stdout)
    elif as_json:
        print_json({**period._asdict(), "by": by, "data": [one.as_json(by) for one in rows]})
    else:
        show_spent(by, rows, console)


def _report_all(period: Period, usd_per_hour: Mapping[str, float], *, as_json: bool) -> None:
    from gateway.costs.savings import total_of
    from gateway.report import show, show_idle, show_promises, show_savings, show_spent
    from gateway.store.drafts import Drafts
    from gateway.store.spent import idle, savings_by_policy, spent
    from gateway.store.summary import summarize

    async def read(database: Any) -> tuple[Any, ...]:
        promises = [arm.state["report"] for arm in await Drafts(database).arms()]
        return (
            await summarize(database, period.since, period.until),
            promises,
            await spent(database, ("layer", "purpose"), period),
            await savings_by_policy(database, period),
            await idle(database, usd_per_hour, period),
        )

    summary, promises, rows, saved, idling = with_database(read)
    if as_json:
        told = {"escalation_rate": summary.escalation_rate, "cost_usd": summary.total.cost_usd, "promises": promises}
        told |= {"spent": [one.as_json(("layer", "purpose")) for one in rows]}
        told |= {"savings": [one.as_json() for one in saved], "saved_usd": total_of(saved)}
        print_json({**asdict(summary), **told, "idle": [asdict(one) for one in idling]})
        return
    show(summary, console)
    show_spent(("layer", "purpose"), rows, console)
    show_savings(saved, console)
    show_promises(promises, console)
    show_idle(idling, console)


def _prices_per_hour(models: Path, policies: Path) -> dict[str, float]:
    """Of models.yaml as it is now; of no model where the files cannot be read: the hours are shown all the same."""
    from gateway.config.files import read_config

    try:
        entries = read_config(models, policies).models
    except ConfigError:
        return {}
    specs = {name: entry.spec for name, entry in entries.items()}
    return {
        name: spec.price.usd_per_hour for name, spec in specs.items() if spec is not None and spec.price is not None
    }
