"""The tables of shards as the index reads them: blocking, each over a connection of its own, for one thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import orjson

from gateway.store.database import Database
from gateway.store.sqlite import BUSY_TIMEOUT_S

CACHE_KIB = 32 * 1024  # at most, of each connection: each row looked up lies on a page of its own

Json = Any
KeyRow = tuple[int, str, str, bytes | None]
"""Number, shard, audience, vector."""


class Unreadable(Exception):
    """The database refuses, or cannot be reached."""


class Rows(Protocol):
    """All of it raises Unreadable."""

    connection: Any

    def read(self, query: str, *values: object) -> list[Any]: ...

    def newest(self) -> int:
        """The revision of the last change; 0 before the first."""

    def version(self) -> object:
        """Any commit of another connection changes it."""

    def changed(self, after: int, limit: int) -> list[tuple[int, str]]:
        """(revision, shard), from that revision on."""

    def still_there(self, keys: Sequence[int]) -> list[int]: ...

    def new_keys(self, after: int, limit: int) -> list[KeyRow]: ...

    def vectors(self, keys: Sequence[int]) -> dict[int, bytes | None]: ...

    def moment(self) -> AbstractContextManager[None]:
        """All that is read in the block is of one moment."""

    def keys(self, keys: Sequence[int]) -> list[tuple[int, str, str]]:
        """Number, shard, audience."""

    def texts(self, keys: Sequence[int]) -> dict[int, str]: ...

    def vectors_of(self, keys: Sequence[int], size_bytes: int) -> list[tuple[int, bytes]]: ...

    def last_key(self) -> int: ...

    def interrupt(self) -> None:
        """What it is about to read it gives up; from any thread."""

    def close(self) -> None: ...


def open_rows(database: Database) -> Rows:
    """Raises: Unreadable."""
    if database.path is not None:
        return SqliteRows(database.path)
    from gateway.shards.search.postgres_rows import PostgresRows

    return PostgresRows(database.engine.url)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        raise Unreadable(str(exc)) from exc


class SqliteRows:
    """Where it matters one statement gives one row, made into JSON by SQLite: the driver takes Python's lock back for
    each row, and under load may have to wait for it each time."""

    def __init__(self, path: Path) -> None:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with _readable():
            self.connection = sqlite3.connect(
                uri,
                uri=True,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
            self.connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")

    def newest(self) -> int:
        return int(self._one("SELECT coalesce(max(revision), 0) FROM shards"))

    def version(self) -> object:
        return self._one("PRAGMA data_version")

    def changed(self, after: int, limit: int) -> list[tuple[int, str]]:
        query = "SELECT revision, id FROM shards WHERE revision > ? ORDER BY revision LIMIT ?"
        return self.read(query, after, limit)

    def still_there(self, keys: Sequence[int]) -> list[int]:
        query = "SELECT id FROM shard_keys WHERE id IN (SELECT value FROM json_each(?))"
        return [key for (key,) in self.read(query, _json(keys))]

    def new_keys(self, after: int, limit: int) -> list[KeyRow]:
        query = "SELECT id, shard, audience, vector FROM shard_keys WHERE id > ? ORDER BY id LIMIT ?"
        return self.read(query, after, limit)

    def vectors(self, keys: Sequence[int]) -> dict[int, bytes | None]:
        query = "SELECT k.id, k.vector FROM json_each(?) j CROSS JOIN shard_keys k ON k.id = j.value"
        return dict(self.read(query, _json(keys)))

    @contextmanager
    def moment(self) -> Iterator[None]:
        with _readable():
            self.connection.execute("BEGIN")  # locks are taken once, too
            try:
                yield
            finally:
                self.connection.execute("COMMIT")

    def keys(self, keys: Sequence[int]) -> list[tuple[int, str, str]]:
        found: list[tuple[int, str, str]] = self._told(
            "SELECT json_group_array(json_array(k.id, k.shard, k.audience)) FROM json_each(?) j"
            " CROSS JOIN shard_keys k ON k.id = j.value",
            keys,
        )
        return found

    def texts(self, keys: Sequence[int]) -> dict[int, str]:
        return dict(
            self._told(
                "SELECT json_group_array(json_array(f.rowid, f.text)) FROM json_each(?) j"
                " CROSS JOIN shard_fts f ON f.rowid = j.value",
                keys,
            )
        )

    def vectors_of(self, keys: Sequence[int], size_bytes: int) -> list[tuple[int, bytes]]:
        told = self._one(  # not as JSON, which SQLite takes 2 ms for
            "SELECT coalesce(group_concat(k.id || ' ' || hex(k.vector)), '') FROM json_each(?) j"
            " CROSS JOIN shard_keys k ON k.id = j.value WHERE length(k.vector) = ?",
            _json(keys),
            size_bytes,
        )
        pairs = (pair.split() for pair in told.split(",") if pair)
        return [(int(key), bytes.fromhex(blob)) for key, blob in pairs]

    def last_key(self) -> int:
        return int(self._one("SELECT coalesce(max(id), 0) FROM shard_keys"))

    def interrupt(self) -> None:
        self.connection.interrupt()

    def close(self) -> None:
        self.connection.close()

    def read(self, query: str, *values: object) -> list[Any]:
        with _readable():
            return self.connection.execute(query, values).fetchall()

    def _one(self, query: str, *values: object) -> Any:
        return self.read(query, *values)[0][0]

    def _told(self, query: str, keys: Sequence[int]) -> Json:
        return orjson.loads(self._one(query, _json(keys)))


def _json(numbers: Sequence[int]) -> str:
    return orjson.dumps(list(numbers)).decode()
