"""Throws bent replies and event streams at what reads them: `python -m tests.transport.fuzz --seconds 60`.

Starts from `corpus/`, bends what is there, and goes on from whatever made the readers behave in a new way: another row
of parser callbacks, another error. A reply or stream that breaks a promise is written to `--failures`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from gateway.transport.connection import MAX_BUFFERED_BYTES, MAX_INFLATED_BYTES, Connection
from gateway.transport.sse import EventTooLarge, SseDecoder
from tests.transport.raw import Outcome, outcome

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 48_000
ALLOWED = {None, "ConnectionCut", "Malformed", "Odd", "ReplyTooLarge", "TimeoutError"}
WORDS = [
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b":", b" ", b"\t", b"\0", b"\xff", b";", b"0", b"-1", b"ffffffff"),
    *(b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/2 ", b"100", b"101", b"200", b"204", b"304", b"999", b"0\r\n\r\n"),
    *(b"HTTP/1.1 100 C\r\n\r\n", b"content-length: ", b"transfer-encoding: ", b"chunked", b"identity", b"deflate"),
    *(b"content-encoding: gzip\r\n", b"\x1f\x8b\x08", b"connection: close\r\n", b"connection: upgrade\r\n"),
    *(b"upgrade: x\r\n", b"keep-alive: timeout=1\r\n", b"data: ", b"data", b": c", b"event: ", b"id: ", b"[DONE]"),
    *(b"\n\n", b"\xef\xbb\xbf"),
]
Behaviour = tuple[object, ...]


class Broken(Exception):
    """A promise was not kept."""


class Traced(Connection):
    """Notes the row of callbacks."""

    __slots__ = ("row",)
    last: Traced

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        self.row: list[str] = []
        Traced.last = self
        super().__init__(on_lost)

    def on_message_begin(self) -> None:
        self.row.append("b")
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.row.append("h")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.row.append("H")
        super().on_headers_complete()

    def on_body(self, piece: bytes) -> None:
        self.row.append("d")
        super().on_body(piece)

    def on_message_complete(self) -> None:
        self.row.append("M")
        super().on_message_complete()


def cut(stream: bytes, chance: random.Random) -> list[bytes]:
    edges = sorted({0, len(stream), *(chance.randint(0, len(stream)) for _ in range(chance.randint(1, 8)))})
    return [stream[a:b] for a, b in zip(edges, edges[1:], strict=False)]


async def try_reply(stream: bytes, chance: random.Random) -> Behaviour:
    """Raises: Broken."""
    most = MAX_BUFFERED_BYTES + MAX_INFLATED_BYTES
    found = await outcome([stream], ends=True, most=most, make=Traced)
    row = re.sub(r"(.)\1+", r"\1+", "".join(Traced.last.row))
    for pieces in (cut(stream, chance), cut(stream, chance), [stream[i : i + 1] for i in range(min(len(stream), 200))]):
        if sum(map(len, pieces)) == len(stream):
            again = await outcome(pieces, ends=True, most=most)
            if not _agree(found, again):
                raise Broken(f"{_short(found)} in one read, but {_short(again)} in {[len(p) for p in pieces]}")
    by_all = await outcome([stream], ends=True, limit=1 << 26)
    if found.error is None and (by_all.body, by_all.error) != (found.body, None):
        raise Broken(f"{_short(found)} by read_some, but {_short(by_all)} by read")
    for one in (found, by_all, await outcome([stream], ends=False, due=time.monotonic() + 0.002)):
        if one.error not in ALLOWED:
            raise Broken(f"raises {one.error}")
        if one.is_kept and one.error is not None:
            raise Broken(f"kept after {one.error}")
    return row[:60], found.reason, found.status // 100, found.is_kept, len(found.body).bit_length()


def _agree(one: Outcome, other: Outcome) -> bool:
    if one.status != other.status or (one.status and one.headers != other.headers):
        return False
    if "ReplyTooLarge" in (one.error, other.error):  # that is what one read may swell to
        return True
    if one.error is not None:  # what went before it came as far as it was read
        return one.error == other.error and _is_start(one.body, other.body)
    return (one.body, one.error) == (other.body, other.error)


def _is_start(one: bytes, other: bytes) -> bool:
    return one.startswith(other) or other.startswith(one)


def _short(found: Outcome) -> str:
    return f"{found.status} {len(found.headers)} headers {found.body[:40]!r} ({len(found.body)}) {found.reason}"


async def try_events(stream: bytes, chance: random.Random) -> Behaviour:
    """Raises: Broken."""

    def events(pieces: list[bytes]) -> list[bytes] | str:
        decoder = SseDecoder()
        try:
            return [event for piece in pieces for event in decoder.feed(piece)] + decoder.flush()
        except EventTooLarge:
            return "too large"

    whole = events([stream])
    for pieces in (cut(stream, chance), [stream[i : i + 1] for i in range(len(stream))]):
        if events(pieces) != whole:
            raise Broken(f"{whole!r:.200} in one read, but {events(pieces)!r:.200} in {[len(p) for p in pieces]}")
    shape = re.sub(
        r"(.)\1+", r"\1+", "".join("re:d."["\r\n:d".find(c) if c in "\r\n:d" else 4] for c in stream.decode("latin-1"))
    )
    return shape[:12], len(whole), max(map(len, whole), default=0).bit_length()


TARGETS = {".http": try_reply, ".sse": try_events}


def bent(stream: bytes, others: list[bytes], chance: random.Random) -> bytes:
    made = bytearray(stream)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randint(0, len(made))
        to = min(len(made), at + chance.choice((1, 2, 8, 64)))
        match chance.randrange(8):
            case 0:
                made[at:to] = b""
            case 1:
                made[at:at] = chance.choice(WORDS)
            case 2:
                made[at:to] = chance.choice(WORDS)
            case 3:
                made[at:at] = made[at:to] * chance.choice((1, 2, 50))
            case 4 if made:
                made[at % len(made)] ^= 1 << chance.randrange(8)
            case 5:
                other = chance.choice(others)
                made[at:] = other[chance.randint(0, len(other)) :]
            case 6:
                del made[at:]
            case _:
                made[at:at] = chance.randbytes(chance.choice((1, 4, 40)))
    return bytes(made[:LONGEST])


async def replay(file: Path, chance: random.Random) -> Behaviour:
    return await TARGETS[file.suffix](file.read_bytes(), chance)


async def fuzz(chance: random.Random, *, until: Callable[[int], bool], failures: Path | None = None) -> tuple[int, int]:
    """Returns: how many were tried, how many behaviours were seen. Raises: Broken."""
    pools: dict[str, list[bytes]] = {suffix: [] for suffix in TARGETS}
    seen: set[Behaviour] = set()
    for file in sorted(CORPUS.iterdir()):
        seen.add(await replay(file, chance))
        pools[file.suffix].append(file.read_bytes())
    tried = 0
    while until(tried):
        tried += 1
        suffix = ".http" if chance.random() < 0.8 else ".sse"
        stream = bent(chance.choice(pools[suffix]), pools[suffix], chance)
        try:
            behaviour = await TARGETS[suffix](stream, chance)
        except (Exception, AssertionError) as exc:
            if failures is not None:
                failures.mkdir(parents=True, exist_ok=True)
                name = failures / f"{hashlib.sha256(stream).hexdigest()[:12]}{suffix}"
                name.write_bytes(stream)
                exc.add_note(str(name))
            exc.add_note(repr(stream[:400]))
            raise
        if behaviour not in seen:
            seen.add(behaviour)
            pools[suffix].append(stream)
    return tried, len(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"))
    given = parser.parse_args()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    end = time.monotonic() + given.seconds
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        work = fuzz(random.Random(seed), until=lambda _: time.monotonic() < end, failures=given.failures)
        tried, behaviours = runner.run(work)
    sys.stdout.write(f"seed {seed}: {tried} tried, {behaviours} behaviours, no promise broken\n")


if __name__ == "__main__":
    main()
