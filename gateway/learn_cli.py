"""`gateway learn …` and `gateway replay`: thin functions over gateway/learning."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.adapters_cli import adapters, promote, rollback
from gateway.errors import GatewayError
from gateway.terminal import MODELS, POLICIES, AsJson, Models, Policies, bar, console, print_json, with_database

app = typer.Typer(help="Learned numbers, from the journal and what people said of answers.")
JOURNAL = "journal"


@app.callback(invoke_without_command=True)
def learn(
    context: typer.Context,
    since: Annotated[float | None, typer.Option(min=0, help="Only the requests of the last so many days.")] = None,
    share: Annotated[
        list[str] | None, typer.Option(help="NAME=0.2: so many requests are to lie above learned.NAME.")
    ] = None,
    workload: Annotated[
        Path | None, typer.Option(help="Recorded requests (.jsonl, .jsonl.gz) to learn the router from.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change; write nothing.")] = False,
    models: Models = MODELS,
    policies: Policies = POLICIES,
    as_json: AsJson = False,
) -> None:
    """Learn from the journal: fit on the older requests, try on the newer ones, write what is no worse."""
    if context.invoked_subcommand is not None:
        return
    from gateway.config.files import read_config
    from gateway.learned_files import Learned
    from gateway.learning.recorded import read_workload
    from gateway.learning.report import show_fitted
    from gateway.learning.run import learn as run
    from gateway.learning.run import parse_shares
    from gateway.runtime import gateway_home

    home = gateway_home()
    moment = 0.0 if since is None else time.time() - since * 86_400
    config = read_config(models, policies)
    recorded = list(read_workload(workload)) if workload is not None else []
    lesson = asyncio.run(run(config, home, since=moment, shares=parse_shares(share or []), workload=recorded))
    learned = Learned(home)
    changes = {file.name: learned.diff(file) for file in lesson.files}
    if not dry_run and lesson.files:
        learned.write(lesson.files)
    if as_json:
        told = [{"file": one.name, "rows": one.rows, "refused": one.why_not, **_held_out(one)} for one in lesson.fitted]
        print_json(
            {"requests": len(lesson.evidence.rows), "files": told, "written": not dry_run and bool(lesson.files)}
        )
        return
    console.print(f"{len(lesson.evidence.rows)} requests, {len(lesson.evidence.ratings)} ratings", highlight=False)
    show_fitted(lesson.fitted, console)
    if not lesson.fitted:
        console.print("nothing to learn yet: no checks have judged anything")
    if dry_run:
        for name, change in changes.items():
            if name != "report":
                console.print(change, markup=False, highlight=False, soft_wrap=True)


def _held_out(one: Any) -> dict[str, Any]:
    return {"held_out": one.held_out.as_json()} if one.held_out is not None else {}


@app.command()
def probe(
    model: Annotated[str, typer.Argument(help="A model of models.yaml.")],
    prompts: Annotated[Path | None, typer.Option(help="Your own questions, in place of those shipped.")] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="So many of them, of all topics alike.")] = 128,
    judge: Annotated[str | None, typer.Option(help="A model that judges questions without an accepted answer.")] = None,
    max_cost_usd: Annotated[float | None, typer.Option(min=0, help="Stop before more is spent.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer: more for models that think before they speak.")
    ] = None,
    models: Models = MODELS,
    policies: Policies = POLICIES,
    as_json: AsJson = False,
) -> None:
    """Ask a new model questions whose answers are known: what it is good at, what it costs and how long it takes."""
    from gateway.config.files import read_config
    from gateway.learned_files import Learned
    from gateway.learning.probe_prompts import chosen, read_prompts, shipped
    from gateway.learning.probing import run_probe
    from gateway.learning.report import probed_as_json, show_probed
    from gateway.runtime import gateway_home

    home, config = gateway_home(), read_config(models, policies)
    asked = chosen(read_prompts(prompts) if prompts is not None else shipped(), n)
    if max_tokens is not None:
        asked = [one.model_copy(update={"max_tokens": max_tokens}) for one in asked]
    with bar("asking", is_quiet=as_json) as step:
        probed, written = asyncio.run(
            run_probe(config, home, model, asked, judge=judge, max_cost_usd=max_cost_usd, step=step)
        )
    Learned(home).write(written)
    if as_json:
        print_json(probed_as_json(probed))
    else:
        show_probed(probed, console)


app.command()(adapters)
app.command()(promote)
app.command()(rollback)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show what is learned, from how much, and whether it is in use."""
    from gateway.learned_files import Learned
    from gateway.learning.report import show_status, status_of
    from gateway.runtime import gateway_home

    learned = Learned(gateway_home())
    rows, former = status_of(learned, time.time()), len(learned.history())
    if as_json:
        print_json({"files": rows, "former": former})
    else:
        show_status(rows, former, console)


