"""`gateway shards …`: one thin function per verb. They work on the database, beside a running server or without one;
`test` starts the reader itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from gateway.errors import GatewayError, NotFound
from gateway.terminal import MODELS, POLICIES, AsJson, Models, Policies, bar, console, errors, print_json, with_database

T = TypeVar("T")
app = typer.Typer(help="Shards: short texts, proven on the small model that is given them.", no_args_is_help=True)

Tenant = Annotated[str, typer.Option(help="Name of the key whose shards they are; none: the operator's.")]
Everybody = Annotated[bool, typer.Option("--global", help="For all keys, and not only for one.")]
CONVERSATIONS = (".jsonl", ".jsonl.gz")


@app.command()
def add(
    paths: Annotated[
        list[Path], typer.Argument(help="Documents, folders of them, or past conversations (.jsonl, .gz).")
    ],
    everybody: Everybody = False,
    tenant: Tenant = "",
    as_json: AsJson = False,
) -> None:
    """Read documents into facts, and past conversations into memories. Read again, only what changed changes."""
    from gateway.shards import Scope, Trust
    from gateway.shards.reading.documents import Skipped, read_documents
    from gateway.shards.reading.ingest import Ingested, ingest_conversations, ingest_one, like_of
    from gateway.shards.store import ShardStore
    from gateway.trace import new_id

    missing = [path for path in paths if not path.exists()]
    if missing:
        raise typer.BadParameter(f"there is no {missing[0]}", param_hint="PATHS")
    talks = [path for path in paths if path.name.endswith(CONVERSATIONS)]
    texts = [path for path in paths if path not in talks]
    scope = Scope.GLOBAL if everybody else Scope.TENANT
    like = like_of(new_id(), tenant, scope, trust=Trust.OPERATOR)
    report = Ingested(like.lot)

    async def run(store: ShardStore) -> None:
        found = await asyncio.to_thread(lambda: list(read_documents(texts)))
        with bar("reading", as_json) as step:
            for n, document in enumerate(found):
                step(n, len(found))
                if isinstance(document, Skipped):
                    report.skipped.append(document)
                else:
                    await ingest_one(store, document, like, report)
        for path in talks:
            await ingest_conversations(store, path, tenant, report)

    _with_store(run)
    if as_json:
        print_json(report.as_json())
        return
    for one in report.skipped:
        errors.print(f"[yellow]skipped[/] {escape(str(one))}", highlight=False, soft_wrap=True)
    facts = f"{report.added} added, {report.kept} unchanged, {report.superseded} gone"
    console.print(f"[green]ok[/] {report.documents} documents: {facts}", highlight=False)
    if report.suspicious:
        waiting = "`gateway shards list --state candidate` shows them, `approve` lets them go on"
        console.print(
            f"{report.suspicious} read like orders to a model and wait for approval: {waiting}", soft_wrap=True
        )
    if report.added:
        console.print("candidates are given to nobody before `gateway shards test`, which a running server does itself")


@app.command(name="list")
def list_shards(
    kind: Annotated[str | None, typer.Option(help="process, content or memory.")] = None,
    state: Annotated[str | None, typer.Option(help="candidate, trial, live or retired.")] = None,
    source: Annotated[str | None, typer.Option(help="Only from there.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the latest changed last.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List shards, and how they stand with their readers."""
    from gateway.shards import Kind, Standing, State
    from gateway.shards.outside import shown
    from gateway.shards.store import ShardStore, Where

    for given, known, option in ((kind, Kind, "--kind"), (state, State, "--state")):
        if given is not None and given not in list(known):
            raise typer.BadParameter(f"there are: {', '.join(known)}", param_hint=option)
    where = Where(kind=kind, states=(State(state),) if state else None, source=source)

    async def run(store: ShardStore) -> tuple[list[Any], list[Standing], dict[tuple[str, str], int]]:
        found = (await store.find(where))[-limit:]
        return found, await store.standings([shard.id for shard in found]), await store.counts()

    found, standings, counts = _with_store(run)
    if as_json:
        print_json([shown(shard, standings) for shard in found])
        return
    table = Table("id", "kind", "state", "readers", "text", box=None)
    for shard in found:
        readers = ", ".join(f"{one.reader} {one.state}" for one in standings if one.shard == shard.id)
        text = (shard.fact or shard.title or shard.trigger).replace("\n", " ")[:70]
        table.add_row(
            shard.id, shard.kind, f"{shard.state}{' (review)' if shard.needs_review else ''}", readers, escape(text)
        )
    console.print(table)
    totals = ", ".join(f"{count} {state} {kind}" for (kind, state), count in sorted(counts.items()))
    console.print(totals or "no shards yet: `gateway shards add FILES` reads documents", highlight=False)


