"""The database copied while others use it, and a copy put in its place. All of it blocks."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import GatewayError
from gateway.store.database import FILE_NAME, HEAD
from gateway.store.sqlite import hold

PAGES_A_STEP = 1024  # 4 MiB
BUSY_TIMEOUT_S = 5.0
SIDES = ("", "-wal", "-shm")  # the files of a database, behind its name
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Copy:
    """`tables`: the revision of its tables. `aside`: where the database that was replaced lies, if there was one."""

    path: Path
    size_bytes: int
    tables: str
    requests: int
    aside: Path | None = None


def back_up(home: Path, file: Path, step: Step) -> Copy:
    """Copy `home`'s database as it is at this moment into one file (0600), whole or not at all; a file that is there is
    replaced. Writers go on meanwhile. `step(done, total)` is told pages.

    Raises: GatewayError.
    """
    database = home / FILE_NAME
    if not database.exists():
        raise GatewayError(f"there is no database at {database}")
    if file.is_dir() or file.resolve() in [home.resolve() / f"{FILE_NAME}{side}" for side in SIDES]:
        raise GatewayError(f"{file} cannot be a backup: name a file of its own")
    with _telling(f"cannot back up {database} into {file}"), _part_of(file) as part:
        _copy(database, part, step)
        found = _looked_at(part, file)
        part.replace(file)
        _sync(file.parent)
    return found


def restore(home: Path, file: Path, step: Step, clock: Callable[[], float] = time.time) -> Copy:
    """Put a backup in the place of `home`'s database, which is kept beside it. An older one is upgraded when it is next
    opened.

    Raises: GatewayError where it is no sound database of this version or an older one, or `home`'s is in use.
    """
    if not file.is_file():
        raise GatewayError(f"there is no file {file}")
    database = home / FILE_NAME
    if database.exists() and file.samefile(database):
        raise GatewayError(f"{file} is the database itself, and no backup of it")
    with _telling(f"cannot restore {file} as {database}"):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(database), _part_of(database) as part:
            _copy(file, part, step)
            found = _looked_at(part, database, file)
            aside = _move_aside(database, clock())
            part.replace(database)
            _sync(home)
    return Copy(found.path, found.size_bytes, found.tables, found.requests, aside)


def _copy(source: Path, target: Path, step: Step) -> None:
    """Of one moment: a transaction stays open on the source, so that what others write meanwhile does not start the
    copy again."""
    with closing(_connect(source, "ro")) as old, closing(_connect(target, "rwc")) as new:
        old.execute("BEGIN")
        old.execute("SELECT count(*) FROM sqlite_master").fetchone()  # from here on it sees nothing newer
        old.backup(new, pages=PAGES_A_STEP, progress=lambda _, left, total: step(total - left, total))
        old.execute("ROLLBACK")
        new.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _looked_at(copy: Path, becomes: Path, told: Path | None = None) -> Copy:
    """Raises: GatewayError where it is damaged, none of ours, or newer than this version. `told`: the file to name."""
    name = told or becomes
    with closing(_connect(copy, "ro")) as connection:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise GatewayError(f"{name} is damaged: {verdict}")
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"alembic_version", "journal"} <= tables:
            raise GatewayError(f"{name} is no database of the gateway")
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        (requests,) = connection.execute("SELECT count(*) FROM journal").fetchone()
    if version > HEAD:
        raise GatewayError(
            f"{name} was written by a newer version of the gateway (its tables are {version}, this version knows "
            f"{HEAD}): upgrade the gateway"
        )
    return Copy(becomes, copy.stat().st_size, version, requests)


def _move_aside(database: Path, now: float) -> Path | None:
    """The old one with its write-ahead log, under a name by which SQLite finds both."""
    if not database.exists():
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    aside, number = database.with_name(f"{database.name}.before-{stamp}"), 1
    while aside.exists():
        number += 1
        aside = database.with_name(f"{database.name}.before-{stamp}-{number}")
    for side in reversed(SIDES):  # the database last: while it is there, a start would find it
        with suppress(FileNotFoundError):
            database.with_name(database.name + side).rename(aside.with_name(aside.name + side))
    return aside


@contextmanager
def _alone(database: Path) -> Iterator[None]:
    try:
        alone = hold(database, fcntl.LOCK_EX)
    except BlockingIOError:
        raise GatewayError(f"{database} is in use by a server or a command: stop it first") from None
    with alone:
        yield


@contextmanager
def _part_of(file: Path) -> Iterator[Path]:
    """Where a file is made before it takes its name; gone at the end."""
    part = file.with_name(f".{file.name}.part-{os.getpid()}")
    try:
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        yield part
    finally:
        for side in (*SIDES, "-journal"):
            part.with_name(part.name + side).unlink(missing_ok=True)


@contextmanager
def _telling(what: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise GatewayError(f"{what}: {exc}") from exc
    except OSError as exc:
        raise GatewayError(f"{what}: {exc.strerror or exc}") from exc


def _sync(folder: Path) -> None:
    """So that the new name is there after a power cut, too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
