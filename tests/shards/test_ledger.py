"""What requests tell of the shards in them, and what becomes of those."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.given import FACT, Given
from gateway.shards import Kind, Shard, Standing, State
from gateway.shards.proving.ledger import Ledger, Use, rated_uses, uses_in
from gateway.shards.store import ShardStore
from gateway.store.database import Database
from gateway.trace import RequestTrace

PROOF = {"admitted": True, "cases": 12, "passed_with": 11, "passed_without": 1, "baseline": 0.75}


@pytest.fixture
async def store(database: Database) -> ShardStore:
    store = ShardStore(database)
    await store.put([Shard("a" * 32, Kind.CONTENT, fact="Ann chairs the board.")])
    await store.set_standings([Standing("a" * 32, "core", State.LIVE, "f", PROOF)])
    return store


@pytest.fixture
async def ledger(store: ShardStore) -> AsyncIterator[Ledger]:
    ledger = Ledger(store)
    await ledger.start()
    yield ledger
    await ledger.close()


def traced(*, passed: bool, judged: bool = True, withheld: bool = False) -> RequestTrace:
    trace = RequestTrace("auto")
    tier = trace.span("tier", "core")
    if judged:
        tier.note(judged=True)
    ids = ("a" * 32,)
    given = Given("core", chosen=() if withheld else ids, withheld=ids if withheld else ())
    hop = tier.span("shards", "core")
    hop.note(**{FACT: given})
    hop.span("model", "core")
    if not passed:
        tier.leave("regex")
    return trace


def test_a_tier_with_checks_tells_whether_the_answer_passed() -> None:
    assert list(uses_in(traced(passed=True))) == [Use("a" * 32, "core", True, True)]
    assert list(uses_in(traced(passed=False))) == [Use("a" * 32, "core", True, False)]
    assert list(uses_in(traced(passed=True, withheld=True))) == [Use("a" * 32, "core", False, True)]


def test_without_checks_nothing_is_known() -> None:
    assert list(uses_in(traced(passed=True, judged=False))) == []


def test_a_rating_is_of_the_answer_that_was_taken() -> None:
    considered = [{"shard": "x", "in": True}, {"shard": "y", "in": False}]
    shards = {"kind": "shards", "name": "core", "facts": {FACT: {"considered": considered, "withheld": ["z"]}}}
    tree = {"kind": "request", "children": [{"kind": "tier", "left": "regex", "children": [shards]}, shards]}
    assert list(rated_uses(tree, True)) == [Use("x", "core", True, True), Use("z", "core", False, True)]


async def test_uses_are_counted_and_written(store: ShardStore, ledger: Ledger) -> None:
    for passed in (True, True, False):
        ledger.record(traced(passed=passed))
    ledger.record(traced(passed=True, withheld=True))
    await ledger.settle()
    [standing] = await store.standings()
    assert (standing.shown, standing.shown_passed, standing.withheld, standing.withheld_passed) == (3, 2, 1, 1)


async def test_a_shard_that_fails_is_retired_and_found_no_more(store: ShardStore, ledger: Ledger) -> None:
    for _ in range(60):
        ledger.record(traced(passed=False))
    await ledger.settle()
    [standing] = await store.standings()
    shard = await store.get("a" * 32)
    assert shard is not None
    assert (standing.state, shard.state) == (State.RETIRED, State.RETIRED)
    assert standing.evidence["why"]
    assert await store.without_vector(10) == []


async def test_what_is_closed_is_written_first(database: Database, store: ShardStore) -> None:
    ledger = Ledger(store)
    await ledger.start()
    ledger.record(traced(passed=True))
    await ledger.close()
    assert [one.shown for one in await store.standings()] == [1]


async def test_another_model_puts_what_was_live_on_trial(store: ShardStore, ledger: Ledger) -> None:
    assert await ledger.demote("core", "f") == 0
    assert await ledger.demote("core", "g") == 1
    [standing] = (await ledger.standings(["a" * 32], "core")).values()
    assert standing.state is State.TRIAL
    assert [shard.id for shard in await store.untested("core", "g", 10)] == ["a" * 32]
    assert await store.untested("core", "f", 10) == []


async def test_many_requests_at_once_lose_nothing(store: ShardStore, ledger: Ledger) -> None:
    async def ask() -> None:
        ledger.record(traced(passed=True))
        await asyncio.sleep(0)

    await asyncio.gather(*(ask() for _ in range(100)), *(ledger.settle() for _ in range(5)))
    await ledger.settle()
    assert [one.shown for one in await store.standings()] == [100]