@app.command()
def revert(
    steps: Annotated[int, typer.Argument(min=1, metavar="[N]", help="So many writes back.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Go back to what was learned before; a running server follows."""
    from gateway.learned_files import Learned
    from gateway.runtime import gateway_home

    names = Learned(gateway_home()).revert(steps)
    if as_json:
        print_json({"files": names})
    else:
        console.print(f"[green]ok[/] now: {', '.join(names) or 'nothing learned'}", highlight=False)


def replay(
    source: Annotated[str, typer.Argument(help="A workload (.jsonl, .jsonl.gz), or the word journal.")],
    policy: Annotated[Path, typer.Option(help="A policy's file.")],
    models: Annotated[Path | None, typer.Option(help="A models file; for the journal, models.yaml.")] = None,
    against: Annotated[str | None, typer.Option(help="Another policy's file, or current.")] = None,
    policies: Policies = POLICIES,
    local: Annotated[list[str] | None, typer.Option(help="A model that counts as local too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run recorded requests under another policy: cost, latency, escalations and quality, with intervals."""
    from gateway.learning import replay as replaying
    from gateway.learning.recorded import read_workload
    from gateway.learning.replay_report import show
    from gateway.runtime import gateway_home

    for path in (policy, *([Path(against)] if against not in (None, "current") else [])):
        if not path.is_file():
            raise typer.BadParameter(f"there is no file {path}", param_hint="--policy")
    is_journal = source == JOURNAL
    if is_journal:
        models = models or MODELS
        recordings = _from_journal(models, policies)
    else:
        recordings = list(read_workload(Path(source)))
    if not recordings:
        raise GatewayError(f"there are no recorded requests in {source}")
    names = {name for recording in recordings for name in recording.outcomes}
    chosen = [policy]
    if against is not None:
        chosen.append(policies if against == "current" else Path(against))
    runs, locals_ = [], set(local or ())
    for path in chosen:
        config = replaying.config_for(models, path, names)
        which = replaying.policy_in(config)
        locals_ |= replaying.local_models(config)
        with bar("replaying", is_quiet=as_json) as step:
            name = path.stem if path.is_file() else f"current {which}"
            runs.append(replaying.play(config, gateway_home(), recordings, which, step, name))
    others = [*runs[1:], *([replaying.as_it_was(recordings)] if is_journal else []), *replaying.baselines(recordings)]
    report = {
        "source": source,
        "runs": [replaying.summary(run, frozenset(locals_)) for run in (runs[0], *others)],
        "differences": [replaying.compared(runs[0], other) for other in others],
    }
    if as_json:
        print_json(report)
    else:
        show(report, console)


def _from_journal(models: Path, policies: Path) -> list[Any]:
    from gateway.config.build import build
    from gateway.config.files import read_config
    from gateway.learning.evidence import gather, judges_in, recordings_of
    from gateway.runtime import Runtime, gateway_home

    gateway = build(read_config(models, policies), Runtime(gateway_home()))
    return recordings_of(with_database(gather), judges_in(gateway.policies.values()))
