"""`gateway init`: look around, decide, validate, write, and say what comes next."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from gateway.chat import Json
from gateway.config.build import build
from gateway.config.files import read_config
from gateway.config.json_schema import OF_OURS, schema_files
from gateway.errors import ConfigError, GatewayError, Problem
from gateway.probe import FoundModel
from gateway.runtime import Runtime
from gateway.setup.discover import Discovery, Machine, discover
from gateway.setup.disk import NewFile, Written, put_in_place
from gateway.setup.files import ModelFile
from gateway.setup.keys import FoundKey
from gateway.setup.plan import Plan, plan_for
from gateway.setup.write import models_text, policy_text

NEXT = (
    ("gateway check", "is all of it right?"),
    ("gateway serve", "fetches what is missing and listens on http://127.0.0.1:8080"),
    ("gateway connect openai-python", "what to paste into a client"),
)
Confirm = Callable[[NewFile], bool]


def ask(file: NewFile) -> bool:
    return typer.confirm(f"write {file.path} anew? the old one is kept beside it", default=False)


@dataclass(frozen=True)
class Targets:
    models: Path
    policies: Path

    @property
    def policy(self) -> Path:
        return self.policies / "default.yaml"

    @property
    def schemas(self) -> Path:
        """The folder of the schemas that both files name for editors."""
        return self.models.parent / "schemas"

    def schemas_from(self, folder: Path) -> str:
        return Path(os.path.relpath(self.schemas, folder)).as_posix()


def init(
    machine: Machine, targets: Targets, console: Console, *, confirm: Confirm | None, overwrites: bool = False
) -> Json:
    """Returns what was found and written, for `--json`; the console is for people.

    Args:
        confirm: asks about a file that is there; None where nobody can be asked.
        overwrites: the answer is yes.
    Raises: GatewayError, ConfigError.
    """
    if confirm is None and not overwrites:
        _require_free(targets)  # before a search that would be for nothing
    with console.status("looking for model files, servers and keys …"):
        found = asyncio.run(discover(machine))
    plan, texts = _valid(plan_for(found, machine.gateway_home), found, targets, machine.gateway_home)
    _tell_found(found, plan, console)
    written, declined = _write(texts, console, confirm, overwrites)
    problems = _problems_of(targets, machine.gateway_home)
    _tell_written(written, declined, texts, problems, console)
    return _report(found, plan, written, declined, texts, problems)


def _require_free(targets: Targets) -> None:
    there = [str(path) for path in (targets.models, targets.policy) if os.path.lexists(path)]
    if there:
        verb = "is" if len(there) == 1 else "are"
        raise GatewayError(
            f"{' and '.join(there)} {verb} there already, and nobody is at a terminal to ask: "
            "--force writes anew and keeps the old as FILE.bak-N; --models and --policies name another place"
        )


def _valid(plan: Plan, found: Discovery, targets: Targets, home: Path) -> tuple[Plan, list[NewFile]]:
    """The plan and its texts, less each model that `gateway check` would not take. Raises: ConfigError."""
    for _ in range(len(plan.live) + 1):
        models = models_text(plan, found, targets.schemas_from(targets.models.parent))
        policy = policy_text(plan, targets.schemas_from(targets.policies))
        problems = _faults(models, policy, home)
        faulty = {choice.name for choice in plan.live if any(_is_of(problem, choice.name) for problem in problems)}
        if not problems:
            schemas = [NewFile.of(targets.schemas / name, text) for name, text in schema_files().items()]
            return plan, [NewFile.of(targets.models, models), NewFile.of(targets.policy, policy), *schemas]
        if not faulty:
            raise ConfigError(problems)
        plan.warnings += [f"{problem.key}: {problem.message}; this model was left out" for problem in problems]
        plan = plan.without(faulty)
    raise ConfigError(problems)


def _faults(models: str, policy: str, home: Path) -> Sequence[Problem]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "policies").mkdir()
        (folder / "models.yaml").write_text(models, encoding="utf-8")
        (folder / "policies" / "default.yaml").write_text(policy, encoding="utf-8")
        return _check(folder / "models.yaml", folder / "policies", home)


def _check(models: Path, policies: Path, home: Path) -> Sequence[Problem]:
    try:
        build(read_config(models, policies), Runtime(home))
    except ConfigError as exc:
        return exc.problems
    return ()


def _is_of(problem: Problem, name: str) -> bool:
    """Is this model at fault? Names may have dots too."""
    place = f"models.{name}"
    return problem.key == place or problem.key.startswith((f"{place}.", f"{place}["))


def _write(
    files: list[NewFile], console: Console, confirm: Confirm | None, overwrites: bool
) -> tuple[Written, list[NewFile]]:
    wanted, declined = [], []
    for file in files:
        if file.is_same:
            continue
        if file.old is not None and not overwrites and not _is_schema_of_ours(file):
            for line in file.diff():
                console.print(escape(line), highlight=False, soft_wrap=True)
            if confirm is None or not confirm(file):
                declined.append(file)
                continue
        wanted.append(file)
    return put_in_place(wanted), declined


def _is_schema_of_ours(file: NewFile) -> bool:
    """Made by a program, and by ours: nothing of the user's is in it."""
    return file.path.suffix == ".json" and OF_OURS.encode() in (file.old or b"")


