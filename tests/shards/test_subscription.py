from __future__ import annotations

import asyncio
import base64
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.errors import GatewayError, InvalidRequest
from gateway.shards import Scope, Shard, Standing, State
from gateway.shards.sharing.adopting import Receiver
from gateway.shards.sharing.feed import PURPOSE, signed_bytes
from gateway.shards.sharing.signing import SigningError, own_signer
from gateway.shards.sharing.subscription import FeedError, ProgressFile, Pulled, Subscription, wait_after
from gateway.shards.store import ShardStore, Where
from gateway.store.database import FILE_NAME, open_database
from gateway.trace import new_id
from gateway.transport.client import PooledClient
from tests.shards.nodes import Node, between, fact, new_home, packed_zeros, publishing, recipe

Json = dict[str, Any]


class Follower:
    """A node that subscribes. `now` is its clock."""

    def __init__(self, home: Path, store: ShardStore, client: PooledClient) -> None:
        self.home, self.store, self.client = home, store, client
        self.now = 1000.0
        self.state = ProgressFile(home, "big")

    def of(self, node: Node, url: str = "", **options: Any) -> Subscription:
        options = {"trusted": node.trusted, "clock": lambda: self.now, **options}
        return Subscription("big", url or node.url, self.client, **options)

    async def pull(self, node: Node, url: str = "", **options: Any) -> Pulled:
        return await self.of(node, url, **options).pull(self.store, self.state)

    async def facts(self, *states: State) -> list[str]:
        found = await self.store.find(Where(states=states or (State.CANDIDATE, State.TRIAL, State.LIVE)))
        return sorted(shard.fact for shard in found)

    async def refuses(self, node: Node, url: str, kind: type[GatewayError], words: str, **options: Any) -> None:
        """Nothing is written, and nothing is told of where it asked."""
        before = (await self.store.newest(), self.state.load())
        with pytest.raises(kind, match=words) as caught:
            await self.pull(node, url, **options)
        assert "127.0.0.1" not in caught.value.message and "\n" not in caught.value.message
        assert (await self.store.newest(), self.state.load()) == before


Publish = Callable[..., Awaitable[Node]]


@pytest.fixture
async def publish(tmp_path: Path, empty_database: Path) -> AsyncIterator[Publish]:
    async with AsyncExitStack() as stack:

        async def start(name: str = "node", home: Path | None = None, **options: Any) -> Node:
            home = home or new_home(tmp_path / name, empty_database)
            return (await stack.enter_async_context(publishing(home, **options)))[0]

        yield start


@pytest.fixture
async def node(publish: Publish) -> Node:
    return await publish()


@pytest.fixture
async def here(tmp_path: Path, empty_database: Path) -> AsyncIterator[Follower]:
    home = new_home(tmp_path / "here", empty_database)
    database, client = await open_database(home), PooledClient()
    yield Follower(home, ShardStore(database), client)
    await client.close()
    await database.close()


async def untouched(request: web.Request, body: bytes, headers: dict[str, str]) -> None:
    return None


# --- what is taken


async def test_a_first_pull_takes_all_and_the_next_what_changed(node: Node, here: Follower) -> None:
    made = await node.store.put([fact(f"Fact {n}.") for n in range(5)])
    report = await here.pull(node, limit=2)
    assert (report.new, report.pages, report.is_current) == (5, 3, False)
    await node.store.put([made[1].now(fact="Fact 1, anew."), fact("Fact 5.")])
    report = await here.pull(node, limit=2)
    assert (report.new, report.changed, report.pages, report.entries) == (1, 1, 1, 2)
    assert await here.facts() == ["Fact 0.", "Fact 1, anew.", "Fact 2.", "Fact 3.", "Fact 4.", "Fact 5."]
    assert node.seen[-1] == ("after=5&limit=2", 200)


async def test_shards_come_as_candidates_with_claims(node: Node, here: Follower) -> None:
    (made,) = await node.store.put([recipe(state=State.LIVE, tenant="", source="/home/x")])
    await node.store.set_standings([Standing(made.id, "core", State.LIVE, "fp", {"lift": 0.4})])
    receiver = Receiver(tenant="acme", writer="ops", needs_review=True)
    await here.pull(node, receiver=receiver)
    (got,) = await here.store.find(Where())
    assert got.id != made.id and got.examples == made.examples and got.state is State.CANDIDATE
    assert (got.tenant, got.writer, got.needs_review, got.scope) == ("acme", "ops", True, Scope.TENANT)
    assert got.source == f"feed:{node.key.id}/big"
    (standing,) = await here.store.standings()
    assert standing.state is State.CANDIDATE and standing.evidence["claim"]["evidence"] == {"lift": 0.4}


