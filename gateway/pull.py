"""`gateway pull`: fetch the files of models, or list what of them lies there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from gateway import sources
from gateway.config.files import Config, ModelEntry
from gateway.config.model_specs import MODEL_SPECS, GgufSpec
from gateway.embedding import minilm
from gateway.errors import GatewayError, SourceError
from gateway.sources import State, StoredFile

STYLES = {"present": "green", "partial": "yellow", "missing": "yellow", "at fault": "red", "inactive": "yellow"}


@dataclass(frozen=True)
class FileRow:
    """One file, as `gateway pull --list --json` prints it; see `sources.Status`."""

    source: str
    path: str
    state: State
    size_bytes: int
    total_bytes: int | None
    sha256: str | None
    verified: bool
    why: str


@dataclass(frozen=True)
class ModelRow:
    """A model and its files: several where it is split, or has a projector or adapters. `source` is None while a
    variable in it is not set; `percent` says how much of it has come, None where that is not known."""

    model: str
    source: str | None
    state: str  # a State, or "inactive"
    percent: int | None = None
    size_bytes: int = 0
    path: str | None = None
    verified: bool = False
    why: str = ""
    files: Sequence[FileRow] = ()


@dataclass(frozen=True)
class Unused:
    path: str
    size_bytes: int


@dataclass(frozen=True)
class Listing:
    """`unused`: what lies under home/models and no entry of models.yaml names."""

    models: Sequence[ModelRow]
    unused: Sequence[Unused]


def pull_models(
    config: Config,
    home: Path,
    names: Sequence[str] | None,
    errors: Console,
    is_unwanted: Callable[[], bool] = lambda: False,
    *,
    built_in: bool = False,
) -> dict[str, Path]:
    """Fetch what the named models (all, for None) need, with a bar for each file that is not there yet.

    Args:
        built_in: the embedding model is one of them; else it is left to be fetched when it is first asked.
        is_unwanted: asked between pieces; once it is true, no more is fetched.
    Returns: the path of each model that has a file. Raises: GatewayError.
    """
    wanted = {entry.name: _file_sets(entry, home) for entry in _named(config, names)}
    if built_in:
        wanted |= _built_in(config, home, names)
    return {
        name: _pull(name, sets, _sha256_keys(config, name), errors, is_unwanted)
        for name, sets in wanted.items()
        if sets
    }


def _sha256_keys(config: Config, name: str) -> Sequence[str]:
    """Where the entry of a model has the sha256 of each of its sources. Of the built-in ones they are known."""
    entry = config.models.get(name)
    return entry.spec.sha256_keys if entry is not None and isinstance(entry.spec, GgufSpec) else ()


def _pull(
    name: str,
    sets: Sequence[list[StoredFile]],
    sha256_keys: Sequence[str],
    errors: Console,
    is_unwanted: Callable[[], bool],
) -> Path:
    files = [file for each in sets for file in each]
    missing = [file for file in files if not file.is_present]
    for file in missing:
        which = f" {files.index(file) + 1}/{len(files)}" if len(files) > 1 else ""
        _fetch(file, f"fetching {name}{which}", errors, is_unwanted)
    for key, each in zip(sha256_keys, sets, strict=False):
        if each[0].wanted is None and set(each) & set(missing):
            found = [file.status() for file in each]
            hashes = ", ".join(status.sha256 or "" for status in found)
            value = f"[{hashes}]" if len(found) > 1 else hashes
            said = "  # as the server says" if all(status.is_verified for status in found) else ""
            errors.print(escape(f"{name}: {key}: {value}{said}"), highlight=False, soft_wrap=True)
    return files[0].path


def _fetch(file: StoredFile, description: str, errors: Console, is_unwanted: Callable[[], bool]) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=errors) as bar:
        task = bar.add_task(escape(description), total=None)

        def report(done: int, total: int | None) -> None:
            if is_unwanted():
                raise SourceError(f"{file.source}: is not wanted any more; what has come is kept")
            bar.update(task, completed=done, total=total)

        file.pull(report)


def list_files(config: Config, home: Path, names: Sequence[str] | None = None) -> Listing:
    """What lies there for the named models (all, for None). Reads no file and asks no server.

    Raises: GatewayError.
    """
    rows = [row for entry in _named(config, names) if (row := _row(entry, home))]
    rows += [_row_of(name, sets) for name, sets in _built_in(config, home, names).items()]
    return Listing(rows, [] if names else list(_unused(config, home)))


def _built_in(config: Config, home: Path, names: Sequence[str] | None) -> dict[str, list[list[StoredFile]]]:
    """Files of the embedding model, if it is meant: an entry of models.yaml may have its name."""
    is_meant = not names or any(name in minilm.NAMES and name not in config.models for name in names)
    files = minilm.files(home)
    return {minilm.NAME: [[file] for file in files]} if is_meant and files and minilm.NAME not in config.models else {}


def _named(config: Config, names: Sequence[str] | None) -> list[ModelEntry]:
    wanted = {_with_files(config, name) for name in names or ()}
    unknown = wanted - set(config.models) - set(minilm.NAMES)
    if unknown:
        raise GatewayError(f"no model is called {', '.join(sorted(unknown))}; there are: {', '.join(config.models)}")
    entries = (entry for entry in config.models.values() if not entry.adapter)
    return [entry for entry in entries if not names or entry.name in wanted]


def _with_files(config: Config, name: str) -> str:
    """The model that the files count for: an adapter's are with those of the model that it is for."""
    entry = config.models.get(name)
    return entry.base if entry is not None and entry.adapter else name


