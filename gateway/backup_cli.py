"""`gateway backup` and `gateway restore`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from gateway.errors import GatewayError
from gateway.terminal import AsJson, bar, console, database_url, print_json

if TYPE_CHECKING:
    from gateway.store.backup import Copy

MIB = 2**20


def _want_a_file(program: str) -> None:
    if database_url() is not None:
        raise GatewayError(f"`database_url` names a PostgreSQL database, which is {program}'s to look after")


def backup(
    file: Annotated[Path, typer.Argument(help="What to write; one that is there is replaced by a whole new one.")],
    as_json: AsJson = False,
) -> None:
    """Copy the database into one file, while the server runs."""
    from gateway.runtime import gateway_home
    from gateway.store.backup import back_up

    _want_a_file("pg_dump")
    with bar("copying", is_quiet=as_json) as step:
        made = back_up(gateway_home(), file, step)
    _tell(made, as_json)


def restore(
    file: Annotated[Path, typer.Argument(help="What `gateway backup` has written.")],
    as_json: AsJson = False,
) -> None:
    """Put a backup in the database's place. No server may run; the database that was there is kept beside it."""
    from gateway.runtime import gateway_home
    from gateway.store.backup import restore as run

    _want_a_file("pg_restore")
    with bar("copying", is_quiet=as_json) as step:
        done = run(gateway_home(), file, step)
    _tell(done, as_json)


def _tell(copy: Copy, as_json: bool) -> None:
    if as_json:
        print_json(asdict(copy))
        return
    told = f"{copy.requests:,} requests, {copy.size_bytes / MIB:.1f} MiB, tables {copy.tables}"
    console.print(f"[green]ok[/] {escape(str(copy.path))}: {told}", highlight=False, soft_wrap=True)
    if copy.aside is not None:
        console.print(f"what was there before: {escape(str(copy.aside))}", highlight=False, soft_wrap=True)
