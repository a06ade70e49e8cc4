from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from sqlalchemy import delete, text

from gateway.access.keys import (
    MOST_REMEMBERED,
    TOKEN_LENGTH,
    KeyInfo,
    KeyRing,
    create_key,
    hash_of,
    list_keys,
    revoke_key,
)
from gateway.errors import GatewayError, InvalidRequest, NotFound
from gateway.store.database import Database
from gateway.store.tables import KEYS
from tests.store.conftest import again, in_a_file, place_of


async def until(condition: Callable[[], bool], within_s: float = 2.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


async def ring_on(database: Database) -> KeyRing:
    """A ring that only reads when it is told to."""
    ring = KeyRing(database)
    await ring.refresh()
    return ring


async def test_a_key_is_made_and_let_in(database: Database) -> None:
    info, token = await create_key(database, "app", clock=lambda: 5.0)
    assert re.fullmatch(r"ogw_[A-Za-z0-9_-]{43}", token)
    assert len(token) == TOKEN_LENGTH
    assert info == KeyInfo(id=1, name="app", created=5.0, revoked=None, last4=token[-4:])
    ring = await ring_on(database)
    assert ring.check(token) == info
    assert ring.check(token) == info  # the remembered one


async def test_a_wrong_key_is_not_let_in(database: Database) -> None:
    _, token = await create_key(database, "app")
    ring = await ring_on(database)
    swapped = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in (None, "", swapped, token + "x", token[:-1], token.upper(), f" {token}", "é" * 47, hash_of(token)):
        assert ring.check(wrong) is None
        assert ring.check(wrong) is None


@in_a_file
async def test_a_token_is_nowhere_on_disk(database: Database) -> None:
    _, token = await create_key(database, "app")
    files = [path for path in database.path.parent.iterdir() if path.is_file()]
    assert any(path.name.endswith("-wal") for path in files)
    data = b"".join(path.read_bytes() for path in files)
    assert hash_of(token).encode() in data
    assert token.encode() not in data
    assert token.removeprefix("ogw_").encode() not in data


async def test_tokens_differ(database: Database) -> None:
    tokens = {(await create_key(database, f"app {number}"))[1] for number in range(5)}
    assert len(tokens) == 5


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "a\x00", " ", "a ", "\u200b"])
async def test_a_name_has_to_be_printable(database: Database, name: str) -> None:
    with pytest.raises(InvalidRequest, match="1 to 64 printable"):
        await create_key(database, name)
    assert await list_keys(database) == ()


async def test_a_name_is_free_again_once_its_key_is_revoked(database: Database) -> None:
    await create_key(database, "app")
    with pytest.raises(InvalidRequest, match="there is an active key named 'app'"):
        await create_key(database, "app")
    await revoke_key(database, "app")
    await create_key(database, "app")
    assert [(key.name, key.revoked is None) for key in await list_keys(database)] == [("app", False), ("app", True)]


async def test_a_revoked_key_is_not_let_in(database: Database) -> None:
    _, token = await create_key(database, "app")
    _, other = await create_key(database, "other")
    ring = await ring_on(database)
    assert ring.check(token) is not None
    revoked = await revoke_key(database, "app", clock=lambda: 7.0)
    assert (revoked.name, revoked.revoked) == ("app", 7.0)
    await ring.refresh()
    assert ring.check(token) is None
    assert ring.check(other) is not None


async def test_only_an_active_key_can_be_revoked(database: Database) -> None:
    await create_key(database, "app")
    await revoke_key(database, "app")
    for name in ("app", "nobody", "\ud800"):
        with pytest.raises(NotFound, match="no active key named"):
            await revoke_key(database, name)


async def test_revoking_the_last_key_does_not_open_the_server(database: Database) -> None:
    ring = KeyRing(database)
    assert not ring.is_open  # nothing read yet
    await ring.refresh()
    assert ring.is_open
    await create_key(database, "app")
    await ring.refresh()
    assert not ring.is_open
    await revoke_key(database, "app")
    await ring.refresh()
    assert not ring.is_open


