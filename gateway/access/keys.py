"""API keys: made, listed and revoked on the database; checked in memory by a `KeyRing` that follows the database.

At rest a key is the SHA-256 of its token. bcrypt and its like are slow on purpose, to protect secrets that people can
remember; a token is 256 random bits, which nobody finds by trying however fast the hash is, and 100 ms of CPU on each
request would be a gift to an attacker.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from gateway.errors import GatewayError, InvalidRequest, NotFound
from gateway.store.complaints import Complaints
from gateway.store.database import Database
from gateway.store.tables import KEYS

logger = logging.getLogger(__name__)

PREFIX = "ogw_"
TOKEN_BYTES = 32
TOKEN_LENGTH = len(PREFIX) + 43  # base64 of 32 bytes, without padding
MAX_NAME = 64
MOST_REMEMBERED = 1024

COLUMNS = (KEYS.c.id, KEYS.c.name, KEYS.c.created, KEYS.c.revoked, KEYS.c.last4)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What may be shown of a key. Times in unix seconds; `last4`: the last characters of its token."""

    id: int
    name: str
    created: float
    revoked: float | None
    last4: str


def hash_of(token: str) -> str:
    return sha256(token.encode()).hexdigest()


async def create_key(database: Database, name: str, clock: Callable[[], float] = time.time) -> tuple[KeyInfo, str]:
    """Make a key. Returns it with its token, which is stored nowhere and cannot be shown again.

    Raises: InvalidRequest where the name is taken by an active key, or is not 1 to 64 printable characters.
    """
    if not _is_name(name):
        raise InvalidRequest(
            f"a key's name has to be 1 to {MAX_NAME} printable characters, without space around it", param="name"
        )
    token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    row = {"name": name, "hash": hash_of(token), "last4": token[-4:], "created": clock()}
    try:
        async with database.write() as connection:
            result = await connection.execute(insert(KEYS).values(row).returning(*COLUMNS))
            info = _info(result.one())
    except IntegrityError as exc:
        raise InvalidRequest(
            f"there is an active key named {name!r}: take another name, or revoke it first", param="name"
        ) from exc
    return info, token


async def list_keys(database: Database) -> tuple[KeyInfo, ...]:
    """All keys, the revoked too, oldest first."""
    async with database.read() as connection:
        return tuple(_info(row) for row in (await connection.execute(select(*COLUMNS).order_by(KEYS.c.id))).all())


async def revoke_key(database: Database, name: str, clock: Callable[[], float] = time.time) -> KeyInfo:
    """Raises: NotFound where no active key has this name."""
    row = None
    if _is_name(name):
        query = update(KEYS).where(KEYS.c.name == name, KEYS.c.revoked.is_(None)).values(revoked=clock())
        async with database.write() as connection:
            row = (await connection.execute(query.returning(*COLUMNS))).one_or_none()
    if row is None:
        raise NotFound(f"there is no active key named {name!r}", param="name")
    return _info(row)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME and name.isprintable() and name == name.strip()


def _info(row: Sequence[Any]) -> KeyInfo:
    return KeyInfo(*row)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The keys at one moment. `seen` (presented token -> answer) saves hashing the same token on every request.

    Tokens are found by dict look-up, which is not constant-time and need not be: what an attacker could measure is a
    comparison of the SHA-256 of their guess, or of its hash under Python's secret seed, and neither tells how near the
    guess was to a token.
    """

    active: dict[bytes, KeyInfo]  # by digest
    stored: int  # keys there are, the revoked too
    mark: tuple[int, ...] | None  # what the poll compares
    seen: dict[str, KeyInfo | None] = field(default_factory=dict)


class KeyRing:
    """Checks keys in memory, and follows the database: a key made or revoked by any process counts within
    `refresh_s` and one short query.

    Until `start` has read the keys nobody is let in. While the database cannot be read, the last keys read count.
    """

    def __init__(self, database: Database, refresh_s: float = 1.0) -> None:
        self._database = database
        self._refresh_s = refresh_s
        self._snapshot = Snapshot({}, 0, None)
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._complaints = Complaints(logger)

    @property
    def is_open(self) -> bool:
        """No key was ever stored, so none is asked for. Revoking the last one does not open the server again."""
        return self._snapshot.mark is not None and self._snapshot.stored == 0

    def check(self, presented: str | None) -> KeyInfo | None:
        """The active key with this token; None where there is none. Microseconds, no I/O."""
        if presented is None:
            return None
        snapshot = self._snapshot
        try:
            return snapshot.seen[presented]
        except KeyError:
            pass
        if len(presented) != TOKEN_LENGTH or not presented.isascii():
            return None  # and not remembered: what strangers send may be long
        found = snapshot.active.get(sha256(presented.encode()).digest())
        if len(snapshot.seen) >= MOST_REMEMBERED:
            snapshot.seen.clear()
        snapshot.seen[presented] = found
        return found

    async def start(self) -> None:
        """Read the keys and begin to follow them.

        Raises: GatewayError where they cannot be read.
        """
        try:
            await self.refresh()
        except SQLAlchemyError as exc:
            reason = getattr(exc, "orig", None) or type(exc).__name__
            raise GatewayError(f"cannot read the keys in {self._database.path}: {reason}") from exc
        self._task = asyncio.create_task(self._follow(), name="key ring")

    async def refresh(self) -> None:
        """Read the keys now, if any changed. Raises: SQLAlchemyError where the database refuses."""
        # No clock in the mark: after one is set back, the newest change would not have the latest time. Ids only grow,
        # and a key is revoked once and for all.
        mark_query = select(func.count(), func.count(KEYS.c.revoked), func.coalesce(func.max(KEYS.c.id), 0))
        async with self._database.read() as connection:
            mark = tuple((await connection.execute(mark_query.select_from(KEYS))).one())
            if mark == self._snapshot.mark:
                return
            rows = (await connection.execute(select(KEYS.c.hash, *COLUMNS))).all()
        active = {bytes.fromhex(row[0]): KeyInfo(*row[1:]) for row in rows if row.revoked is None}
        self._snapshot = Snapshot(active, len(rows), mark)

    async def close(self) -> None:
        self._closing.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def _follow(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._refresh_s)
                return
            try:
                await self.refresh()
            except Exception as exc:  # whatever it is, the keys must be followed on
                reason = getattr(exc, "orig", None) or type(exc).__name__
                self._complaints.say(f"the keys could not be read again: {reason}; those of the last reading count")
