"""`gateway models --timeline`: the record of what was loaded, as a picture and in numbers."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.errors import GatewayError
from gateway.residency.svg import svg
from gateway.residency.timeline import Timeline, timeline
from gateway.store.database import Database
from gateway.store.residency import events


async def read_timeline(database: Database, since: float, until: float) -> Timeline | None:
    """Between two times in unix seconds; None where nothing was recorded."""
    return timeline(await events(database, since, until), since, until)


def write_svg(found: Timeline, path: Path) -> None:
    """Raises: GatewayError where it cannot be written."""
    try:
        path.write_text(svg(found), encoding="utf-8")
    except OSError as exc:
        raise GatewayError(f"cannot write {path}: {exc.strerror}") from None


def show_timeline(found: Timeline, path: Path, console: Console) -> None:
    table = Table("model", "loads", "mean load", "evictions", "crashes", "refusals", "loaded", box=None)
    for life in found.lives:
        mean = "" if life.mean_load_s is None else f"{life.mean_load_s:.1f} s"
        marks = (str(life.count(what)) for what in ("evicted", "crashed", "refused"))
        loaded = f"{found.loaded_share(life):.0%} of the time"
        table.add_row(escape(life.name), str(len(life.load_s)), mean, *marks, loaded)
    console.print(table)
    console.print(f"[green]ok[/] {escape(str(path))}", highlight=False, soft_wrap=True)
