"""A subscription: this node follows another one's feed.

Pages are believed when a trusted publisher has signed them for the very question that was asked. What was applied stays
when a pull is cut; the next one goes on from there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import random
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gateway.errors import GatewayError, InvalidRequest
from gateway.shards.sharing.adopting import Adopted, Adoption, Receiver
from gateway.shards.sharing.feed import FORMAT, LIMIT, PURPOSE, digest_of, signed_bytes
from gateway.shards.sharing.records import read_record
from gateway.shards.sharing.sidecar import FOLDER, read_json, write_json
from gateway.shards.sharing.signing import PublicKey, find_trusted
from gateway.shards.store import ShardStore
from gateway.transport import ConnectFailed, ConnectionCut, HttpClient, HttpReply, ReplyTooLarge

logger = logging.getLogger(__name__)

MAX_PAGE_BYTES = 16 * 2**20
MAX_HELD = 200_000
CONNECT_S = 10.0
PAGE_S = 60.0
CHECK_EVERY_S = 24 * 3600.0  # "nothing new" is not signed: at least once a day a signed page says so
FIRST_WAIT_S = 5.0
MOST_WAIT_S = 3600.0
NAME = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?")


class FeedError(GatewayError):
    """The feed cannot be read, or is not what it should be. `wait_s`: how long the other side wants to be left."""

    status = 502

    def __init__(self, message: str, *, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


# -- what is remembered ------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """How far it has come.

    Args:
        publisher, store: whose feed it is, and which store of theirs.
        audience: for whom it is taken here.
        after: the newest revision that was seen.
        etag: of the last page, while nothing more was to be had.
        held: the publisher's ids, with their revisions, those that were revoked among them.
        old: while all is read again: what was held before, to be retired unless it comes.
        checked: when a signed page last came, in unix seconds.
    """

    publisher: str = ""
    store: str = ""
    audience: str = ""
    after: int = 0
    etag: str = ""
    held: dict[str, int] = field(default_factory=dict)
    old: list[str] = field(default_factory=list)
    checked: float = 0.0

    def begin_again(self, store: str) -> None:
        self.old = sorted({*self.old, *self.held})
        self.store, self.after, self.etag, self.held = store, 0, "", {}


class ProgressFile:
    """`home/shards/NAME.json`. A file that was lost or damaged costs one whole reading, and nothing else."""

    def __init__(self, home: Path, name: str) -> None:
        self.path = home / FOLDER / f"subscription-{name}.json"

    def load(self) -> Progress:
        data = read_json(self.path)
        try:
            return Progress(**ProgressSpec.model_validate(data).model_dump())
        except ValidationError:
            return Progress()

    def save(self, progress: Progress) -> None:
        write_json(self.path, vars(progress))


class ProgressSpec(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    publisher: str = ""
    store: str = ""
    audience: str = ""
    after: int = 0
    etag: str = ""
    held: dict[str, int] = {}
    old: list[str] = []
    checked: float = 0.0


# -- pages -------------------------------------------------------------------------------------------------------

Revision = Annotated[int, Field(ge=0, lt=2**63)]
Id = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]


class HeldSpec(BaseModel):
    count: Revision
    digest: Id


class EntrySpec(BaseModel):
    """A record, or a revocation; a record's other fields are looked at one by one."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: Id
    revision: Revision
    revoked: bool = False


class PageSpec(BaseModel):
    """Other fields may come to it."""

    model_config = ConfigDict(extra="ignore", strict=True)

    format: int
    store: Id
    after: Revision
    newest: Revision
    data: Annotated[list[EntrySpec], Field(max_length=1000)]
    next: Revision | None
    held: HeldSpec


@dataclass
class Pulled(Adopted):
    """`entries`: records and revocations that came. `restarts`: why all was read again."""

    pages: int = 0
    entries: int = 0
    restarts: list[str] = field(default_factory=list)

    @property
    def is_current(self) -> bool:
        """Nothing had changed."""
        return not self.entries and not self.restarts