async def test_while_nothing_changes_nothing_is_sent(node: Node, here: Follower) -> None:
    await node.store.put([fact("One is odd.")])
    await here.pull(node)
    for status in (200, 304, 304):
        report = await here.pull(node)
        assert report.is_current and node.seen[-1][1] == status
    here.now += 25 * 3600  # that nothing is new is said with a signature once a day
    assert (await here.pull(node)).is_current and node.seen[-1][1] == 200
    assert (await here.pull(node)).is_current and node.seen[-1][1] == 304


async def test_a_revocation_retires_at_once_and_may_be_taken_back(node: Node, here: Follower) -> None:
    one, two = await node.store.put([fact("One is odd."), fact("Two is even.")])
    await here.pull(node)
    await node.store.set_state([one.id], State.RETIRED)
    await node.store.delete(Where(), [two.id])
    assert (await here.pull(node)).withdrawn == 2
    assert await here.facts() == [] and len(await here.facts(State.RETIRED)) == 2
    await node.store.set_state([one.id], State.LIVE)
    assert (await here.pull(node)).changed == 1
    assert await here.facts() == ["One is odd."]


async def test_what_was_changed_here_is_left_alone(node: Node, here: Follower) -> None:
    one, two = await node.store.put([fact("One is odd."), fact("Two is even.")])
    await here.pull(node)
    held = {shard.fact: shard for shard in await here.store.find(Where())}
    await here.store.put([held["One is odd."].now(fact="One is very odd."), fact("My own.")])
    await here.store.set_state([held["Two is even."].id], State.RETIRED, "not for us")
    await node.store.put([one.now(fact="One is ODD."), two.now(fact="Two is EVEN.")])
    report = await here.pull(node)
    assert (report.edited_here, report.retired_here) == (1, 1)
    assert await here.facts() == ["My own.", "One is very odd."]


async def test_a_shard_that_cannot_be_read_here_is_told_of_and_its_old_text_goes(node: Node, here: Follower) -> None:
    one, _ = await node.store.put([fact("One is odd."), fact("Two is even.")])
    await here.pull(node)
    await node.store.put([one.now(fact="x" * 700)])
    report = await here.pull(node)
    assert (report.refused, report.withdrawn) == (1, 1) and report.rejected[0][0] == one.id
    assert "fact" in report.rejected[0][1] and await here.facts() == ["Two is even."]
    assert (await here.pull(node)).is_current


async def test_a_subscription_given_to_another_tenant_moves(node: Node, here: Follower) -> None:
    await node.store.put([fact("One is odd.")])
    for tenant, withdrawn in (("acme", 0), ("other", 1), ("other", 0), ("acme", 1)):
        report = await here.pull(node, receiver=Receiver(tenant=tenant))
        assert report.withdrawn == withdrawn
        (served,) = [s for s in await here.store.find(Where()) if s.state is not State.RETIRED]
        assert served.tenant == tenant


# --- cut, lost, and begun again


