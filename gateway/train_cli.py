"""`gateway train`: what there is to learn from, and an adapter trained on it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.errors import GatewayError
from gateway.terminal import MODELS, POLICIES, AsJson, Models, Policies, console, errors, print_json

if TYPE_CHECKING:
    from gateway.config.files import Config
    from gateway.training.curate import Curated
    from gateway.training.kinds import Kind
    from gateway.training.pairs import Pair

SHOWN_CHARS = 60
SHORTEST_ID = 8  # letters of a cluster's id that are shown


def train(
    model: Annotated[str, typer.Option(help="The local model that is trained.")] = "core",
    cluster: Annotated[
        list[str] | None, typer.Option(help="Kinds of requests to learn, by their ids (see --dry-run).")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Train on this file of chats, in place of kept requests.")] = None,
    name: Annotated[str, typer.Option(help="Of the adapter.")] = "ft",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what there is to learn from.")] = False,
    export: Annotated[Path | None, typer.Option(help="Write the chats to this file (.jsonl), and stop.")] = None,
    scrub: Annotated[bool, typer.Option(help="Take addresses and numbers of people out.")] = False,
    but: Annotated[
        list[Path] | None, typer.Option(help="Leave out what is asked in these files (.jsonl), which you measure with.")
    ] = None,
    merged: Annotated[
        str | None, typer.Option("--merge", help="Write a model and its trained adapter as one GGUF file, by its name.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Of --merge: the file.")] = None,
    kind: Annotated[str, typer.Option("--type", help="Of --merge: f32, f16, q8_0 or q4_k_m.")] = "q8_0",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A setting, such as epochs=5 or rank=8.")] = None,
    models: Models = MODELS,
    policies: Policies = POLICIES,
    as_json: AsJson = False,
) -> None:
    """Train an adapter of a local model on what larger models answered, or on a file of chats."""
    from gateway.config.files import read_config
    from gateway.config.trained import trainables_of
    from gateway.runtime import gateway_home
    from gateway.training.kinds import Kind
    from gateway.training.pairs import FEWEST, read_pairs, written

    home, config = gateway_home(), read_config(models, policies)
    if merged is not None:
        _merge(home, config, merged, out, kind)
        return
    if file is not None:
        if not file.is_file():
            raise typer.BadParameter(f"there is no file {file}", param_hint="--file")
        pairs, kinds = read_pairs(file.read_bytes(), "--file"), []
    else:
        found = asyncio.run(curated(config, home, scrub, but or []))
        if dry_run:
            show(found, as_json)
            return
        chosen = _chosen(found, cluster or [])
        pairs = [pair for one in chosen for pair in one.pairs]
        kinds = [Kind.of(one.cluster, len(one.pairs)) for one in chosen if one.pairs]
    if export is not None:
        export.write_bytes(written(pairs))
        errors.print(f"[green]ok[/] {len(pairs)} chats in {export}", highlight=False)
        return
    if dry_run:
        console.print(f"{len(pairs)} chats", highlight=False)
        return
    if len(pairs) < FEWEST:
        raise GatewayError(f"there are {len(pairs)} chats to learn from, and {FEWEST} are needed at least")
    path = trainables_of(config, home).files.get(model)
    if path is None:
        raise GatewayError(f"'{model}' cannot be trained: it is no GGUF model of llama.cpp whose file is here")
    told = asyncio.run(_train(home, path, model, name, pairs, kinds, _settings(set_ or []), is_quiet=as_json))
    if as_json:
        print_json(told)
    else:
        loss = told["training"]
        console.print(f"[green]ok[/] {told['model']}: call it by this name", highlight=False)
        if "held_out_loss" in loss:
            console.print(f"loss on what was held out: {loss['held_out_loss_before']} → {loss['held_out_loss']}")


def _merge(home: Path, config: Config, name: str, out: Path | None, kind: str) -> None:
    """Raises: GatewayError, BadParameter."""
    from gateway.config.trained import trainables_of
    from gateway.training.merge import TYPES, merge
    from gateway.training.process import ADAPTER
    from gateway.training.registry import entry_of, folder_of

    if out is None:
        raise typer.BadParameter("say where to: --out merged.gguf", param_hint="--merge")
    if kind not in TYPES:
        raise typer.BadParameter(f"one of {', '.join(TYPES)}", param_hint="--type")
    entry = entry_of(home, name)
    base = trainables_of(config, home).files.get(entry.model)
    if base is None:
        raise GatewayError(f"the file of '{entry.model}' is not here")
    size = merge(base, folder_of(home, entry) / ADAPTER, out, kind)
    console.print(f"[green]ok[/] {out}: {size / 2**20:.0f} MiB", highlight=False)


async def curated(config: Config, home: Path, scrubs: bool, but: list[Path]) -> list[Curated]:
    """Of the requests that were kept."""
    from gateway.config.trained import undistillable
    from gateway.quality.same import plain
    from gateway.runtime import Runtime
    from gateway.shards.lessons import Lessons
    from gateway.store.database import open_database
    from gateway.training.curate import Rules, vectors_of
    from gateway.training.curate import curate as run
    from gateway.training.pairs import read_pairs

    measured = {
        plain(str(message.get("content") or ""))
        for path in but
        for pair in read_pairs(path.read_bytes(), "--but")
        for message in pair.messages
        if message["role"] == "user"
    }
    database = await open_database(home, config.settings.database_url)
    runtime = Runtime(home)
    try:
        lessons = await Lessons(database).find(limit=20_000)
        tasks, questions = await vectors_of(lessons, runtime.embeddings)
    finally:
        await runtime.embeddings.close()
        runtime.minilm.close()
        await database.close()
    return run(lessons, tasks, questions, Rules(undistillable(config), scrubs, frozenset(measured)))


def show(found: list[Curated], as_json: bool) -> None:
    if as_json:
        print_json([_as_json(one) for one in found])
        return
    table = Table("id", "chats", "by people", "left out", "task")
    for one in found:
        left = ", ".join(f"{count} {why}" for why, count in one.left_out.most_common())
        task = " ".join(one.cluster.task.split())[:SHOWN_CHARS]
        table.add_row(one.cluster.id[:SHORTEST_ID], str(len(one.pairs)), str(one.demonstrated), left, escape(task))
    console.print(table if found else "nothing is kept to learn from: say 'learn: true' in a policy")


def _as_json(one: Curated) -> dict[str, Any]:
    return {
        "id": one.cluster.id,
        "policy": one.cluster.policy,
        "tenant": one.cluster.tenant,
        "chats": len(one.pairs),
        "by_people": one.demonstrated,
        "left_out": dict(one.left_out),
        "task": one.cluster.task,
    }


def _chosen(found: list[Curated], wanted: list[str]) -> list[Curated]:
    """Raises: BadParameter."""
    if not wanted:
        return found
    chosen = []
    for id in wanted:
        meant = [one for one in found if one.cluster.id.startswith(id)]
        if len(meant) != 1:
            raise typer.BadParameter(f"{len(meant)} kinds of requests begin with '{id}'", param_hint="--cluster")
        chosen += meant
    return chosen


def _settings(said: list[str]) -> dict[str, float]:
    """Raises: BadParameter."""
    found = {}
    for one in said:
        name, _, value = one.partition("=")
        try:
            found[name] = float(value) if "." in value or "e" in value else int(value)
        except ValueError:
            raise typer.BadParameter(f"'{one}' is not like epochs=5", param_hint="--set") from None
    return found


async def _train(
    home: Path,
    path: Path,
    model: str,
    name: str,
    pairs: list[Pair],
    kinds: list[Kind],
    said: dict[str, float],
    *,
    is_quiet: bool,
) -> dict[str, Any]:
    """Raises: GatewayError."""
    from gateway.trace import new_id
    from gateway.training.adopting import adopt
    from gateway.training.jobs import name_of, parted
    from gateway.training.pairs import digest_of
    from gateway.training.process import put
    from gateway.training.process import train as run
    from gateway.training.settings import settings_for

    settings, id = settings_for(len(pairs), said), new_id()
    learned, held_out = parted(pairs, settings)
    folder = home / "training" / id
    put(folder, learned, held_out)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, disable=is_quiet, transient=True) as progress:
        task = progress.add_task("loading the model", total=None, told="")

        def tell(event: dict[str, Any]) -> None:
            if event["event"] == "step":
                told = f"loss {event['loss']:.3f}, {event['tokens_per_s']:.0f} tokens/s, {event['left_s']} s left"
                progress.update(task, description="training", completed=event["step"], total=event["steps"], told=told)

        report = await run(path, folder, settings, tell)
    counts = {"examples": len(learned), "held_out": len(held_out), "digest": digest_of(learned)}
    data = {**counts, "clusters": [kind.id for kind in kinds]}
    own, more = name_of(name, id), {"kinds": tuple(kinds)}
    entry = adopt(home, folder, model=model, name=own, base=path, data=data, settings=settings, report=report, **more)
    return {**entry.as_json(), "model": entry.full_name}