def _file_sets(entry: ModelEntry, home: Path) -> list[list[StoredFile]]:
    """The files of each source of a model. Empty for one that has none, or is inactive."""
    if not isinstance(entry.spec, GgufSpec):
        return []
    return [sources.files_of(sources.parse(source), home, sha256) for source, sha256 in entry.spec.files]


def _row(entry: ModelEntry, home: Path) -> ModelRow | None:
    if entry.spec is None:
        has_files = issubclass(MODEL_SPECS[entry.engine], GgufSpec)
        return ModelRow(entry.name, None, "inactive", why=entry.why) if has_files else None
    sets = _file_sets(entry, home)
    return _row_of(entry.name, sets) if sets else None


def _row_of(name: str, sets: Sequence[list[StoredFile]]) -> ModelRow:
    files = [file for each in sets for file in each]
    rows = [_file_row(file) for file in files]
    return ModelRow(
        model=name,
        source=str(files[0].source),
        state=_state(rows),
        percent=_percent(rows),
        size_bytes=sum(row.size_bytes for row in rows),
        path=rows[0].path,
        verified=all(row.verified for row in rows),
        why="; ".join(dict.fromkeys(row.why for row in rows if row.why)),
        files=rows,
    )


def _file_row(file: StoredFile) -> FileRow:
    found = file.status()
    return FileRow(
        source=str(file.source),
        path=str(file.path),
        state=found.state,
        size_bytes=found.size_bytes,
        total_bytes=found.total_bytes,
        sha256=found.sha256,
        verified=found.is_verified,
        why=found.why,
    )


def _state(rows: Sequence[FileRow]) -> State:
    states = {row.state for row in rows}
    if "at fault" in states:
        return "at fault"
    return states.pop() if len(states) == 1 else "partial"


def _percent(rows: Sequence[FileRow]) -> int | None:
    """Each file counts the same: how large one is shows only when it comes."""
    shares = [_share(row) for row in rows]
    known = [share for share in shares if share is not None]
    return int(100 * sum(known) / len(known)) if len(known) == len(shares) else None


def _share(row: FileRow) -> float | None:
    if row.state in ("present", "missing"):
        return float(row.state == "present")
    return row.size_bytes / row.total_bytes if row.total_bytes else None


def _unused(config: Config, home: Path) -> Iterable[Unused]:
    used = {each[0].folder for entry in config.models.values() for each in _file_sets(entry, home)}
    used |= {file.folder for file in minilm.files(home)}
    folder = home / "models"
    if not folder.is_dir():
        return
    try:
        for path in sorted(folder.iterdir()):
            if path not in used:
                yield Unused(str(path), _size_bytes(path))
    except OSError as exc:
        raise SourceError(f"cannot read {exc.filename or folder}: {exc.strerror or exc}") from exc


def _size_bytes(path: Path) -> int:
    """Links count as links."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    with os.scandir(path) as entries:
        return sum(_size_bytes(Path(entry.path)) for entry in entries)


def show(listing: Listing, console: Console) -> None:
    """One block for each model: paths and URIs stay whole, so that they can be copied."""
    if not listing.models:
        console.print("no model here has a file")
    for row in listing.models:
        _print(console, f"[bold]{escape(row.model)}[/]  {'  '.join(_facts(row))}")
        for text in (row.source, row.path):
            if text:
                _print(console, f"  {escape(text)}")
        if row.why:
            _print(console, f"  [{STYLES[row.state]}]{escape(row.why)}[/]")
        for file in row.files if len(row.files) > 1 else ():
            state = f"[{STYLES[file.state]}]{file.state}[/]  {decimal(file.size_bytes)}"
            _print(console, f"  {escape(Path(file.path).name)}  {state}")
    if listing.unused:
        inactive = any(row.state == "inactive" for row in listing.models)
        hint = ", unless one that is inactive now" if inactive else ""
        _print(console, f"\nno entry of models.yaml names these{hint}:")
        for unused in listing.unused:
            _print(console, f"  {decimal(unused.size_bytes)}  {escape(unused.path)}")


def _facts(row: ModelRow) -> Iterable[str]:
    known = f" {row.percent} %" if row.percent is not None else ""
    text = f"partly fetched{known}" if row.state == "partial" else row.state
    yield f"[{STYLES[row.state]}]{text}[/]"
    if row.size_bytes:
        yield decimal(row.size_bytes)
    if row.state == "present":
        yield "sha256 verified" if row.verified else "sha256 not verified"


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
