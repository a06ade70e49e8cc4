"""`gateway learn adapters|promote|rollback`: what was trained, and who decides what becomes of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from gateway.errors import GatewayError
from gateway.terminal import MODELS, POLICIES, AsJson, Models, Policies, console, print_json, with_database

if TYPE_CHECKING:
    from gateway.store.database import Database
    from gateway.training.registry import Entry

Name = Annotated[str, typer.Argument(help="A trained model, such as core:support-1f2e3d4c.")]
SHOWN_CHARS = 60


def adapters(
    plot: Annotated[Path | None, typer.Option(help="Draw what became of it over time into this file (.svg).")] = None,
    since: Annotated[float | None, typer.Option(min=0, help="Of --plot: only the last so many days.")] = None,
    models: Models = MODELS,
    policies: Policies = POLICIES,
    as_json: AsJson = False,
) -> None:
    """Show trained adapters: what each is for, where it stands, and why."""
    from gateway.runtime import gateway_home
    from gateway.store.outcomes import Outcomes
    from gateway.training.registry import read_registry

    entries = sorted(read_registry(gateway_home()).values(), key=lambda one: one.created)
    if plot is not None:
        _plot(plot, entries, models, policies, since)
        return

    async def read(database: Database) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for row in await Outcomes(database).find():
            found.setdefault(row.adapter, []).append(row)
        return found

    outcomes = with_database(read)
    told = [_told(entry, outcomes.get(entry.full_name, [])) for entry in entries]
    if as_json:
        print_json(told)
        return
    table = Table("adapter", "state", "kinds", "pairs", "gate", "since then", "why", box=None)
    for one in told:
        gate, seen = one["gate"], one["compared"]
        state = f"{one['state']} {one['share']:.0%}" if one["state"] == "canary" else one["state"]
        why = escape(one["why"][:SHOWN_CHARS])
        table.add_row(one["name"], state, str(one["kinds"]), str(one["pairs"]), _counted(gate), _counted(seen), why)
    console.print(table if told else "nothing is trained yet: see `gateway train` and `adapters: true` in a policy")


def _counted(record: dict[str, int]) -> str:
    return f"{record['right']}/{record['count']}, {record['before']} before" if record["count"] else "-"


def promote(name: Name, as_json: AsJson = False) -> None:
    """Let an adapter go a step on: one that waits, or was trained by hand, into its trial; one on trial to all."""
    from gateway.runtime import gateway_home
    from gateway.training.registry import entry_of
    from gateway.training.trial import State, Step

    entry = entry_of(gateway_home(), name)
    if not entry.kinds:
        raise GatewayError(f"'{name}' has learned no kind of request by itself: it is called by its name")
    if entry.state not in (State.TRAINED, State.WAITING, State.SHADOW, State.CANARY, State.ROLLED_BACK):
        raise GatewayError(f"'{name}' is {entry.state}: there is nothing to promote")
    step = Step(State.LIVE, 1.0, "a person has promoted it")
    if entry.state in (State.TRAINED, State.WAITING):
        step = Step(State.SHADOW, 0.0, "a person has approved it")
    _take(name, step, as_json)


def rollback(name: Name, as_json: AsJson = False) -> None:
    """Take an adapter back; what answered before it does so again."""
    from gateway.runtime import gateway_home
    from gateway.training.registry import entry_of
    from gateway.training.trial import ON_TRIAL, State, Step

    entry = entry_of(gateway_home(), name)
    if entry.state not in (*ON_TRIAL, State.WAITING):
        raise GatewayError(f"'{name}' is {entry.state}: there is nothing to take back")
    _take(name, Step(State.ROLLED_BACK, 0.0, "a person has taken it back"), as_json)


def _take(name: str, step: Any, as_json: bool) -> None:
    from gateway.runtime import gateway_home
    from gateway.training.states import take_step

    entry = take_step(gateway_home(), name, step)
    if as_json:
        print_json({"name": name, "state": str(entry.state)})
    else:
        console.print(f"[green]ok[/] {name} is {entry.state}; a running server follows", highlight=False)


def _told(entry: Entry, outcomes: list[Any]) -> dict[str, Any]:
    from gateway.training.kinds import Record

    seen = [row for row in outcomes if row.created >= entry.since]
    return {
        "name": entry.full_name,
        "state": str(entry.state),
        "share": entry.share,
        "kinds": len(entry.kinds),
        "pairs": entry.data.get("trained_on", entry.data.get("examples", 0)),
        "gate": vars(entry.record),
        "compared": vars(Record.of([(row.right, row.before) for row in seen])),
        "why": entry.why,
        "created": entry.created,
    }


def _plot(path: Path, entries: list[Entry], models: Path, policies: Path, since: float | None) -> None:
    """Raises: GatewayError."""
    from gateway.config.files import read_config
    from gateway.config.trained import trainable_in
    from gateway.training.chart import svg
    from gateway.training.progress import Mark, gather, progress

    config = read_config(models, policies)
    moment = 0.0 if since is None else time.time() - since * 86_400
    names = [file.spec.policy for file in config.policies]
    requests, outcomes = with_database(lambda database: gather(database, trainable_in(config), names, moment))
    marks = [Mark(entry.since, f"{entry.full_name}: {entry.state}") for entry in entries if entry.since]
    found = progress(requests, outcomes, marks)
    if not found.all:
        raise GatewayError("there are no requests to draw")
    try:
        path.write_text(svg(found))
    except OSError as exc:
        raise GatewayError(f"cannot write {path}: {exc.strerror}") from None
    console.print(f"[green]ok[/] {path}: {len(requests)} requests, {len(outcomes)} compared", highlight=False)