async def test_a_change_counts_whatever_the_clock_says(database: Database) -> None:
    await create_key(database, "a", clock=lambda: 1000.0)
    _, token = await create_key(database, "b", clock=lambda: 1000.0)
    ring = await ring_on(database)
    await revoke_key(database, "b", clock=lambda: 1.0)
    await ring.refresh()
    assert ring.check(token) is None


async def test_a_deleted_row_counts_too(database: Database) -> None:
    _, token = await create_key(database, "a")
    ring = await ring_on(database)
    async with database.write() as connection:
        await connection.execute(delete(KEYS))
    _, newer = await create_key(database, "b")
    await ring.refresh()
    assert ring.check(token) is None
    assert ring.check(newer) is not None


async def test_keys_are_read_again_only_when_they_changed(database: Database) -> None:
    _, token = await create_key(database, "a")
    ring = await ring_on(database)
    ring.check(token)
    before = ring._snapshot
    await ring.refresh()
    assert ring._snapshot is before


async def test_what_is_remembered_is_bounded(database: Database) -> None:
    _, token = await create_key(database, "app")
    ring = await ring_on(database)
    for number in range(MOST_REMEMBERED * 2):
        assert ring.check(f"ogw_{number:043d}") is None
        assert ring.check("x" * (100_000 + number % 7)) is None
    assert len(ring._snapshot.seen) <= MOST_REMEMBERED
    assert max(map(len, ring._snapshot.seen)) == TOKEN_LENGTH
    assert ring.check(token) is not None


CREATE = """
import asyncio, sys
from pathlib import Path
from gateway.access.keys import create_key
from gateway.store.database import open_database
async def main():
    database = await open_database(Path(sys.argv[1]), *sys.argv[2:])
    info, token = await create_key(database, "from outside")
    await database.close()
    print(token)
asyncio.run(main())
"""


async def test_a_key_of_another_process_counts_within_two_seconds(database: Database) -> None:
    ring = KeyRing(database)
    await ring.start()
    command = [sys.executable, "-W", "error", "-c", CREATE, *place_of(database)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    started = time.monotonic()
    await until(lambda: ring.check(done.stdout.strip()) is not None)
    assert time.monotonic() - started < 2
    await ring.close()


async def test_a_key_revoked_elsewhere_is_refused_soon(database: Database) -> None:
    _, token = await create_key(database, "app")
    ring = KeyRing(database, refresh_s=0.02)
    await ring.start()
    assert ring.check(token) is not None
    other = await again(database)
    await revoke_key(other, "app")
    await other.close()
    await until(lambda: ring.check(token) is None)
    await ring.close()


async def test_a_poll_that_fails_keeps_the_keys_and_is_told_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    _, token = await create_key(database, "app")
    polls = 0
    ring = KeyRing(database, refresh_s=0.005)
    await ring.start()
    real_refresh = ring.refresh

    async def counted() -> None:
        nonlocal polls
        polls += 1
        await real_refresh()

    ring.refresh = counted  # type: ignore[method-assign]  # to see that it goes on
    async with database.write() as connection:
        await connection.execute(text("ALTER TABLE keys RENAME TO hidden"))
    await until(lambda: "no such table" in caplog.text or "does not exist" in caplog.text)
    polls = 0
    await until(lambda: polls >= 3)
    assert ring.check(token) is not None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    async with database.write() as connection:
        await connection.execute(text("ALTER TABLE hidden RENAME TO keys"))
    await revoke_key(database, "app")
    await until(lambda: ring.check(token) is None)
    await ring.close()


async def test_a_ring_that_cannot_read_does_not_start(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(text("DROP TABLE keys"))
    ring = KeyRing(database)
    with pytest.raises(GatewayError, match="cannot read the keys"):
        await ring.start()
    assert not ring.is_open
    await ring.close()


async def test_closing_at_once_and_twice(database: Database) -> None:
    ring = KeyRing(database, refresh_s=3600)
    await ring.start()
    await ring.close()
    await ring.close()
