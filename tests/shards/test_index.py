from __future__ import annotations

import asyncio
import logging
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench import shards as bench
from gateway.errors import GatewayError
from gateway.shards import EVERYBODY, Kind, Scope, Shard, State, audience_of, audiences_for
from gateway.shards.search import follower as follower_module
from gateway.shards.search.hits import RANK_CONSTANT, fused
from gateway.shards.search.index import ShardIndex
from gateway.shards.search.text_search import BUDGET_US, BUDGET_US_OF_LARGE, MOST_TERMS, audience_filter, chosen
from gateway.shards.search.words import TOKENIZER, Stemmer, words_of
from gateway.shards.store import ShardStore, Where
from gateway.store import sqlite
from gateway.store.database import Database, open_database
from gateway.trace import new_id

ACME = audiences_for("acme", None)
DIMENSIONS = 8


def shard(text: str, *, tenant: str = "acme", **more: Any) -> Shard:
    return Shard(more.pop("id", None) or new_id(), Kind.CONTENT, tenant=tenant, fact=text, **more)


def vector(*values: float) -> bytes:
    return np.array([*values, *[0.0] * (DIMENSIONS - len(values))], "<f4").tobytes()


async def until(condition: Callable[[], bool], within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def store(database: Database) -> ShardStore:
    return ShardStore(database)


@pytest.fixture
async def index(database: Database) -> AsyncIterator[ShardIndex]:
    """One that follows when it is told to."""
    index = ShardIndex(database, refresh_s=600)
    await index.start()
    yield index
    await index.close()


async def embed(store: ShardStore, vectors: dict[str, bytes]) -> None:
    """Vectors for the keys with these texts."""
    keys = await store.without_vector(1000)
    await store.set_vectors({number: vectors[text] for number, text in keys if text in vectors})


async def found(
    index: ShardIndex, words: str, vector: bytes | None = None, audiences: Sequence[str] = ACME
) -> list[str]:
    return [hit.shard for hit in await index.find(audiences, words, vector)]


# -- what is found -------------------------------------------------------------------------------------------------


async def test_before_the_first_shard_nothing_is_there(index: ShardIndex) -> None:
    assert await index.find(ACME, "anything", vector(1)) == []
    assert not index.holds_any(ACME)
    assert index.is_complete
    assert (index.size, index.vectors, index.size_bytes, index.revision) == (0, 0, 0, 0)


async def test_a_shard_is_found_by_its_words_by_its_vector_and_by_both(store: ShardStore, index: ShardIndex) -> None:
    rex, tea = await store.put([shard("Rex is a small brown dog."), shard("Tea is served at four.")])
    await embed(store, {rex.fact: vector(1, 0.1), tea.fact: vector(0, 1)})
    await index.refresh()
    assert await found(index, "which dogs are brown?") == [rex.id]
    assert await found(index, "", vector(0, 1)) == [tea.id, rex.id]
    first, second = await index.find(ACME, "dog", vector(1, 0))
    assert (first.shard, first.bm25_rank, first.vector_rank, first.text) == (rex.id, 1, 1, rex.fact)
    assert first.cosine == pytest.approx(1 / np.hypot(1, 0.1))
    assert first.score == pytest.approx(2 / (RANK_CONSTANT + 1))
    assert (second.shard, second.bm25_rank, second.vector_rank) == (tea.id, None, 2)
    assert second.cosine == pytest.approx(0, abs=1e-6)
    assert index.holds_any(ACME)
    assert (index.size, index.vectors, index.revision) == (2, 2, 2)
    assert index.size_bytes > 0


async def test_each_text_of_a_shard_finds_it_once(store: ShardStore, index: ShardIndex) -> None:
    one = shard("The office opens at nine.", trigger="Opening hours", questions=("When can I come?", "Is it open?"))
    await store.put([one])
    await index.refresh()
    assert await found(index, "open opens opening office come") == [one.id]
    assert [hit.text for hit in await index.find(ACME, "come", None)] == ["When can I come?"]


async def test_a_key_without_a_vector_is_found_by_text_until_one_is_put(store: ShardStore, index: ShardIndex) -> None:
    (rex,) = await store.put([shard("Rex is a dog.")])
    await index.refresh()
    assert await found(index, "", vector(1)) == []
    (hit,) = await index.find(ACME, "dog", vector(1))
    assert (hit.cosine, hit.vector_rank) == (None, None)
    await embed(store, {rex.fact: vector(1)})
    await index.refresh()
    assert await found(index, "", vector(1)) == [rex.id]
    (hit,) = await index.find(ACME, "dog", vector(1))
    assert hit.cosine == pytest.approx(1)


async def test_a_text_is_found_before_it_was_followed(store: ShardStore, index: ShardIndex) -> None:
    await store.put([shard("Something.")])
    await index.refresh()
    (late,) = await store.put([shard("Rex is a dog.")])
    assert await found(index, "dog") == [late.id]


async def test_the_rarer_word_counts_more_and_the_shorter_text(store: ShardStore, index: ShardIndex) -> None:
    many = [shard(f"The invoice number {n} is paid.") for n in range(20)]
    rare, long = shard("A zebra."), shard("A zebra lives in the zoo of a city that is far away from here and is old.")
    await store.put([*many, long, rare])
    await index.refresh()
    assert (await found(index, "invoice of the zebra"))[:2] == [rare.id, long.id]


async def test_at_most_as_many_as_asked_for_come(store: ShardStore, index: ShardIndex) -> None:
    await store.put([shard(f"Dog {n}.") for n in range(40)])
    await index.refresh()
    assert len(await index.find(ACME, "dog", None)) == 30
    assert len(await index.find(ACME, "dog", None, limit=3)) == 3
    assert await index.find(ACME, "dog", None, limit=0) == []
    assert await index.find((), "dog", None) == []


async def test_many_keys_with_the_same_word_are_searched_in_part(
    database: Database, store: ShardStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is done for large audiences: one walk through the audience for all words."""
    monkeypatch.setattr("gateway.shards.search.text_search._cost_us", lambda rows, size: size)
    await store.put([shard(f"The dog number {n} barks.") for n in range(30)])
    (cat,) = await store.put([shard("The cat barks at no dog.")])
    await store.put([shard("The cat of another barks.", tenant="other")])
    index = ShardIndex(database)
    await index.start()
    await index.refresh()
    assert (await found(index, "cat that barks at a dog"))[0] == cat.id
    assert len(await found(index, "cat that barks at a dog")) == 30
    await index.close()


def test_the_rarest_words_are_chosen_as_long_as_they_are_cheap() -> None:
    counts = {"password": 9000, "reset": 4000, "vpn": 30, "gateway": 120}
    assert chosen(counts, 200, BUDGET_US) == (["vpn", "gateway", "reset", "password"], False)  # a small tenant
    assert chosen(counts, 10_000, BUDGET_US)[0] == ["vpn", "gateway"]
    assert chosen({f"w{n}": 300 for n in range(3)}, 300_000, BUDGET_US_OF_LARGE)[1]  # one walk is cheaper than three
    assert chosen(counts, 1_000_000, BUDGET_US_OF_LARGE)[0] == ["vpn", "gateway"]
    assert chosen({"the": 500_000}, 1_000_000, BUDGET_US_OF_LARGE)[0] == ["the"]
    assert chosen({}, 10, BUDGET_US) == ([], False)
    assert len(chosen({f"w{n}": 1 for n in range(99)}, 10, BUDGET_US)[0]) == MOST_TERMS


# -- fusion --------------------------------------------------------------------------------------------------------


def texts_of(keys: Sequence[int]) -> dict[int, str]:
    return {key: f"text {key}" for key in keys}


def test_ranks_are_of_shards_by_their_best_keys() -> None:
    shards = {1: "a", 2: "a", 3: "b", 4: "c", 5: "d"}
    hits = fused(shards, [1, 2, 3, 99], [4, 2, 3], {4: 0.9, 2: 0.5, 1: 0.2, 3: 0.1}, texts_of)
    places = {hit.shard: (hit.bm25_rank, hit.vector_rank, hit.cosine) for hit in hits}
    assert places == {"a": (1, 2, 0.5), "b": (2, 3, 0.1), "c": (None, 1, 0.9)}
    assert [hit.shard for hit in hits] == ["a", "b", "c"]
    assert hits[0].score == pytest.approx(1 / (RANK_CONSTANT + 1) + 1 / (RANK_CONSTANT + 2))


def test_the_nearer_one_is_first_of_two_with_the_same_ranks() -> None:
    hits = fused({1: "a", 2: "b"}, [1, 2], [2, 1], {1: 0.3, 2: 0.7}, texts_of)
    assert [(hit.shard, hit.text) for hit in hits] == [("b", "text 2"), ("a", "text 1")]
    assert fused({}, [1], [2], {2: 0.5}, texts_of) == []


# -- who may see what ----------------------------------------------------------------------------------------------

OWNERS = st.sampled_from(
    [("acme", None), ("acme", "ann"), ("acme", "bob"), ("other", None), ("other", "ann"), ("", None)]
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    owners=st.lists(st.tuples(OWNERS, st.booleans()), min_size=1, max_size=12),
    asking=OWNERS,
    exact=st.sampled_from([1, 500]),
)
def test_what_others_own_is_never_found(
    tmp_path_factory: pytest.TempPathFactory,
    empty_database: Path,
    owners: list[tuple[tuple[str, str | None], bool]],
    asking: tuple[str, str | None],
    exact: int,
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "gateway.db").write_bytes(empty_database.read_bytes())

    async def check() -> None:
        database = await open_database(home)
        store, index = ShardStore(database), ShardIndex(database, exact_limit=exact)
        shards = []
        for n, ((tenant, user), is_global) in enumerate(owners):
            scope = Scope.GLOBAL if is_global else Scope.TENANT if user is None else Scope.USER
            shards.append(shard(f"The secret word is w{n}.", tenant=tenant, user=user, scope=scope))
        await store.put(shards)
        await embed(store, {one.fact: vector(1, n / 10) for n, one in enumerate(shards)})
        await index.start()
        await index.refresh()
        try:
            audiences = audiences_for(*asking)
            own = {one.id for one in shards if one.audience in audiences}
            words = "secret word " + " ".join(f"w{n}" for n in range(len(owners)))
            assert set(await found(index, words, None, audiences)) == own
            assert set(await found(index, "", vector(1), audiences)) == own
            assert set(await found(index, words, vector(1), audiences)) == own
            assert index.holds_any(audiences) == bool(own)
        finally:
            await index.close()
            await database.close()

    asyncio.run(check())


@pytest.mark.parametrize("audience", ["", 'g" OR "t', "g OR t", "G", "té", "g\0", "a" * 41, "g\n"])
async def test_what_cannot_be_an_audience_is_refused(store: ShardStore, index: ShardIndex, audience: str) -> None:
    await store.put([shard("Rex is a dog.", tenant="other")])
    await index.refresh()
    with pytest.raises(ValueError, match="no audience"):
        await index.find([audience], "dog", None)


def test_a_filter_names_the_audiences_and_no_other_column() -> None:
    assert audience_filter(["g", "t0"]) == 'who : ("g" OR "t0")'


async def test_a_key_that_an_index_wrongly_holds_is_not_answered_with(store: ShardStore, index: ShardIndex) -> None:
    (other,) = await store.put([shard("Rex is a dog.", tenant="other")])
    await embed(store, {other.fact: vector(1)})
    await index.refresh()
    assert index.engine is not None
    rows = np.array([[1.0] + [0.0] * (DIMENSIONS - 1)], np.float32)
    index.engine.vectors.add([((EVERYBODY, DIMENSIONS), np.array([1]), rows)], lambda: False)
    assert await found(index, "dog", vector(1)) == []


# -- what was changed ----------------------------------------------------------------------------------------------


async def test_a_changed_shard_is_found_by_its_new_texts_only(store: ShardStore, index: ShardIndex) -> None:
    (old,) = await store.put([shard("Rex is a dog.", questions=("Who barks?",))])
    await embed(store, {old.fact: vector(1), "Who barks?": vector(0, 1)})
    await index.refresh()
    assert index.vectors == 2
    await store.put([old.now(fact="Tom is a cat.", questions=(), version=2)])
    assert await found(index, "dog", vector(1)) == []  # at once, though the old vectors are held yet
    await index.refresh()
    assert (index.size, index.vectors) == (1, 0)
    assert await found(index, "cats") == [old.id]
    await embed(store, {"Tom is a cat.": vector(0, 0, 1)})
    await index.refresh()
    assert await found(index, "", vector(0, 0, 1)) == [old.id]


@pytest.mark.parametrize("how", ["delete", "retire"])
async def test_a_shard_that_is_gone_is_found_no_more(store: ShardStore, index: ShardIndex, how: str) -> None:
    gone, kept = await store.put([shard("Rex is a dog."), shard("Tom is no dog.")])
    await embed(store, {gone.fact: vector(1), kept.fact: vector(1, 1)})
    await index.refresh()
    await (store.delete(Where(), [gone.id]) if how == "delete" else store.set_state([gone.id], State.RETIRED))
    assert await found(index, "dog", vector(1)) == [kept.id]
    await index.refresh()
    assert await found(index, "dog", vector(1)) == [kept.id]
    assert (index.size, index.vectors) == (1, 1)
    await store.delete(Where(), [kept.id])
    await index.refresh()
    assert not index.holds_any(ACME)
    assert index.size_bytes < 1000


async def test_changes_of_other_processes_are_followed_by_itself(database: Database, store: ShardStore) -> None:
    told = asyncio.Event()
    index = ShardIndex(database, refresh_s=0.02, on_change=told.set)
    await index.start()
    script = f"""
import asyncio
from dataclasses import replace
from pathlib import Path
from gateway.shards import Kind, Shard
from gateway.shards.store import ShardStore
from gateway.store.database import open_database

async def main():
    database = await open_database(Path({str(database.path.parent)!r}))
    store = ShardStore(database)
    await store.put([Shard("0" * 32, Kind.CONTENT, tenant="acme", fact="Rex is a dog.")])
    keys = await store.without_vector(5)
    await store.set_vectors({{number: {vector(1)!r} for number, _ in keys}})
    await database.close()

asyncio.run(main())
"""
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], check=True)
    await until(lambda: index.vectors == 1)
    assert told.is_set()
    assert await found(index, "", vector(1)) == ["0" * 32]
    told.clear()
    await store.delete(Where())
    await until(told.is_set)
    await until(lambda: index.size == 0)
    await index.close()


async def test_two_connections_write_while_it_is_searched(database: Database, home: Path) -> None:
    second = await open_database(home)
    index = ShardIndex(database, refresh_s=0.01)
    await index.start()

    async def write(database: Database, tenant: str) -> None:
        store = ShardStore(database)
        for n in range(8):
            put = await store.put([shard(f"Dog {tenant} {n} {m}.", tenant=tenant) for m in range(5)])
            await embed(store, {one.fact: vector(1, n) for one in put})
            await store.delete(Where(), [put[0].id])

    async def search() -> None:
        while True:
            await asyncio.sleep(0)
            for tenant in ("one", "two"):
                hits = await index.find(audiences_for(tenant, None), "dog", vector(1))
                assert all(f"Dog {tenant}" in hit.text for hit in hits)

    searching = asyncio.create_task(search())
    await asyncio.gather(write(database, "one"), write(second, "two"))
    searching.cancel()
    await asyncio.wait([searching])
    assert searching.cancelled()
    await index.refresh()
    assert index.size == 64
    assert index.vectors == 64
    await index.close()
    await second.close()


async def test_vectors_of_another_model_take_the_places_of_the_old(store: ShardStore, index: ShardIndex) -> None:
    rex, tom = await store.put([shard("Rex is a dog."), shard("Tom is a cat.")])
    await embed(store, {rex.fact: vector(1), tom.fact: vector(0, 1)})
    await index.refresh()
    await store.forget_vectors()
    await index.refresh()
    assert (index.size, index.vectors) == (2, 0)
    longer = np.eye(12, dtype="<f4")
    await embed(store, {rex.fact: longer[0].tobytes(), tom.fact: longer[1].tobytes()})
    await index.refresh()
    assert await found(index, "", longer[1].tobytes()) == [tom.id, rex.id]
    assert await found(index, "", vector(1)) == []  # a question by the old model


async def test_another_models_vectors_are_noticed_when_the_first_shards_are_gone(
    store: ShardStore, index: ShardIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "WITNESSES", 1)
    first, rex = await store.put([shard("The first."), shard("Rex is a dog.")])
    await embed(store, {first.fact: vector(1), rex.fact: vector(1)})
    await index.refresh()
    await store.delete(Where(), [first.id])
    await index.refresh()
    await store.forget_vectors()
    await embed(store, {rex.fact: vector(0, 1)})
    await index.refresh()
    (hit,) = await index.find(ACME, "", vector(0, 1))
    assert hit.cosine == pytest.approx(1)
    assert index.vectors == 1


async def test_a_shard_whose_texts_stay_keeps_its_vectors(store: ShardStore, index: ShardIndex) -> None:
    (rex,) = await store.put([shard("Rex is a dog.")])
    await embed(store, {rex.fact: vector(1)})
    await index.refresh()
    await store.set_state([rex.id], State.LIVE)
    await index.refresh()
    assert index.revision == 2
    assert index.vectors == 1
    assert await found(index, "", vector(1)) == [rex.id]


async def test_what_is_no_vector_is_passed_over(store: ShardStore, index: ShardIndex) -> None:
    shards = await store.put([shard(f"Dog {n}.") for n in range(5)])
    blobs = [b"", b"abc", vector(0), vector(float("nan")), vector(1)]
    await embed(store, {one.fact: blob for one, blob in zip(shards, blobs, strict=True)})
    await index.refresh()
    assert index.vectors == 1
    assert await found(index, "", vector(1)) == [shards[4].id]
    assert len(await found(index, "dog", vector(float("inf")))) == 5


async def test_of_many_keys_that_wait_those_that_came_are_found_in_turn(
    store: ShardStore, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "WINDOW", 4)
    monkeypatch.setattr(follower_module, "LOOKED_AT", 8)
    shards = await store.put([shard(f"Dog {n}.") for n in range(40)])
    index = ShardIndex(database, refresh_s=0.01)
    await index.start()
    await until(lambda: index.size == 40)
    await embed(store, {one.fact: vector(1) for one in shards[-10:]})  # the newest, as is usual
    await until(lambda: index.vectors == 10)
    await embed(store, {shards[3].fact: vector(1)})
    async with asyncio.timeout(10):
        while shards[3].id not in await found(index, "", vector(1)):  # a window further with each change
            await store.set_state([shards[39].id], State.LIVE, why=new_id())  # any commit
            await asyncio.sleep(0.02)
    await index.close()


# -- many ----------------------------------------------------------------------------------------------------------


async def test_above_the_limit_an_audience_is_searched_in_a_graph(store: ShardStore, database: Database) -> None:
    rng = np.random.default_rng(1)
    shards = [shard(f"Dog {n}.") for n in range(120)]
    rows = {one.fact: rng.standard_normal(DIMENSIONS).astype("<f4") for one in shards}
    await store.put(shards)
    await embed(store, {text: row.tobytes() for text, row in rows.items()})
    index = ShardIndex(database, exact_limit=50, refresh_s=600)
    await index.start()
    await index.refresh()
    assert index.engine is not None and index.vectors == 120
    assert "usearch" in sys.modules or index.engine.table is not None
    for one in shards[::10]:
        asked = rows[one.fact]
        hits = await index.find(ACME, "", asked.tobytes())
        assert hits[0].shard == one.id
        assert hits[0].cosine == pytest.approx(1, abs=1e-5)  # by the stored vector, not by 8 bits
        by_hand = {
            other.id: row @ asked / np.linalg.norm(row) / np.linalg.norm(asked)
            for other in shards
            for row in [rows[other.fact]]
        }
        assert all(hit.cosine == pytest.approx(by_hand[hit.shard], abs=1e-5) for hit in hits)
    (hit,) = (hit for hit in await index.find(ACME, "7", rows["Dog 8."].tobytes()) if hit.shard == shards[7].id)
    assert hit.cosine is not None  # found by its words: its cosine is known all the same
    await store.delete(Where(), [shards[0].id])
    (late,) = await store.put([shard("A late cat.")])
    await embed(store, {late.fact: rows[shards[0].fact].tobytes()})
    await index.refresh()
    assert (await found(index, "", rows[shards[0].fact].tobytes()))[0] == late.id
    assert index.vectors == 120
    await index.close()


# -- questions -----------------------------------------------------------------------------------------------------

ATTACKS = (
    '"', '""', "'", "dog OR cat", "dog AND NOT cat", "NOT", "NEAR(dog cat, 5)", "NEAR", "dog*", "^dog", "who : g",
    'who : ("g")', "text : dog", "{who text} : dog", "- who : dog", "dog + cat", "(", ")", "((((", "dog)", ": : :",
    '" OR who : "tother', "dog\0cat", "\0", "\ud800 dog", "dog; DROP TABLE shards", "%", "_", "\\", "🐶🐶 🐱",
    "犬は何ですか",
    "e\u0301te\u0301", "Ünïcödé STRASSE ß İ ı", "a" * 100_000, "dog " * 25_000, '"' * 100_000, "(" * 5_000 + "dog",
    " ".join(f"w{n}" for n in range(20_000)), "the of and", "", " \n\t", "١٢٣ ½ ²", "\u200d\ufeff\u202e",
    "x\u0301" * 500,
)  # fmt: skip


@pytest.mark.parametrize("words", ATTACKS, ids=range(len(ATTACKS)))
async def test_no_question_is_a_query(
    store: ShardStore, index: ShardIndex, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    own, _ = await store.put([shard("Rex is a dog near g."), shard("A dog, who is g, is text.", tenant="other")])
    await index.refresh()
    assert set(await found(index, words)) <= {own.id}
    assert not caplog.records


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.text(max_size=60)
    | st.lists(st.sampled_from([*'"():*^-+{}', "OR", "AND", "NOT", "NEAR", "who", "dog"])).map(" ".join)
)
async def test_any_text_can_be_asked(
    store: ShardStore, index: ShardIndex, caplog: pytest.LogCaptureFixture, words: str
) -> None:
    if not index.size:
        await store.put([shard("Rex is a dog.")])
        await index.refresh()
    await index.find(ACME, words, vector(1))
    assert not caplog.records


def test_words_are_letters_and_digits_without_those_that_say_nothing() -> None:
    assert words_of("What's the VPN's port, e.g. 1194?") == ["vpn", "port", "e", "g", "1194"]
    assert words_of("who are you") == ["who", "are", "you"]
    assert words_of("dog Dog DOG") == ["dog"]
    assert words_of("x" * 65 + " dog") == ["dog"]
    assert len(words_of(" ".join(f"w{n}" for n in range(99)))) == 32
    assert words_of("snake_case e\u0301te\u0301") == ["snake", "case", "e\u0301te\u0301"]


def test_terms_are_what_the_index_stores(home: Path) -> None:
    with sqlite3.connect(home / "gateway.db") as connection:
        (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'shard_fts'").fetchone()
    connection.close()
    assert TOKENIZER in sql
    stemmer = Stemmer()
    assert stemmer.terms("running") == ("run",)
    assert stemmer.terms("Zürich") == ("zurich",)
    assert stemmer.terms("!?") == ()
    assert stemmer.terms("a-b") == ("a", "b")
    stemmer.close()


# -- its life ------------------------------------------------------------------------------------------------------


async def test_numpy_is_not_loaded_before_there_is_a_shard(home: Path) -> None:
    script = f"""
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from gateway.shards.search.index import ShardIndex
from gateway.store.database import open_database

async def main():
    database = await open_database(Path({str(home)!r}))
    index = ShardIndex(database)
    await index.start()
    await index.refresh()
    assert "numpy" not in sys.modules and "usearch" not in sys.modules
    await index.close()
    await database.close()

asyncio.run(main())
"""
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], check=True)


async def test_what_was_there_at_the_start_is_read_in_the_background(store: ShardStore, database: Database) -> None:
    (rex,) = await store.put([shard("Rex is a dog.")])
    await embed(store, {rex.fact: vector(1)})
    index = ShardIndex(database)
    await index.start()
    assert index.revision == 1
    await until(lambda: index.is_complete)
    assert await found(index, "", vector(1)) == [rex.id]
    assert index.searches == 1
    await index.close()


async def test_a_closed_index_finds_nothing_and_lets_go_of_the_file(store: ShardStore, database: Database) -> None:
    await store.put([shard("Rex is a dog.")])
    index = ShardIndex(database)
    await index.start()
    await index.refresh()
    waiting = [asyncio.create_task(index.find(ACME, "dog", None)) for _ in range(5)]
    await asyncio.sleep(0)
    await index.close()
    assert all(len(hits) <= 1 for hits in await asyncio.gather(*waiting))
    assert await index.find(ACME, "dog", None) == []
    assert not index.holds_any(ACME)
    await index.close()
    await database.close()  # SQLite keeps files open as long as another connection of the process has locks
    assert database.path.resolve() not in [link.resolve() for link in Path("/proc/self/fd").iterdir()]


async def test_one_that_cannot_be_opened_is_said(store: ShardStore, database: Database, tmp_path: Path) -> None:
    elsewhere = sqlite.make_engine(tmp_path / "none.db")
    index = ShardIndex(replace(database, engine=elsewhere))
    with pytest.raises(GatewayError, match="cannot read the shards"):
        await index.start()


async def test_while_the_database_cannot_be_read_nothing_is_found_and_the_log_says_so(
    store: ShardStore, index: ShardIndex, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await store.put([shard("Rex is a dog.")])
    await index.refresh()
    async with database.write() as connection:
        await connection.exec_driver_sql("ALTER TABLE shard_keys RENAME TO other_keys")
    with caplog.at_level(logging.WARNING):
        assert await found(index, "dog") == []
    assert "shards cannot be searched" in caplog.text
    async with database.write() as connection:
        await connection.exec_driver_sql("ALTER TABLE other_keys RENAME TO shard_keys")
    assert len(await found(index, "dog")) == 1


def test_an_audience_is_one_that_the_filter_takes() -> None:
    for scope in Scope:
        audience_filter([audience_of(scope, "Ténant \0 x", 'us"er')])


@pytest.mark.slow
def test_the_bench_tells_what_it_measured() -> None:
    text = bench.summary(bench.measure([300], 5, lambda line: None))
    assert text.startswith("300 shards: store written in ")
    assert "in the event loop " in text
