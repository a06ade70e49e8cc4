"""The command `gateway`: one thin function per verb. Exit 2 for bad usage, 1 for failure."""

from __future__ import annotations

import asyncio
import errno
import gc
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway import __version__
from gateway.backup_cli import backup, restore
from gateway.errors import ConfigError, GatewayError
from gateway.evals_cli import app as evals_app
from gateway.keys_cli import keys_app
from gateway.learn_cli import app as learn_app
from gateway.learn_cli import replay
from gateway.report_cli import report
from gateway.shards_cli import app as shards_app
from gateway.telemetry.logs import Format, Level
from gateway.terminal import MODELS, POLICIES, AsJson, Models, Policies, console, errors, print_json, with_database
from gateway.train_cli import train

app = typer.Typer(help="Onion Gateway: small local models first, larger ones when needed.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(shards_app, name="shards")
app.add_typer(learn_app, name="learn")
app.add_typer(evals_app, name="eval")
app.command()(replay)
app.command()(train)
app.command()(report)
app.command()(backup)
app.command()(restore)


def main() -> None:
    """Entry point: our own errors become one clear line and exit status 1."""
    try:
        app()
    except ConfigError as exc:
        for problem in exc.problems:
            errors.print(f"[red]error[/] {escape(str(problem))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except GatewayError as exc:
        errors.print(f"[red]error[/] {escape(exc.message)}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        where = f"{exc.filename}: " if exc.filename else ""
        errors.print(f"[red]error[/] {escape(f'{where}{exc.strerror}')}", highlight=False, soft_wrap=True)
        sys.exit(1)


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"onion-gateway {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    models: Models = MODELS,
    policies: Policies = POLICIES,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    uds: Annotated[Path | None, typer.Option(help="Unix socket to listen on instead.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes that answer requests.")] = 1,
    insecure: Annotated[bool, typer.Option(help="Serve other machines without API keys.")] = False,
    root_path: Annotated[str, typer.Option(help="Path under which a reverse proxy shows it, such as /llm.")] = "",
    trusted_proxies: Annotated[
        list[str] | None, typer.Option(help="Address or network of a proxy whose X-Forwarded-* are believed, or unix.")
    ] = None,
    grace_s: Annotated[float, typer.Option(min=0, help="Seconds for open requests when it is told to stop.")] = 30.0,
    log_format: Annotated[Format, typer.Option(help="Lines of the log: text, or one JSON object each.")] = "text",
    log_level: Annotated[
        Level, typer.Option(help="Of the gateway's own log; SIGUSR1 switches to debug and back.")
    ] = "info",
    access_log: Annotated[bool, typer.Option("--access-log", help="Log each request.")] = False,
) -> None:
    """Serve. Model files that are missing are fetched first."""
    gc.disable()  # until all is imported, which would be looked through again and again
    from gateway.api.paths import is_root_path
    from gateway.config.files import Config
    from gateway.pull import pull_models
    from gateway.reload import Files
    from gateway.runtime import gateway_home
    from gateway.serve import Address, Options
    from gateway.serve import serve as run
    from gateway.transport import is_network

    home = gateway_home()
    trusted = tuple(part.strip() for given in trusted_proxies or () for part in given.split(","))
    for text in trusted:
        if not is_network(text):
            raise typer.BadParameter(f"'{text}' is no address, no network and not unix", param_hint="--trusted-proxies")
    if not is_root_path(root_path):
        raise typer.BadParameter(
            "wants a path such as /llm that is none of the gateway's own", param_hint="--root-path"
        )

    def fetch(config: Config, is_unwanted: Callable[[], bool]) -> None:
        pull_models(config, home, None, errors, is_unwanted)

    options = Options(insecure, grace_s, root_path, trusted, log_format, log_level, access_log, workers)
    run(Files(models, policies, fetch, home / "learned"), home, Address(host, port, uds), errors, options)


@app.command()
def init(
    models: Models = MODELS,
    policies: Policies = POLICIES,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Answer yes; what is overwritten is kept.")] = False,
    force: Annotated[bool, typer.Option(help="Overwrite without asking; the old is kept as FILE.bak-N.")] = False,
    search: Annotated[list[Path] | None, typer.Option(help="Look for model files here too.")] = None,
    probe: Annotated[bool, typer.Option(help="Ask servers here and providers of keys.")] = True,
    as_json: AsJson = False,
) -> None:
    """Find model files, model servers and API keys, and write models.yaml and a policy."""
    from gateway.runtime import gateway_home
    from gateway.setup.discover import Machine
    from gateway.setup.init import Targets, ask
    from gateway.setup.init import init as run

    machine = Machine.this(gateway_home(), tuple(search or ()), probes=probe)
    confirm = ask if sys.stdin.isatty() and not as_json else None
    out = Console(quiet=True) if as_json else console
    done = run(machine, Targets(models, policies), out, confirm=confirm, overwrites=yes or force)
    if as_json:
        print_json(done)


@app.command()
def connect(
    client: Annotated[str, typer.Argument(help="openai-python, claude-code, zed, …: another word lists all.")],
    test: Annotated[bool, typer.Option("--test", help="Try it, and each surface that the client asks for.")] = False,
    url: Annotated[str, typer.Option(help="The gateway's address.")] = "http://127.0.0.1:8080",
    key: Annotated[str | None, typer.Option(help="An API key, if it asks for one.", envvar="GATEWAY_KEY")] = None,
    model: Annotated[str, typer.Option(help="A policy or a model.")] = "auto",
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for one answer.")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Show what to paste into a client; --test tries it against the running gateway."""
    from gateway.setup.clients import Server, clients
    from gateway.setup.connect import connect as run
    from gateway.setup.connect import root_of

    known = clients()
    if client not in known:
        raise typer.BadParameter(f"no client is called '{client}'; there are: {', '.join(known)}")
    try:
        server = Server(root_of(url), model, key or None, timeout_s=timeout)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--url") from None
    report = run(known[client], server, Console(quiet=True) if as_json else console, tests=test)
    if as_json:
        print_json(report)
    if not report["ok"]:
        raise typer.Exit(1)


@app.command()
def check(
    models: Models = MODELS,
    policies: Policies = POLICIES,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schemas of both files instead.")] = False,
    out: Annotated[Path | None, typer.Option(help="With --schema: a folder to write them into.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check models.yaml and the policies: file, line, key, and what to change."""
    if schema:
        _show_schemas(out)
        return
    if out is not None:
        raise typer.BadParameter("goes with --schema", param_hint="--out")
    from gateway.config.build import build
    from gateway.config.files import read_config
    from gateway.runtime import Runtime, gateway_home

    try:
        config = read_config(models, policies)
        gateway = build(config, Runtime(gateway_home()))
    except ConfigError as exc:
        if as_json:
            print_json({"ok": False, "problems": [asdict(problem) for problem in exc.problems]})
            raise typer.Exit(1) from None
        raise
    inactive = {m.name: m.why for m in gateway.models.values() if m.responder is None}
    if as_json:
        warnings = [asdict(warning) for warning in config.warnings]
        print_json({"ok": True, "warnings": warnings, "inactive": inactive})
        return
    for warning in config.warnings:
        console.print(f"[yellow]warning[/] {escape(str(warning))}", highlight=False, soft_wrap=True)
    for name, why in inactive.items():
        console.print(f"[yellow]inactive[/] {name}: {why}", highlight=False, soft_wrap=True)
    count = len({policy.name for policy in gateway.policies.values()})
    console.print(f"[green]ok[/] {len(gateway.models)} models, {count} policies", highlight=False)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document of all routes."""
    from gateway.api.openapi import document

    print_json(document())


def _show_schemas(folder: Path | None) -> None:
    from gateway.config.json_schema import schemas, write_schemas

    if folder is None:
        print_json(schemas())
        return
    try:
        written = write_schemas(folder)
    except OSError as exc:
        raise GatewayError(f"cannot write into {folder}: {exc.strerror}") from None
    for path in written:
        console.print(f"[green]ok[/] {escape(str(path))}", highlight=False, soft_wrap=True)


@app.command()
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[MODEL]...", help="Models to fetch; all by default.")
    ] = None,
    only_list: Annotated[bool, typer.Option("--list", help="Show what lies there; fetch nothing.")] = False,
    models: Models = MODELS,
    policies: Policies = POLICIES,
    as_json: AsJson = False,
) -> None:
    """Fetch and verify model files, or list them."""
    from gateway.config.files import read_config
    from gateway.pull import list_files, pull_models, show
    from gateway.runtime import gateway_home

    config, home = read_config(models, policies), gateway_home()
    fetched = {} if only_list else pull_models(config, home, names, errors, built_in=True)
    if as_json:
        print_json(asdict(list_files(config, home, names)))
        return
    if only_list:
        show(list_files(config, home, names), console)
        return
    if not fetched:
        console.print("no model here has a file to fetch")
    for name, path in fetched.items():
        console.print(f"[green]ok[/] {name}: {escape(str(path))}", highlight=False, soft_wrap=True)


@app.command(name="models")
def list_models(
    url: Annotated[str, typer.Option(help="The gateway's address.", envvar="GATEWAY_URL")] = "http://127.0.0.1:8080",
    key: Annotated[
        str | None, typer.Option(help="An API key, if it asks for one.", envvar=["GATEWAY_API_KEY", "GATEWAY_KEY"])
    ] = None,
    timeline: Annotated[bool, typer.Option("--timeline", help="Draw what was loaded when, from the journal.")] = False,
    hours: Annotated[float, typer.Option(min=0, help="With --timeline: the last so many hours.")] = 24.0,
    out: Annotated[Path, typer.Option(help="With --timeline: the picture.")] = Path("models-timeline.svg"),
    models: Models = MODELS,
    policies: Policies = POLICIES,
    as_json: AsJson = False,
) -> None:
    """Show what the running server has loaded; without one, what models.yaml says."""
    if timeline:
        _draw_timeline(hours, out, as_json)
        return
    from gateway.residency.now import ask, configured, show, show_configured
    from gateway.setup.connect import root_of

    try:
        root = root_of(url)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--url") from None
    told = asyncio.run(ask(root, key or None))
    if told is not None:
        if as_json:
            print_json({"server": root, **told})
        else:
            show(told, console)
        return
    from gateway.config.build import build
    from gateway.config.files import read_config
    from gateway.runtime import Runtime, gateway_home

    rows = configured(build(read_config(models, policies), Runtime(gateway_home())))
    if as_json:
        print_json({"server": None, "models": rows})
    else:
        show_configured(rows, root, console)


def _draw_timeline(hours: float, out: Path, as_json: bool) -> None:
    from gateway.residency.history import read_timeline, show_timeline, write_svg

    until = time.time()
    found = with_database(lambda database: read_timeline(database, until - hours * 3600, until))
    if found is not None:
        write_svg(found, out)
    if as_json:
        print_json({"file": str(out), **found.as_json()} if found else {"file": None, "models": []})
    elif found is None:
        console.print(f"nothing was recorded in the last {hours:g} h", highlight=False)
    else:
        show_timeline(found, out, console)


@app.command()
def explain(
    prompt: Annotated[str, typer.Argument(help="What a user would write.")],
    policy: Annotated[str, typer.Option(help="A policy's name or alias.")] = "auto",
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    models: Models = MODELS,
    policies: Policies = POLICIES,
    as_json: AsJson = False,
) -> None:
    """Show which route a prompt would take, and the signals that decide it. Nothing is generated."""
    from gateway.chat import ChatRequest
    from gateway.config.build import build
    from gateway.config.files import read_config
    from gateway.explain import explain as explained
    from gateway.runtime import Runtime, gateway_home

    gateway = build(read_config(models, policies), Runtime(gateway_home()))
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})

    async def look() -> dict[str, Any]:
        await gateway.prepare()
        return await explained(gateway, ChatRequest({"model": policy, "messages": messages}))

    found = asyncio.run(look())
    if as_json:
        print_json(found)
        return
    console.print(f"policy [bold]{found['policy']}[/], route [bold]{found['route']}[/]", highlight=False)
    table = Table("signal", "of", "value", "by", "us", box=None)
    for fact in found["signals"]:
        value = f"{fact['value']}{' (estimated)' if fact.get('estimated') else ''}"
        said = ("signal", "of", "value", "us", "estimated", "decided")
        why = ", ".join(f"{name} {noted}" for name, noted in fact.items() if name not in said)
        table.add_row(fact["signal"], escape(str(fact.get("of", ""))), escape(value), escape(why), str(fact["us"]))
    console.print(table)
    print_json(found["answer"])
    if "choices" in found:
        print_json(found["choices"])


@app.command()
def purge(
    tenant: Annotated[str | None, typer.Option(help="Name of a key; '' for what no key has put in.")] = None,
    user: Annotated[str | None, typer.Option(help="A user, as requests name it.")] = None,
    source: Annotated[str | None, typer.Option(help="Shards from there: a path, a URL.")] = None,
    writer: Annotated[str | None, typer.Option(help="Shards put in by this key.")] = None,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Then write the file anew, so that no trace of it is left there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Erase shards, cached answers, and what was kept to learn from, of a tenant or user; of a tenant also files to
    train on, jobs and what was trained; or shards by source or writer. --vacuum alone only makes the file smaller."""
    from gateway.runtime import gateway_home
    from gateway.shards.lessons import Lessons
    from gateway.shards.store import ShardStore, Where
    from gateway.store.answers import purge_answers
    from gateway.store.training import TrainingStore
    from gateway.training.registry import remove_all_of

    names_nobody = tenant is None and user is None and source is None and writer is None
    if names_nobody and not vacuum:
        raise typer.BadParameter("say whose: --tenant, --user, --source or --writer")

    is_whole = tenant is not None and user is None and source is None and writer is None

    async def run(database: Any) -> tuple[int, int, int]:
        if names_nobody:
            return 0, 0, 0
        where = Where(tenant=tenant, user=user, source=source, writer=writer)
        shards = await ShardStore(database).delete(where)
        of_people = source is None and writer is None
        lessons = await Lessons(database).purge(tenant=tenant, user=user) if of_people else 0
        answers = await purge_answers(database, tenant, user) if of_people else 0
        if is_whole:
            await TrainingStore(database).purge(tenant or None)
        return shards, lessons, answers

    shards, lessons, answers = with_database(run)
    if vacuum:
        with_database(lambda database: database.rewrite())
    models = remove_all_of(gateway_home(), tenant) if is_whole and tenant is not None else []
    if as_json:
        print_json({"shards": shards, "lessons": lessons, "answers": answers, "models": models})
    else:
        trained = f", {len(models)} trained models" if models else ""
        told = f"erased {shards} shards, {lessons} kept requests, {answers} cached answers{trained}"
        console.print(told, highlight=False)


@app.command()
def scripted(
    script: Annotated[Path, typer.Argument(help="YAML or JSON with `replies`.")],
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8099,
    key: Annotated[str | None, typer.Option(help="Ask callers for this key.", envvar="SCRIPTED_KEY")] = None,
) -> None:
    """Serve a script as an OpenAI-compatible upstream: for trying policies out and for tests."""
    from gateway.backends.scripted_server import serve_script
    from gateway.config.leaves import read_script

    loaded = read_script(script)

    async def run() -> None:
        try:
            runner = await serve_script(loaded, host, port, key=key)
        except OSError as exc:
            raise GatewayError(f"cannot listen on {host}:{port}: {exc.strerror}") from None
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        try:
            errors.print(f"scripted upstream on http://{host}:{runner.addresses[0][1]}/v1", highlight=False)
            await stopped.wait()
        finally:
            await runner.cleanup()

    asyncio.run(run())