@app.command()
def show(id: Annotated[str, typer.Argument(help="Its id, or the beginning of it.")]) -> None:
    """Show a shard: all of it, and its evidence."""
    from gateway.shards.outside import shown
    from gateway.shards.store import ShardStore

    async def run(store: ShardStore) -> Any:
        shard = await store.one(id)
        return shown(shard, await store.standings([shard.id]))

    print_json(_with_store(run))


@app.command()
def search(
    query: Annotated[str, typer.Argument(help="What a user would ask.")],
    reader: Annotated[str | None, typer.Option(help="A model; else the first one that is given shards.")] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    tenant: Tenant = "",
    user: Annotated[str | None, typer.Option(help="A user, whose memories count.")] = None,
    models: Models = MODELS,
    policies: Policies = POLICIES,
    as_json: AsJson = False,
) -> None:
    """Show what would be considered for a request, and why each shard is in or out."""
    from gateway.chat import ChatRequest
    from gateway.shards.orders import Reader, Wanted
    from gateway.shards.rendering import Size

    async def run() -> list[dict[str, Any]]:
        async with _opened(models, policies) as (gateway, opened):
            await opened.workshop.embed()
            subjects = {one.reader.name: one for one in gateway.orders.subjects}
            if reader is not None and reader not in subjects:
                raise NotFound(f"'{reader}' is no reader of shards; there are: {', '.join(subjects) or 'none'}")
            first = next(iter(subjects.values()), None)
            subject = subjects[reader] if reader is not None else first
            asked = [{"role": "system", "content": system}] if system else []
            body = {"messages": [*asked, {"role": "user", "content": query}], "user": user}
            choice = await opened.shelf.choose(
                ChatRequest(body, key=tenant or None), subject.reader if subject else Reader("", Size.TINY), Wanted()
            )
            texts = await opened.store.get_many([one.shard for one in choice.considered])
            return [
                {**one.as_json(), "text": texts[one.shard].fact or texts[one.shard].trigger}
                for one in choice.considered
            ]

    found = asyncio.run(run())
    if as_json:
        print_json(found)
        return
    table = Table("", "likeness", "text", "why", box=None)
    for one in found:
        mark = "[green]in[/]" if one["in"] else "out"
        table.add_row(mark, str(one.get("cosine", "")), escape(one["text"][:70]), escape(one["why"]))
    console.print(table if found else "nothing was found")


@app.command()
def test(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Else all that this reader was not tested with.")
    ] = None,
    reader: Annotated[str | None, typer.Option(help="A model; else all that policies give shards to.")] = None,
    models: Models = MODELS,
    policies: Policies = POLICIES,
    as_json: AsJson = False,
) -> None:
    """Replay a shard's requests on its reader, without it and with it: what helps and harms nothing is admitted."""
    from gateway.shards.proving.by_hand import prove_all

    async def run() -> list[dict[str, Any]]:
        async with _opened(models, policies) as (gateway, opened):
            with bar("testing", as_json) as step:
                return await prove_all(opened, gateway.orders.subjects, ids, reader, step)

    results = asyncio.run(run())
    if as_json:
        print_json(results)
        return
    if not results:
        console.print("nothing to test")
    for one in results:
        _show_result(one)