class Subscription:
    """Args:
    name: of the subscription, for people; the ids of its shards hang on it.
    url: of the feed, up to and with its path.
    trusted: the keys of publishers, by id; the feed must be signed with one of them.
    own_key_id: of this node, where it has one: what has already passed it is not taken back.
    clock: unix seconds.
    """

    def __init__(
        self,
        name: str,
        url: str,
        client: HttpClient,
        trusted: Mapping[str, PublicKey],
        *,
        api_key: str | None = None,
        receiver: Receiver | None = None,
        own_key_id: str | None = None,
        limit: int = LIMIT,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not NAME.fullmatch(name):
            raise InvalidRequest("a subscription's name is 1 to 64 of a-z, 0-9, '_' and '-'", param="name")
        self.name = name
        self._url, self._client, self._trusted, self._api_key = url, client, trusted, api_key
        self._receiver = receiver or Receiver()
        self._own_key_id = own_key_id
        self._limit = limit
        self._clock, self._sleep = clock, sleep

    async def pull(self, store: ShardStore, state: ProgressFile) -> Pulled:
        """Take what has changed since the last pull. Raises: FeedError, SigningError; what was applied stays."""
        progress = await asyncio.to_thread(state.load)
        report = Pulled()
        if progress.audience != self._receiver.audience:
            progress = await self._move(store, progress, report)
        while True:
            got = await self._fetch(progress)
            if got is None:
                return report
            page, publisher, etag = got
            report.pages += 1
            if self._restart(progress, page, publisher, report):
                continue
            await self._apply(store, progress, page, report)
            progress.checked = self._clock()
            is_last = page.next is None
            if is_last and not await self._finish(store, progress, page, etag, report):
                continue
            await asyncio.to_thread(state.save, progress)
            if is_last:
                return report

    async def _move(self, store: ShardStore, progress: Progress, report: Pulled) -> Progress:
        """It is for somebody else now: from those who had it, it is taken away."""
        if progress.held and progress.audience:
            adoption = self._adoption(store, progress.publisher)
            ids = {adoption.local_id(id, progress.audience) for id in {*progress.held, *progress.old}}
            await adoption.retire(ids, report, "for others now")
        return Progress(audience=self._receiver.audience)

    def _restart(self, progress: Progress, page: PageSpec, publisher: str, report: Pulled) -> bool:
        """Is it to be read from the beginning? What that reading does not bring is retired at its end."""
        if not progress.store:
            progress.publisher, progress.store = publisher, page.store
        why = ""
        if progress.publisher != publisher:
            raise FeedError(
                f"the feed '{self.name}' was signed by {progress.publisher}, and is now by {publisher}: "
                "subscribe under another name, if that is meant"
            )
        if progress.store != page.store:
            why = "the publisher has a new store"
        elif page.newest < progress.after:
            why = "the publisher's store has gone back"
        if not why:
            return False
        self._begin_again(progress, page.store, why, report)
        return True

    def _begin_again(self, progress: Progress, store: str, why: str, report: Pulled) -> None:
        if len(report.restarts) == 2:
            raise FeedError(f"the feed '{self.name}' does not agree with itself: {why}, again and again")
        report.restarts.append(why)
        progress.begin_again(store)

    async def _apply(self, store: ShardStore, progress: Progress, page: PageSpec, report: Pulled) -> None:
        report.entries += len(page.data)
        if len(progress.held) + len(page.data) > MAX_HELD:
            raise FeedError(f"the feed '{self.name}' has more than {MAX_HELD} shards")
        adoption = self._adoption(store, progress.publisher)
        records, revoked = [], []
        for entry in page.data:
            if entry.revoked:
                revoked.append(entry.id)
                continue
            try:
                record = read_record({"id": entry.id, **(entry.model_extra or {})})
            except InvalidRequest as exc:
                report.reject(entry.id, exc.message)
                revoked.append(entry.id)  # the text that is held is no longer what its publisher says
                continue
            if self._own_key_id is not None and self._own_key_id in (*record.via, progress.publisher):
                report.reject(entry.id, "it comes from this node")
            elif record.personal:
                report.reject(entry.id, "it is about one user")
            else:
                records.append(record)
        await adoption.drop(revoked, report)
        await adoption.take(records, report)
        progress.held |= {entry.id: entry.revision for entry in page.data}
        progress.after = max([progress.after, *(entry.revision for entry in page.data)])

    async def _finish(self, store: ShardStore, progress: Progress, page: PageSpec, etag: str, report: Pulled) -> bool:
        """At the end, both sides must hold the same. Where not, all is read again."""
        held = sorted(progress.held.items(), key=lambda one: one[1])
        if digest_of(held) != page.held.digest:
            self._begin_again(progress, page.store, "the publisher holds something else", report)
            return False
        gone = set(progress.old) - progress.held.keys()
        await self._adoption(store, progress.publisher).drop(gone, report, "no longer there")
        progress.old, progress.etag = [], etag
        return True

    def _adoption(self, store: ShardStore, publisher: str) -> Adoption:
        return Adoption(store, self._receiver, "feed", publisher, self.name)

    # -- over HTTP -----------------------------------------------------------------------------------------------

    async def _fetch(self, progress: Progress) -> tuple[PageSpec, str, str] | None:
        """The page after what was seen, its publisher and its ETag; None where nothing has changed."""
        nonce = secrets.token_hex(16)
        headers = {"accept": "application/json", "accept-encoding": "gzip", "x-gateway-nonce": nonce}
        if self._api_key:
            headers["authorization"] = f"Bearer {self._api_key}"
        is_due = not 0 <= self._clock() - progress.checked < CHECK_EVERY_S
        if progress.etag and not is_due:
            headers["if-none-match"] = progress.etag
        url = f"{self._url}?after={progress.after}&limit={self._limit}"
        due = time.monotonic() + PAGE_S
        reply: HttpReply | None = None
        try:
            reply = await self._client.get(url, headers, connect_s=CONNECT_S, due=due)
            if reply.status == 304 and "if-none-match" in headers:
                await reply.read(0, due)
                return None
            if reply.status != 200:
                self._refused(reply)
            body = await reply.read(MAX_PAGE_BYTES, due)
        except ConnectFailed:
            raise FeedError(f"the feed '{self.name}' cannot be reached") from None
        except (ConnectionCut, TimeoutError):
            raise FeedError(f"the feed '{self.name}' broke off, or took longer than {PAGE_S:g} s") from None
        except ReplyTooLarge:
            raise FeedError(f"the feed '{self.name}' answers with more than {MAX_PAGE_BYTES >> 20} MiB") from None
        finally:
            if reply is not None:
                reply.close()
        publisher = self._verify(reply.headers.get("x-gateway-signature", ""), nonce, body)
        return self._page(body, progress.after), publisher, reply.headers.get("etag", "")

    def _refused(self, reply: HttpReply) -> NoReturn:
        status = reply.status
        after = reply.headers.get("retry-after", "")
        wait_s = float(after) if after.isascii() and after.isdigit() and len(after) < 6 else 0.0
        said = {401: "refuses the key" if self._api_key else "wants a key", 404: "is not there"}
        raise FeedError(f"the feed '{self.name}' {said.get(status, f'answers with HTTP {status}')}", wait_s=wait_s)

    def _verify(self, header: str, nonce: str, body: bytes) -> str:
        """Returns the publisher's key id. Raises: FeedError, SigningError."""
        id, _, encoded = header.partition(" ")
        try:
            signature = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            signature = b""
        if not signature:
            raise FeedError(f"the feed '{self.name}' is not signed")
        find_trusted(self._trusted, id).check(PURPOSE, signed_bytes(nonce, body), signature)
        return id

    def _page(self, body: bytes, after: int) -> PageSpec:
        """Raises: FeedError for what a publisher should not have signed."""
        try:
            data: Any = orjson.loads(body)
            if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
                raise FeedError(f"the feed '{self.name}' has format {data['format']}: upgrade this gateway")
            page = PageSpec.model_validate(data)
        except (orjson.JSONDecodeError, ValidationError):
            raise FeedError(f"the feed '{self.name}' answers with something that is no page of a feed") from None
        revisions = [entry.revision for entry in page.data]
        is_ordered = all(a < b for a, b in zip([after, *revisions], revisions, strict=False))
        expected = revisions[-1] if revisions else None
        if page.after != after or not is_ordered or page.next not in (None, expected):
            raise FeedError(f"the feed '{self.name}' answers with a page that was not asked for")
        return page

    # -- in the background ---------------------------------------------------------------------------------------

    async def run(
        self,
        store: ShardStore,
        state: ProgressFile,
        interval_s: float,
        on_report: Callable[[Pulled], None] = lambda report: None,
    ) -> None:
        """Pull again and again, until cancelled. After failures it waits longer each time, and never in step with
        others."""
        failures = 0
        while True:
            wait_s = interval_s * random.uniform(0.9, 1.1)
            try:
                on_report(await self.pull(store, state))
                failures = 0
            except GatewayError as exc:
                failures += 1
                wait_s = wait_after(failures, exc.wait_s if isinstance(exc, FeedError) else 0.0)
                logger.warning("subscription '%s': %s; again in %.0f s", self.name, exc.message, wait_s)
            except Exception:
                failures += 1
                wait_s = wait_after(failures)
                logger.exception("subscription '%s' failed; again in %.0f s", self.name, wait_s)
            await self._sleep(wait_s)


def wait_after(failures: int, wanted_s: float = 0.0) -> float:
    """Seconds: doubled with each failure up to an hour, half of it by chance; what the other side wants, at least."""
    doubled = FIRST_WAIT_S * 2.0 ** min(failures - 1, 20)
    return max(min(wanted_s, MOST_WAIT_S), min(MOST_WAIT_S, doubled) * random.uniform(0.5, 1.0))
