"""What all commands have in common: where they print, the options for the files, and the database."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.errors import GatewayError

T = TypeVar("T")
console, errors = Console(), Console(stderr=True)

_models_file: ContextVar[Path | None] = ContextVar("models_file", default=None)


def _note_models(context: typer.Context, path: Path) -> Path:
    """For `with_database`, as long as the command lasts."""
    token = _models_file.set(path)
    context.call_on_close(lambda: _models_file.reset(token))
    return path


Models = Annotated[
    Path, typer.Option("--models", help="The models file.", envvar="GATEWAY_MODELS", callback=_note_models)
]
Policies = Annotated[Path, typer.Option("--policies", help="The folder of policies.", envvar="GATEWAY_POLICIES")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MODELS, POLICIES = Path("models.yaml"), Path("policies")


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def database_url() -> str | None:
    """That the models file or the environment names; None for the file under GATEWAY_HOME. Raises: ConfigError."""
    from gateway.config.replicas import database_url_in

    return database_url_in(_models_file.get() or Path(os.environ.get("GATEWAY_MODELS", MODELS)))


def with_database(action: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """With the database that the models file names.

    Raises: ConfigError, GatewayError where it cannot be opened, is full or is locked for long.
    """
    from sqlalchemy.exc import OperationalError

    from gateway.runtime import gateway_home
    from gateway.store.database import open_database

    async def run() -> T:
        database = await open_database(gateway_home(), database_url())
        try:
            return await action(database)
        except OperationalError as exc:
            raise GatewayError(f"the database {database.name} could not be used: {exc.orig}") from exc
        finally:
            await database.close()

    return asyncio.run(run())


class bar:
    """A progress bar on the terminal; `with … as step`, and `step(done, total)`."""

    def __init__(self, what: str, is_quiet: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=errors, disable=is_quiet, transient=True)
        self._task = self._progress.add_task(what, total=None)

    def __enter__(self) -> Callable[[int, int], None]:
        self._progress.start()
        return lambda done, total: self._progress.update(self._task, completed=done, total=total)

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