async def test_a_pull_goes_on_where_it_was_cut(node: Node, here: Follower) -> None:
    await node.store.put([fact(f"Fact {n}.") for n in range(6)])

    async def cut(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse | None:
        if request.query["after"] == "0":
            return None
        response = web.StreamResponse(headers=headers | {"content-length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.close()
        return response

    async with between(node, cut) as url:
        with pytest.raises(FeedError, match="broke off"):
            await here.pull(node, url, limit=2)
    assert await here.facts() == ["Fact 0.", "Fact 1."]
    report = await here.pull(node, limit=2)
    assert (report.new, report.pages) == (4, 2) and node.seen[-2][0] == "after=2&limit=2"


async def test_a_lost_or_damaged_state_costs_a_reading_and_nothing_else(node: Node, here: Follower) -> None:
    await node.store.put([fact("One is odd."), fact("Two is even.")])
    await here.pull(node)
    newest = await here.store.newest()
    for content in (b"", b"[]", b"{", b'{"after": "x"}', b'{"unknown": 1}'):
        here.state.path.write_bytes(content)
        report = await here.pull(node)
        assert (report.unchanged, report.new) == (2, 0)
    assert await here.store.newest() == newest


async def test_a_new_store_is_read_anew(node: Node, here: Follower, publish: Publish, tmp_path: Path) -> None:
    await node.store.put([fact(f"Old {n}.") for n in range(3)])
    stays = (await node.store.put([fact("Stays.")]))[0]
    await here.pull(node)
    home = new_home(tmp_path / "anew", tmp_path / "node" / FILE_NAME)
    (home / FILE_NAME).unlink()
    shutil.copytree(node.home / "keys", home / "keys")
    anew = await publish(home=home)
    await anew.store.put([stays, *(fact(f"New {n}.") for n in range(9))])
    report = await here.pull(anew, limit=4)
    assert report.restarts == ["the publisher has a new store"]
    assert (report.new, report.unchanged, report.withdrawn) == (9, 1, 3)
    assert await here.facts() == sorted(["Stays.", *(f"New {n}." for n in range(9))])
    assert (await here.pull(anew)).is_current


@pytest.mark.parametrize("later", [1, 5])
async def test_a_store_put_back_to_a_backup_is_read_anew(
    node: Node, here: Follower, publish: Publish, tmp_path: Path, later: int
) -> None:
    """Its revisions are given out a second time: fewer than before, or more."""
    await node.store.put([fact("Kept.")])
    await here.pull(node)
    backup = tmp_path / "backup" / FILE_NAME
    backup.parent.mkdir()
    async with node.database.read() as connection:
        await connection.exec_driver_sql("COMMIT")
        await connection.exec_driver_sql(f"VACUUM INTO '{backup}'")
    await node.store.put([fact(f"Lost {n}.") for n in range(3)])
    await here.pull(node)
    home = new_home(tmp_path / "back", backup)
    shutil.copytree(node.home / "keys", home / "keys")
    restored = await publish(home=home)
    await restored.store.put([fact(f"Later {n}.") for n in range(later)])
    report = await here.pull(restored)
    assert len(report.restarts) == 1 and report.withdrawn == 3
    assert await here.facts() == ["Kept.", *(f"Later {n}." for n in range(later))]
    assert (await here.pull(restored)).is_current


async def test_a_whole_reading_that_is_cut_is_ended_by_the_next(
    node: Node, here: Follower, publish: Publish, tmp_path: Path, empty_database: Path
) -> None:
    await node.store.put([fact(f"Old {n}.") for n in range(3)])
    await here.pull(node)
    home = new_home(tmp_path / "anew", empty_database)
    shutil.copytree(node.home / "keys", home / "keys")
    anew = await publish(home=home)
    await anew.store.put([fact(f"New {n}.") for n in range(4)])

    async def cut(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse | None:
        return web.Response(status=503, headers={"retry-after": "7"}) if request.query["after"] == "2" else None

    async with between(anew, cut) as url:
        with pytest.raises(FeedError, match="HTTP 503") as caught:
            await here.pull(anew, url, limit=2)
    assert caught.value.wait_s == 7
    assert await here.facts() == ["New 0.", "New 1.", "Old 0.", "Old 1.", "Old 2."]
    assert (await here.pull(anew, limit=2)).withdrawn == 3
    assert await here.facts() == [f"New {n}." for n in range(4)]


# --- whose feed it is


async def test_what_moves_out_of_sight_is_retired(tmp_path: Path, empty_database: Path, here: Follower) -> None:
    async with publishing(new_home(tmp_path / "keyed", empty_database), "acme", "evil") as (node, tokens):
        one, two, _ = await node.store.put([fact(f"Acme {n}.", tenant="acme") for n in range(3)])
        await node.store.put([fact("Evil.", tenant="evil")])
        await here.pull(node, api_key=tokens["acme"])
        assert await here.facts() == ["Acme 0.", "Acme 1.", "Acme 2."]
        await node.store.put([one.now(tenant="evil"), two.now(scope=Scope.USER, user="ann")])
        report = await here.pull(node, api_key=tokens["acme"])
        assert report.withdrawn == 2 and report.restarts and await here.facts() == ["Acme 2."]
        for key, words in (("ogw_wrong", "refuses the key"), (None, "wants a key")):
            await here.refuses(node, "", FeedError, words, api_key=key)


async def test_another_tenants_key_gets_none_of_it(tmp_path: Path, empty_database: Path, here: Follower) -> None:
    async with publishing(new_home(tmp_path / "keyed", empty_database), "acme", "evil") as (node, tokens):
        await node.store.put([fact("Acme's own.", tenant="acme"), fact("For all.", scope=Scope.GLOBAL)])
        await here.pull(node, api_key=tokens["evil"])
        assert await here.facts() == ["For all."]


async def test_gateways_that_follow_each_other_do_not_send_shards_round(
    here: Follower, publish: Publish, tmp_path: Path, empty_database: Path
) -> None:
    a, b, c = [await publish(name, republish=True) for name in "abc"]
    await a.store.put([fact("From A.")])
    client = PooledClient()

    async def follow(who: Node, whom: Node) -> Pulled:
        own = own_signer(who.home).public.id
        follower = Subscription("ring", whom.url, client, whom.trusted, own_key_id=own)
        return await follower.pull(who.store, ProgressFile(who.home, "ring"))

    for _ in range(2):
        for who, whom in ((b, a), (c, b), (a, c)):
            report = await follow(who, whom)
    assert report.new == 0
    assert [await node.store.count(Where()) for node in (a, b, c)] == [1, 1, 1]
    (at_c,) = await c.store.find(Where())
    assert at_c.source == f"feed:{b.key.id}/ring via {a.key.id}"
    await client.close()


# --- attacks


async def test_a_changed_page_is_refused(node: Node, here: Follower) -> None:
    await node.store.put([fact("One is odd.")])

    async def tamper(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
        return web.Response(body=body.replace(b"odd", b"bad"), headers=headers)

    async with between(node, untouched) as url:
        assert (await here.pull(node, url)).new == 1
    await node.store.put([fact("Three is odd.")])
    async with between(node, tamper) as url:
        await here.refuses(node, url, SigningError, "not that of the publisher")


async def test_an_older_page_shown_again_is_refused(node: Node, here: Follower) -> None:
    (made,) = await node.store.put([fact("One is odd.")])
    kept: list[web.Response] = []

    async def replay(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
        kept.append(web.Response(body=body, headers=headers))
        return web.Response(
            body=kept[0].body, headers=headers | {"x-gateway-signature": kept[0].headers["x-gateway-signature"]}
        )

    async with between(node, replay) as url:
        await here.pull(node, url)
        await node.store.delete(Where(), [made.id])
        await here.refuses(node, url, SigningError, "not that of the publisher")
        here.state.path.unlink()
        await here.refuses(node, url, SigningError, "not that of the publisher")


async def test_a_strangers_signature_is_refused(node: Node, here: Follower, tmp_path: Path) -> None:
    await node.store.put([fact("One is odd.")])
    thief = own_signer(tmp_path / "thief")
    named = ""

    async def sign(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
        signature = thief.sign(PURPOSE, signed_bytes(request.headers["x-gateway-nonce"], body))
        return web.Response(
            body=body, headers={"x-gateway-signature": f"{named} {base64.b64encode(signature).decode()}"}
        )

    async with between(node, sign) as url:
        for named, words in ((thief.public.id, "is not trusted"), (node.key.id, "not that of")):  # noqa: B007
            await here.refuses(node, url, SigningError, words)


async def test_an_unsigned_or_foreign_answer_is_refused(node: Node, here: Follower) -> None:
    replies = {
        "not signed": lambda body, headers: web.Response(body=body),
        "HTTP 302": lambda body, headers: web.Response(status=302, headers={"location": "/v1"}),
        "HTTP 304": lambda body, headers: web.Response(status=304),
        "HTTP 500": lambda body, headers: web.Response(status=500, text="<html>"),
        "is not there": lambda body, headers: web.Response(status=404),
    }
    for words, make in replies.items():

        async def answer(
            request: web.Request, body: bytes, headers: dict[str, str], make: Any = make
        ) -> web.StreamResponse:
            response: web.Response = make(body, headers)
            return response

        async with between(node, answer) as url:
            await here.refuses(node, url, FeedError, words)
    await here.refuses(node, "http://127.0.0.1:1/v1/shards/feed", FeedError, "cannot be reached")


async def test_a_bomb_is_not_unpacked(node: Node, here: Follower) -> None:
    bomb = packed_zeros()

    async def explode(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
        return web.Response(body=bomb, headers=headers | {"content-encoding": "gzip"})

    async def cut(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
        return web.Response(body=bomb[:200], headers=headers | {"content-encoding": "gzip"})

    async with between(node, explode) as url:
        await here.refuses(node, url, FeedError, "more than 16 MiB")
    async with between(node, cut) as url:
        await here.refuses(node, url, FeedError, "broke off")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "upgrade"),
        ({"format": "1"}, "no page"),
        ({"store": "../../etc"}, "no page"),
        ({"after": 7}, "not asked for"),
        ({"next": 99}, "not asked for"),
        ({"newest": -1}, "no page"),
        ({"held": None}, "no page"),
        ({"data": [{"id": "../../etc/passwd", "revision": 1, "revoked": True}]}, "no page"),
        ({"data": [{"id": "a" * 32, "revision": 2}, {"id": "b" * 32, "revision": 1}]}, "not asked for"),
        ({"data": [{"id": "a" * 32, "revision": 0}]}, "not asked for"),
        ({"data": {}}, "no page"),
        ({"held": {"count": 1, "digest": "0" * 32}}, "does not agree with itself"),
        (None, "no page"),
    ],
)
async def test_what_a_publisher_signs_is_read_strictly_all_the_same(
    node: Node, here: Follower, change: Json | None, words: str
) -> None:
    signer = own_signer(node.home)

    async def sign(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
        made = b"<html>" if change is None else orjson.dumps(orjson.loads(body) | change)
        signature = signer.sign(PURPOSE, signed_bytes(request.headers["x-gateway-nonce"], made))
        signed = f"{node.key.id} {base64.b64encode(signature).decode()}"
        return web.Response(body=made, headers={"x-gateway-signature": signed})

    async with between(node, sign) as url:
        await here.refuses(node, url, FeedError, words)


async def test_a_publishers_records_reach_nothing_of_others(node: Node, here: Follower) -> None:
    mine: Shard = (await here.store.put([fact("This is mine.")]))[0]
    signer = own_signer(node.home)
    content: Json = {"kind": "content", "fact": "Planted."}
    bad: list[Json] = [
        {"shard": {**content, "tenant": "other"}},
        {"shard": {**content, "scope": "global"}},
        {"shard": {**content, "kind": "memory", "user": "ann"}},
        {"shard": content, "personal": True},
        {"shard": {**content, "checks": [{"http": "http://x"}]}},
        {"shard": content, "trust": 3},
        {},
    ]
    entries = [{"id": mine.id, "revision": 1, "revoked": True}]
    entries += [{"id": new_id(), "revision": n, **one} for n, one in enumerate(bad, start=2)]

    async def sign(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
        made = orjson.dumps(orjson.loads(body) | {"data": entries, "newest": 99, "next": entries[-1]["revision"]})
        if request.query["after"] != "0":
            return web.Response(status=500)
        signature = signer.sign(PURPOSE, signed_bytes(request.headers["x-gateway-nonce"], made))
        signed = f"{node.key.id} {base64.b64encode(signature).decode()}"
        return web.Response(body=made, headers={"x-gateway-signature": signed})

    async with between(node, sign) as url:
        with pytest.raises(FeedError, match="HTTP 500"):
            await here.pull(node, url)
    assert await here.facts() == ["This is mine."] and await here.store.count(Where()) == 1


async def test_another_publisher_at_the_same_address_is_noticed(node: Node, here: Follower, publish: Publish) -> None:
    other = await publish("other")
    await node.store.put([fact("One is odd.")])
    await here.pull(node)
    await here.refuses(other, "", FeedError, "is now by", trusted=node.trusted | other.trusted)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "a" * 65])
def test_a_subscriptions_name_is_no_path(name: str) -> None:
    with pytest.raises(InvalidRequest):
        Subscription(name, "http://localhost", PooledClient(), {})


# --- in the background


async def test_it_pulls_again_and_again_and_waits_longer_after_failures(
    node: Node, here: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    await node.store.put([fact("One is odd.")])
    waits: list[float] = []
    reports: list[Pulled] = []
    done = asyncio.Event()
    fails = 4

    async def trouble(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse | None:
        return web.Response(status=500) if len(waits) < fails else None

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == fails + 2:
            done.set()
            await asyncio.Event().wait()

    async with between(node, trouble) as url:
        with caplog.at_level(logging.WARNING):
            subscription = here.of(node, url, sleep=sleep)
            task = asyncio.create_task(subscription.run(here.store, here.state, 60.0, reports.append))
            await asyncio.wait_for(done.wait(), 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert [report.new for report in reports] == [1, 0]
    for n, wait in enumerate(waits[:fails]):
        assert 2.5 * 2**n <= wait <= 5 * 2**n
    assert all(54 <= wait <= 66 for wait in waits[fails:])
    assert caplog.text.count("HTTP 500") == fails and "127.0.0.1" not in caplog.text


def test_a_wait_has_its_limits() -> None:
    assert all(1800 <= wait_after(n) <= 3600 for n in (20, 10_000))
    assert wait_after(1, 100.0) == 100.0 and wait_after(1, 1e9) == 3600.0
    assert len({wait_after(5) for _ in range(20)}) > 1