def _problems_of(targets: Targets, home: Path) -> list[str]:
    """Of what now lies there: an old policy may name models that are no more."""
    if not targets.models.exists() or not targets.policies.is_dir():
        return []
    return [str(problem) for problem in _check(targets.models, targets.policies, home)]


def _tell_found(found: Discovery, plan: Plan, console: Console) -> None:
    def say(style: str, word: str, text: str) -> None:
        shown = "".join(c if c.isprintable() else " " for c in text)
        console.print(f"[{style}]{word:>8}[/]  {escape(shown)}", highlight=False, soft_wrap=True)

    for file in found.files.models:
        say("green", "file", f"{file.path}  ({_facts(file)})")
    for file in found.files.embedders:
        say("dim", "file", f"{file.path}  (makes vectors, does not chat)")
    for server in found.local.servers:
        names = ", ".join(model.id for model in server.models[:6]) or "no model in it"
        more = f" and {len(server.models) - 6} more" if len(server.models) > 6 else ""
        say("green", "server", f"{server.kind} at {server.base_url}: {names}{more}")
    for key in found.keys:
        style = {"valid": "green", "refused": "red", "unchecked": "yellow"}[key.state]
        why = f": {key.why}" if key.why else ""
        say(
            style,
            "key",
            f"{key.variable} ({key.provider}): {'not checked' if key.state == 'unchecked' else key.state}{why}",
        )
    if found.aws_variable:
        say("yellow", "key", f"{found.aws_variable} (Amazon Bedrock): not checked; an example is in models.yaml")
    for broken in found.files.broken:
        say("yellow", "broken", f"{broken.path} {broken.reason}")
    for note in (*found.notes, *plan.warnings):
        say("yellow", "note", note)
    if not (found.files.models or found.local.servers or found.keys):
        say("yellow", "note", "nothing found: the small model of the package answers alone until a key is set")
    path = [plan.core.name, *([plan.second.name] if plan.second else []), *(choice.name for choice in plan.remotes)]
    say("bold", "asked", " → ".join([*path, *(["expert (once OPENAI_API_KEY is set)"] if plan.has_expert else [])]))


def _facts(file: ModelFile) -> str:
    label = file.header.size_label or (f"{file.parameters / 1e9:.2g}B" if file.parameters else None)
    context = f"context {file.header.context}" if file.header.context else None
    return ", ".join(filter(None, (label, file.quantization, context)))


def _tell_written(
    written: Written, declined: list[NewFile], texts: list[NewFile], problems: list[str], console: Console
) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    say("")
    for path in written.files:
        backup = written.backups.get(path)
        say(f"[green]wrote[/] {escape(str(path))}" + (f"  (the old one is {escape(str(backup))})" if backup else ""))
    for file in declined:
        say(f"[yellow]left[/] {escape(str(file.path))} as it was")
    for file in texts:
        if file.is_same:
            say(f"[green]same[/] {escape(str(file.path))}: nothing to change")
    for problem in problems:
        say(f"[yellow]warning[/] {escape(problem)}")
    say("\nnext")
    for command, why in NEXT:
        say(f"  [bold]{command:<32}[/] {why}")


def _report(
    found: Discovery, plan: Plan, written: Written, declined: list[NewFile], texts: list[NewFile], problems: list[str]
) -> Json:
    files = found.files
    return {
        "ok": not problems,
        "written": [str(path) for path in written.files],
        "backups": {str(path): str(backup) for path, backup in written.backups.items()},
        "unchanged": [str(file.path) for file in texts if file.is_same],
        "declined": [str(file.path) for file in declined],
        "core": plan.core.name,
        "models": [choice.name for choice in plan.live] + (["expert"] if plan.has_expert else []),
        "asked": [plan.core.name, *(c.name for c in (plan.second, *plan.remotes) if c is not None)],
        "files": [{"path": str(f.path), "size_bytes": f.size_bytes, "chats": f in files.models}
                  for f in (*files.models, *files.embedders)],
        "broken": [{"path": str(broken.path), "reason": broken.reason} for broken in files.broken],
        "servers": [
            {"kind": server.kind, "url": server.base_url, "models": [_model_facts(model) for model in server.models]}
            for server in found.local.servers
        ],
        "keys": [_key_facts(key) for key in found.keys],
        "notes": [*found.notes, *plan.warnings],
        "problems": problems,
        "next": [command for command, _ in NEXT],
    }  # fmt: skip


def _model_facts(model: FoundModel) -> Json:
    accepts = sorted(model.accepts) if model.accepts else None
    return {"id": model.id, "chats": model.chats, "context": model.context, "accepts": accepts}


def _key_facts(key: FoundKey) -> Json:
    return {name: getattr(key, name) for name in ("provider", "variable", "state", "why", "model")}