def _show_result(one: dict[str, Any]) -> None:
    color = "green" if one["admitted"] else "yellow"
    console.print(f"[{color}]{one['state']}[/] for {one['reader']}: {escape(one['text'][:80])}", highlight=False)
    lift = f"lift {one['lift']:+.2f} ({one['lift_low']:+.2f} to {one['lift_high']:+.2f})" if "lift" in one else ""
    passes = f"{one['passed_without']} of {one['cases']} right without, {one['passed_with']} with"
    harm = f"{one.get('harmed', one.get('regressed', 0))} harmed, {one['tokens_added']:.0f} tokens added"
    console.print(f"  {'; '.join(filter(None, (passes, lift, harm)))}", highlight=False)
    console.print(f"  {escape(one['why'])}", highlight=False)


@app.command()
def approve(ids: Annotated[list[str], typer.Argument(help="Ids, or their beginnings.")]) -> None:
    """Say that a person has read them. They still have to be proven."""
    from gateway.shards.reviewing import approve as approved

    _change(ids, approved, "approved")


@app.command()
def reject(ids: Annotated[list[str], typer.Argument(help="Ids, or their beginnings.")]) -> None:
    """Retire candidates that are not wanted."""
    from gateway.shards.reviewing import take_back

    _change(ids, lambda store, shard: take_back(store, shard, "rejected"), "rejected")


@app.command()
def retire(ids: Annotated[list[str], typer.Argument(help="Ids, or their beginnings.")]) -> None:
    """Give them to nobody any more; subscribers hear of it."""
    from gateway.shards.reviewing import take_back

    _change(ids, lambda store, shard: take_back(store, shard, "retired by hand"), "retired")


@app.command(name="import")
def import_(
    paths: Annotated[
        list[Path], typer.Argument(help="Bundles (.shards), folders with a SKILL.md, shards in YAML or JSON.")
    ],
    everybody: Everybody = False,
    tenant: Tenant = "",
    force: Annotated[bool, typer.Option(help="Also a bundle that is older than the one that is here.")] = False,
    models: Models = MODELS,
    policies: Policies = POLICIES,
    as_json: AsJson = False,
) -> None:
    """Take in signed bundles of publishers that models.yaml trusts, and Agent Skills."""
    from gateway.config.files import read_config
    from gateway.runtime import gateway_home
    from gateway.shards import Scope
    from gateway.shards.outside import written_in
    from gateway.shards.reading.ingest import like_of, screen
    from gateway.shards.reading.skills import read_skill
    from gateway.shards.sharing.adopting import Receiver
    from gateway.shards.sharing.bundle import import_bundle
    from gateway.shards.sharing.signing import trusted_keys
    from gateway.shards.store import ShardStore

    scope = Scope.GLOBAL if everybody else Scope.TENANT
    said = read_config(models, policies).settings.shards
    trusted = trusted_keys((*said.trust, *(one.publisher for one in said.subscribe)))
    receiver, home = Receiver(tenant, scope), gateway_home()

    async def run(store: ShardStore) -> list[dict[str, Any]]:
        out: list[dict[str, Any]] = []
        for path in paths:
            if path.suffix == ".shards":
                data = await asyncio.to_thread(path.read_bytes)
                taken = await import_bundle(store, data, home=home, trusted=trusted, receiver=receiver, force=force)
                out.append({"file": str(path), **asdict(taken)})
            elif path.suffix in (".yaml", ".yml", ".json"):
                written = [replace(one, tenant=tenant, scope=scope) for one in written_in(path) if one.user is None]
                stored = await store.put([screen(one) for one in written])
                out.append({"file": str(path), "new": len(stored), "ids": [shard.id for shard in stored]})
            else:
                skill = read_skill(path, like_of("", tenant, scope))
                [shard] = await store.put([screen(replace(skill.shard, author="hand"))])
                out.append({"file": str(path), "new": 1, "id": shard.id, "left_out": list(skill.left_out)})
        return out

    try:
        report = _with_store(run)
    except OSError as exc:
        raise GatewayError(f"cannot read {exc.filename}: {exc.strerror}") from None
    if as_json:
        print_json(report)
        return
    for one in report:
        counts = ", ".join(
            f"{one[name]} {name}" for name in ("new", "changed", "unchanged", "withdrawn") if one.get(name)
        )
        console.print(f"[green]ok[/] {escape(one['file'])}: {counts or 'nothing new'}", highlight=False, soft_wrap=True)
        for left in one.get("left_out", ()):
            console.print(f"  left out: {escape(left)}", highlight=False)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="Name of the bundle.")],
    version: Annotated[str, typer.Option("--bundle-version", help="Such as 1.2; importers refuse older ones.")] = "1",
    out: Annotated[Path, typer.Option(help="The folder it goes to.")] = Path(),
    skills: Annotated[
        bool, typer.Option("--skills", help="Process shards as Agent Skills, in folders, unsigned.")
    ] = False,
    kind: Annotated[str | None, typer.Option(help="process, content or memory.")] = None,
    source: Annotated[str | None, typer.Option(help="Only from there.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this key's.")] = None,
    user: Annotated[str | None, typer.Option(help="This user's own too; wants --tenant.")] = None,
) -> None:
    """Write a signed bundle that other gateways can import."""
    from gateway.runtime import gateway_home
    from gateway.shards import Kind, State
    from gateway.shards.reading.skills import skill_name, write_skill
    from gateway.shards.sharing.bundle import export as written
    from gateway.shards.sharing.bundle import save
    from gateway.shards.sharing.signing import own_signer
    from gateway.shards.store import ShardStore, Where

    where = Where(kind=kind, source=source, tenant=tenant, user=user)
    signer = own_signer(gateway_home())

    async def run(store: ShardStore) -> list[Path]:
        if not skills:
            return [save(out, name, await written(store, where, name=name, version=version, signer=signer))]
        paths, taken = [], set[str]()
        for shard in await store.find(replace(where, kind=str(Kind.PROCESS))):
            if shard.state is not State.RETIRED and not shard.needs_review:
                paths.append(write_skill(shard, out, taken))
                taken.add(skill_name(shard, taken))
        return paths

    for path in _with_store(run):
        console.print(f"[green]ok[/] {escape(str(path))}", highlight=False, soft_wrap=True)
    if not skills:
        console.print(f"signed with {signer.public}: who imports it names this key under shards.trust", soft_wrap=True)


