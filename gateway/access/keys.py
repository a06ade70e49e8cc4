"""API keys: made, listed and revoked on the database; checked in memory by a `KeyRing` that follows the database.

At rest a key is the SHA-256 of its token. bcrypt and its like are slow on purpose, to protect secrets that people can
remember; a token is 256 random bits, which nobody finds by trying however fast the hash is, and 100 ms of CPU on each
request would be a gift to an attacker.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from hashlib import sha256
from typing import Any

from sqlalchemy import and_, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from gateway.access.limits import NO_LIMITS, Limits, read_limits
from gateway.errors import GatewayError, InvalidRequest, NotFound
from gateway.store.complaints import Complaints
from gateway.store.database import Database
from gateway.store.tables import KEYS

logger = logging.getLogger(__name__)


class Unsaid(Enum):
    UNSAID = auto()


UNSAID = Unsaid.UNSAID
PREFIX = "ogw_"
TOKEN_BYTES = 32
TOKEN_LENGTH = len(PREFIX) + 43  # base64 of 32 bytes, without padding
MAX_NAME = 64
MOST_GRACE_S = 30 * 86_400
MOST_REMEMBERED = 1024

COLUMNS = (
    KEYS.c.id,
    KEYS.c.name,
    KEYS.c.created,
    KEYS.c.revoked,
    KEYS.c.last4,
    KEYS.c.expires,
    KEYS.c.tenant,
    KEYS.c.is_admin,
    KEYS.c.limits,
)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What may be shown of a key. Times in unix seconds; `last4`: the last characters of its token.

    Args:
        expires: from then on it is refused.
        own_tenant: whose shards, memories and traces it shares with other keys; None: its own.
        is_admin: it may look after the gateway and the other keys.
    """

    id: int
    name: str
    created: float
    revoked: float | None
    last4: str
    expires: float | None = None
    own_tenant: str | None = None
    is_admin: bool = False
    limits: Limits = NO_LIMITS

    @property
    def tenant(self) -> str:
        return self.own_tenant or self.name

    def state(self, now: float) -> str:
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"

    def as_json(self) -> dict[str, Any]:
        told = {"name": self.name, "last4": self.last4, "tenant": self.tenant, "admin": self.is_admin}
        times = {"created": self.created, "expires": self.expires, "revoked": self.revoked}
        return {**told, **times, "limits": self.limits.as_json()}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a key is to be; what is left unsaid stays as it is."""

    tenant: str | None | Unsaid = UNSAID
    expires: float | None | Unsaid = UNSAID
    is_admin: bool | Unsaid = UNSAID
    limits: Mapping[str, Any] = field(default_factory=dict)  # by name; None lifts one

    def columns(self, before: Limits = NO_LIMITS) -> dict[str, Any]:
        """Raises: InvalidRequest."""
        if isinstance(self.tenant, str) and not _is_name(self.tenant):
            raise InvalidRequest(f"a tenant's name has to be 1 to {MAX_NAME} printable characters", param="tenant")
        said = {"tenant": self.tenant, "expires": self.expires, "is_admin": self.is_admin}
        limits = read_limits({k: v for k, v in {**before.as_json(), **self.limits}.items() if v is not None})
        return {k: v for k, v in said.items() if v is not UNSAID} | {"limits": json.dumps(limits.as_json())}


def hash_of(token: str) -> str:
    return sha256(token.encode()).hexdigest()


async def create_key(
    database: Database, name: str, wanted: Wanted | None = None, *, clock: Callable[[], float] = time.time
) -> tuple[KeyInfo, str]:
    """Make a key. Returns it with its token, which is stored nowhere and cannot be shown again.

    Raises: InvalidRequest where the name is taken by an active key, or is not 1 to 64 printable characters, and for
    limits that are none.
    """
    if not _is_name(name):
        raise InvalidRequest(
            f"a key's name has to be 1 to {MAX_NAME} printable characters, without space around it", param="name"
        )
    token = _new_token()
    row = {"name": name, "hash": hash_of(token), "last4": token[-4:], "created": clock()}
    row |= (wanted or Wanted()).columns()
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


async def revoke_key(database: Database, name: str, *, clock: Callable[[], float] = time.time) -> KeyInfo:
    """Raises: NotFound where no active key has this name."""
    return await _change(database, name, lambda before: {"revoked": clock()})


async def change_key(database: Database, name: str, wanted: Wanted) -> KeyInfo:
    """Raises: NotFound where no active key has this name, InvalidRequest."""
    return await _change(database, name, lambda before: wanted.columns(before.limits))


async def rotate_key(
    database: Database, name: str, grace_s: float = 0.0, *, clock: Callable[[], float] = time.time
) -> tuple[KeyInfo, str]:
    """Give a key another token; the one it had is good for `grace_s` more. Raises: NotFound, InvalidRequest."""
    if not 0 <= grace_s <= MOST_GRACE_S:
        raise InvalidRequest(f"the old token may stay for {MOST_GRACE_S // 86_400} days at most", param="grace_s")
    token = _new_token()
    fresh = {"hash": hash_of(token), "last4": token[-4:]}
    old = {"old_hash": KEYS.c.hash, "old_until": clock() + grace_s}
    return await _change(database, name, lambda before: {**fresh, **old}), token


async def _change(database: Database, name: str, columns: Callable[[KeyInfo], Mapping[str, Any]]) -> KeyInfo:
    own = and_(KEYS.c.name == name, KEYS.c.revoked.is_(None))
    async with database.write() as connection:
        row = (await connection.execute(select(*COLUMNS).where(own))).one_or_none() if _is_name(name) else None
        if row is None:
            raise NotFound(f"there is no active key named {name!r}", param="name")
        changed = update(KEYS).where(own).values(version=KEYS.c.version + 1, **columns(_info(row)))
        return _info((await connection.execute(changed.returning(*COLUMNS))).one())


def _new_token() -> str:
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def _is_name(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME and name.isprintable() and name == name.strip()


def _info(row: Sequence[Any]) -> KeyInfo:
    id, name, created, revoked, last4, expires, tenant, is_admin, limits = row
    limits = read_limits(json.loads(limits))
    return KeyInfo(id, name, created, revoked, last4, expires, tenant, is_admin, limits)


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
    """Checks keys in memory, and follows the database: a key made, changed or revoked by any process counts within
    `refresh_s` and one short query.

    Until `start` has read the keys nobody is let in. While the database cannot be read, the last keys read count.
    """

    def __init__(self, database: Database, refresh_s: float = 1.0, *, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock
        self._refresh_s = refresh_s
        self._snapshot = Snapshot({}, 0, None)
        self._closing, self._news = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._complaints = Complaints(logger)

    @property
    def is_open(self) -> bool:
        """No key was ever stored, so none is asked for. Revoking the last one does not open the server again."""
        return self._snapshot.mark is not None and self._snapshot.stored == 0

    def check(self, presented: str | None) -> KeyInfo | None:
        """The active key with this token; None where there is none. Microseconds, no I/O."""
        found = self._find(presented) if presented is not None else None
        if found is not None and found.expires is not None and found.expires <= self._clock():
            return None
        return found

    def _find(self, presented: str) -> KeyInfo | None:
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
            raise GatewayError(f"cannot read the keys in {self._database.name}: {reason}") from exc
        self._task = asyncio.create_task(self._follow(), name="key ring")

    async def refresh(self) -> None:
        """Read the keys now, if any changed. Raises: SQLAlchemyError where the database refuses."""
        # No clock in the mark: after one is set back, the newest change would not have the latest time. Ids and
        # versions only grow.
        mark_query = select(*(func.coalesce(each, 0) for each in (func.max(KEYS.c.id), func.sum(KEYS.c.version))))
        all_of_them = select(KEYS.c.version, KEYS.c.hash, KEYS.c.old_hash, KEYS.c.old_until, *COLUMNS)
        async with self._database.read() as connection:
            if self._snapshot.mark is not None:
                mark = tuple((await connection.execute(mark_query.select_from(KEYS))).one())
                if mark == self._snapshot.mark:
                    return
            rows = (await connection.execute(all_of_them)).all()
        mark = (max((row.id for row in rows), default=0), sum(row.version for row in rows))
        active: dict[bytes, KeyInfo] = {}
        for _, hash, old_hash, old_until, *columns in rows:
            info = _info(columns)
            if info.revoked is None:
                active[bytes.fromhex(hash)] = info
                if old_hash is not None:
                    until = old_until if info.expires is None else min(old_until, info.expires)
                    active[bytes.fromhex(old_hash)] = replace(info, expires=until)
        self._snapshot = Snapshot(active, len(rows), mark)

    def look_soon(self) -> None:
        """Somebody says that there is another key, or one less."""
        self._news.set()

    async def close(self) -> None:
        self._closing.set()
        self._news.set()
        if self._task is not None:
            await self._task
            self._task = None

    async def _follow(self) -> None:
        while not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._refresh_s)
            if self._closing.is_set():
                return
            self._news.clear()
            try:
                await self.refresh()
            except Exception as exc:  # whatever it is, the keys must be followed on
                reason = getattr(exc, "orig", None) or type(exc).__name__
                self._complaints.say(f"the keys could not be read again: {reason}; those of the last reading count")