@app.command()
def pull(models: Models = MODELS, policies: Policies = POLICIES, as_json: AsJson = False) -> None:
    """Fetch what has changed at the gateways under shards.subscribe."""

    async def run() -> dict[str, Any]:
        async with _opened(models, policies) as (gateway, opened):
            sources = gateway.orders.sharing.sources
            return {name: asdict(one) for name, one in (await opened.subscriptions.pull(sources)).items()}

    report = asyncio.run(run())
    if as_json:
        print_json(report)
        return
    if not report:
        console.print("models.yaml names no gateway under shards.subscribe")
    for name, one in report.items():
        counts = ", ".join(f"{one[key]} {key}" for key in ("new", "changed", "withdrawn", "refused") if one.get(key))
        console.print(f"[green]ok[/] {escape(name)}: {counts or 'nothing new'}", highlight=False)


def _change(ids: Sequence[str], change: Callable[[Any, Any], Coroutine[Any, Any, Any]], done: str) -> None:
    from gateway.shards.store import ShardStore

    async def run(store: ShardStore) -> list[Any]:
        return [await change(store, await store.one(id)) for id in ids]

    for shard in _with_store(run):
        console.print(f"{done} {shard.id}", highlight=False)


def _with_store(action: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    from gateway.shards.store import ShardStore

    return with_database(lambda database: action(ShardStore(database)))


@asynccontextmanager
async def _opened(models: Path, policies: Path) -> AsyncIterator[tuple[Any, Any]]:
    """A gateway that serves nobody: its local models start when they are asked."""
    from gateway.config.build import build
    from gateway.config.files import read_config
    from gateway.live import Live
    from gateway.runtime import Runtime, gateway_home

    runtime = Runtime(gateway_home())
    config = read_config(models, policies)
    gateway = build(config, runtime)
    Live(gateway, runtime.pool)
    try:
        await runtime.start(database_url=config.settings.database_url)
        assert runtime.bookcase.opened is not None
        yield gateway, runtime.bookcase.opened
    finally:
        await runtime.close()
