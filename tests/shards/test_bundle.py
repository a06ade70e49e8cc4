from __future__ import annotations

import base64
import gzip
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from stat import S_IMODE
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import GatewayError, InvalidRequest
from gateway.shards import (
    SERVED,
    Case,
    Example,
    Kind,
    Origin,
    Scope,
    Shard,
    Standing,
    State,
    Trust,
    audience_of,
    audiences_for,
)
from gateway.shards.sharing.adopting import Receiver
from gateway.shards.sharing.bundle import (
    PURPOSE,
    BundleError,
    BundleTooLarge,
    Imported,
    NewerFormat,
    OlderBundle,
    export,
    import_bundle,
    open_bundle,
    save,
)
from gateway.shards.sharing.records import body_to_share, content_hash
from gateway.shards.sharing.signing import PublicKey, Signer, SigningError, own_signer, trusted_keys
from gateway.shards.store import ShardStore, Where
from gateway.store.database import FILE_NAME, open_database
from gateway.trace import new_id
from tests.shards.nodes import fact, packed_zeros, recipe

Json = dict[str, Any]


class Place:
    """A node of its own, without a server."""

    def __init__(self, home: Path, store: ShardStore) -> None:
        self.home, self.store = home, store
        self.signer = own_signer(home)

    @property
    def trusted(self) -> dict[str, PublicKey]:
        return {self.signer.public.id: self.signer.public}

    async def bundle(self, version: str = "1", where: Where | None = None, **options: Any) -> bytes:
        options = {"name": "handbook", "clock": lambda: 1000.0, **options}
        return await export(self.store, where or Where(), version=version, signer=self.signer, **options)

    async def take(self, data: bytes, of: Place, **options: Any) -> Imported:
        return await import_bundle(self.store, data, home=self.home, trusted=of.trusted, **options)

    async def all(self) -> list[Shard]:
        return await self.store.find(Where())


@pytest.fixture
async def places(tmp_path: Path, empty_database: Path) -> AsyncIterator[Callable[[str], Awaitable[Place]]]:
    open_ones = []

    async def make(name: str) -> Place:
        home = tmp_path / name
        home.mkdir()
        shutil.copy(empty_database, home / FILE_NAME)
        database = await open_database(home)
        open_ones.append(database)
        return Place(home, ShardStore(database))

    yield make
    for database in open_ones:
        await database.close()


Make = Callable[[str], Awaitable[Place]]


def repacked(data: bytes, change: Callable[[list[bytes]], None], signer: Signer | None = None) -> bytes:
    """The bundle with its lines changed, and signed again by `signer`."""
    lines = gzip.decompress(data).splitlines(keepends=True)
    change(lines)
    if signer is not None:
        signature = base64.b64encode(signer.sign(PURPOSE, b"".join(lines[:-1]))).decode()
        lines[-1] = orjson.dumps({"signature": signature}) + b"\n"
    return gzip.compress(b"".join(lines))


def with_manifest(data: bytes, signer: Signer, **fields: Any) -> bytes:
    def change(lines: list[bytes]) -> None:
        lines[0] = orjson.dumps(orjson.loads(lines[0]) | fields) + b"\n"

    return repacked(data, change, signer)


def with_records(data: bytes, signer: Signer, *records: Json) -> bytes:
    def change(lines: list[bytes]) -> None:
        told = [orjson.dumps(record) + b"\n" for record in records]
        manifest = orjson.loads(lines[0]) | {"count": len(told), "sha256": sha256(b"".join(told)).hexdigest()}
        lines[:] = [orjson.dumps(manifest) + b"\n", *told, b""]

    return repacked(data, change, signer)


async def refused(place: Place, data: bytes, of: Place, kind: type[GatewayError], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        await place.take(data, of)
    assert "\n" not in caught.value.message
    assert await place.all() == [] and not (place.home / "shards").exists()


# --- keys


def test_a_nodes_keys_are_made_once_and_are_its_own(tmp_path: Path) -> None:
    signer = own_signer(tmp_path)
    path = tmp_path / "keys" / "shards.key"
    assert S_IMODE(path.stat().st_mode) == 0o600 and S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in sorted(path.parent.iterdir())] == ["shards.key", "shards.pub"]
    assert (path.parent / "shards.pub").read_text() == f"{signer.public}\n"
    assert own_signer(tmp_path).public == signer.public
    assert trusted_keys([str(signer.public)]) == {signer.public.id: signer.public}
    assert len(signer.public.id) == 16


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    own_signer(tmp_path)
    path = tmp_path / "keys" / "shards.key"
    path.chmod(0o644)
    with pytest.raises(SigningError, match="chmod 600"):
        own_signer(tmp_path)
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(SigningError, match="no private key"):
        own_signer(tmp_path)


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:AAAA", "rsa:" + "A" * 44, "ed25519:" + "!" * 44])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(SigningError, match="ed25519:BASE64"):
        trusted_keys([text])


def test_a_signature_serves_for_one_purpose(tmp_path: Path) -> None:
    signer = own_signer(tmp_path)
    signature = signer.sign(b"one", b"data")
    signer.public.check(b"one", b"data", signature)
    for purpose, data in ((b"two", b"data"), (b"one", b"other")):
        with pytest.raises(SigningError, match="changed"):
            signer.public.check(purpose, data, signature)
    with pytest.raises(SigningError):
        signer.public.check(b"one", b"data", b"short")


# --- there and back


async def test_a_bundle_brings_candidates_and_claims(places: Make) -> None:
    there, here = await places("there"), await places("here")
    made = recipe(state=State.LIVE, tenant="acme", writer="bob", source="/home/bob/dates.md", lot="1" * 32)
    await there.store.put([made, fact("Strelsau is the capital.")])
    await there.store.set_standings([Standing(made.id, "core", State.LIVE, "fp", {"lift": 0.4})])
    data = await there.bundle()
    assert data == await there.bundle()
    for secret in (b"/home/bob", b"acme", b'"bob"'):
        assert secret not in gzip.decompress(data)
    report = await here.take(data, there, receiver=Receiver(tenant="mine", writer="ops"))
    assert (report.new, report.changed, report.refused) == (2, 0, 0)
    assert report.manifest is not None and report.manifest.publisher == there.signer.public.id
    got = {shard.kind: shard for shard in await here.all()}[Kind.PROCESS]
    assert body_to_share(got) == body_to_share(made) and got.id != made.id
    assert (got.tenant, got.writer, got.scope, got.trust) == ("mine", "ops", Scope.TENANT, Trust.TESTED)
    assert got.source == f"bundle:{there.signer.public.id}/handbook"
    assert got.state is State.CANDIDATE and got.lot not in ("", made.lot)
    (standing,) = await here.store.standings()
    assert standing.state not in SERVED and (standing.reader, standing.fingerprint) == ("core", "fp")
    claim = {"by": there.signer.public.id, "state": "live", "evidence": {"lift": 0.4}}
    assert standing.evidence == {"claim": claim}


async def test_claims_of_readers_unknown_here_are_not_kept(places: Make) -> None:
    there, here = await places("there"), await places("here")
    (made,) = await there.store.put([recipe()])
    await there.store.set_standings([Standing(made.id, name, evidence={"lift": 1}) for name in ("core", "other")])
    await here.take(await there.bundle(), there, receiver=Receiver(readers={"core"}))
    assert [one.reader for one in await here.store.standings()] == ["core"]


async def test_the_same_bundle_again_changes_nothing(places: Make) -> None:
    there, here = await places("there"), await places("here")
    (made,) = await there.store.put([recipe()])
    data = await there.bundle()
    await here.take(data, there)
    (got,) = await here.all()
    await here.store.set_standings([Standing(got.id, "core", State.LIVE, "fp", {"lift": 0.5})])
    newest = await here.store.newest()
    report = await here.take(data, there)
    assert (report.new, report.changed, report.unchanged, report.withdrawn) == (0, 0, 1, 0)
    assert await here.store.newest() == newest
    (standing,) = await here.store.standings()
    assert standing.state is State.LIVE and standing.evidence == {"lift": 0.5}


async def test_a_new_text_has_to_be_proven_again(places: Make) -> None:
    there, here = await places("there"), await places("here")
    (made,) = await there.store.put([fact("The tower has 100 steps.")])
    await here.take(await there.bundle("1"), there)
    (got,) = await here.all()
    await here.store.set_standings([Standing(got.id, "core", State.LIVE, "fp", {"lift": 0.5})])
    assert (await here.all())[0].state is State.LIVE
    await there.store.put([made.now(fact="The tower has 120 steps.", version=2)])
    report = await here.take(await there.bundle("2"), there)
    assert (report.changed, report.new) == (1, 0)
    (now,) = await here.all()
    assert (now.id, now.version, now.fact) == (got.id, 2, "The tower has 120 steps.")
    assert now.state is State.CANDIDATE and now.created == got.created
    (standing,) = await here.store.standings()
    assert standing.state is State.CANDIDATE and standing.evidence == {}


async def test_what_a_newer_version_no_longer_holds_is_retired_and_may_come_back(places: Make) -> None:
    there, here = await places("there"), await places("here")
    one, two = await there.store.put([fact("One is odd."), fact("Two is even.")])
    mine = (await here.store.put([fact("This is mine.")]))[0]
    first = await there.bundle("1")
    await here.take(first, there)
    await there.store.set_state([two.id], State.RETIRED)
    assert (await here.take(await there.bundle("1.1"), there)).withdrawn == 1
    states = {shard.fact: shard.state for shard in await here.all()}
    assert states == {"One is odd.": "candidate", "Two is even.": "retired", mine.fact: "candidate"}
    await there.store.set_state([two.id], State.CANDIDATE)
    assert (await here.take(await there.bundle("1.2"), there)).changed == 1
    assert {shard.state for shard in await here.all()} == {State.CANDIDATE}
    with pytest.raises(OlderBundle, match="older than the 1.2"):
        await here.take(first, there)
    assert (await here.take(first, there, force=True)).unchanged == 2


async def test_an_older_bundle_of_the_same_version_is_refused_as_well(places: Make) -> None:
    there, here = await places("there"), await places("here")
    await there.store.put([fact("One is odd.")])
    old, new = await there.bundle(clock=lambda: 5.0), await there.bundle(clock=lambda: 6.0)
    await here.take(new, there)
    with pytest.raises(OlderBundle):
        await here.take(old, there)
    await here.store.delete(Where())
    assert (await here.take(old, there)).new == 1  # of an emptied store nothing is known


async def test_versions_are_compared_as_numbers(places: Make) -> None:
    there, here = await places("there"), await places("here")
    await there.store.put([fact("One is odd.")])
    for version in ("1.9", "1.10", "1.10.0", "2026.11.21"):
        await here.take(await there.bundle(version), there)
    with pytest.raises(OlderBundle):
        await here.take(await there.bundle("3"), there)


async def test_what_was_edited_or_retired_here_stays_so(places: Make) -> None:
    there, here = await places("there"), await places("here")
    one, two = await there.store.put([fact("One is odd."), fact("Two is even.")])
    await here.take(await there.bundle("1"), there)
    held = {shard.fact: shard for shard in await here.all()}
    await here.store.put([held["One is odd."].now(fact="One is very odd.")])
    await here.store.set_state([held["Two is even."].id], State.RETIRED, "not for us")
    await there.store.put([one.now(fact="One is ODD."), two.now(fact="Two is EVEN.")])
    report = await here.take(await there.bundle("2"), there)
    assert (report.edited_here, report.retired_here, report.changed) == (1, 1, 0)
    now = {shard.fact: shard for shard in await here.all()}
    assert now.keys() == {"One is very odd.", "Two is EVEN."}
    assert (now["Two is EVEN."].state, now["Two is EVEN."].why) == (State.RETIRED, "not for us")


async def test_two_tenants_of_one_node_do_not_touch_each_others(places: Make) -> None:
    there, here = await places("there"), await places("here")
    (made,) = await there.store.put([fact("One is odd.")])
    first = await there.bundle("1")
    for tenant in ("a", "b"):
        await here.take(first, there, receiver=Receiver(tenant=tenant))
    await there.store.put([made.now(fact="One is ODD.")])
    await here.take(await there.bundle("2"), there, receiver=Receiver(tenant="a"))
    facts = {shard.tenant: shard.fact for shard in await here.all()}
    assert facts == {"a": "One is ODD.", "b": "One is odd."}


async def test_evidence_that_others_have_told_is_not_told_on(places: Make) -> None:
    there, here, third = await places("there"), await places("here"), await places("third")
    (made,) = await there.store.put([recipe()])
    own = Standing(made.id, "core", evidence={"lift": 0.4})
    await there.store.set_standings([own, Standing(made.id, "big", evidence={"x": "y" * 9000})])
    await here.take(await there.bundle(), there)
    (standing,) = await here.store.standings()
    assert standing.reader == "core"
    await third.take(await here.bundle(republish=True), here)
    assert len(await third.all()) == 1 and await third.store.standings() == []


# --- what stays at home


async def test_memories_of_users_leave_only_by_name(places: Make) -> None:
    there, here = await places("there"), await places("here")
    for_ann = Shard(new_id(), Kind.MEMORY, tenant="acme", scope=Scope.USER, user="ann", fact="Ann likes tea.")
    for_bob = Shard(new_id(), Kind.MEMORY, tenant="acme", scope=Scope.USER, user="bob", fact="Bob likes rum.")
    elses = Shard(new_id(), Kind.MEMORY, tenant="evil", scope=Scope.USER, user="ann", fact="Ann hates tea.")
    await there.store.put([for_ann, for_bob, elses, fact("Tea is hot.", tenant="acme")])
    for where in (Where(), Where(tenant="acme"), Where(audiences=audiences_for("acme", "ann"))):
        assert b"likes" not in gzip.decompress(await there.bundle(where=where))
    with pytest.raises(InvalidRequest, match="named tenant"):
        await there.bundle(where=Where(user="ann"))
    data = await there.bundle(where=Where(tenant="acme", user="ann"))
    text = gzip.decompress(data)
    assert b"Ann likes tea." in text and b"Bob" not in text and b"hates" not in text
    report = await here.take(data, there)
    assert report.personal == 1 and await here.all() == []
    await here.take(data, there, receiver=Receiver(tenant="t", scope=Scope.USER, user="annie"))
    (got,) = await here.all()
    assert (got.scope, got.user, got.audience) == (Scope.USER, "annie", audience_of(Scope.USER, "t", "annie"))


async def test_a_receiver_says_which_user(places: Make) -> None:
    for wrong in ({"scope": Scope.USER}, {"user": "ann"}):
        with pytest.raises(InvalidRequest) as caught:
            Receiver(**wrong)  # type: ignore[arg-type]
        assert caught.value.param == "user"


async def test_what_is_retired_waits_for_review_or_came_from_others_is_not_exported(places: Make) -> None:
    there, here, third = await places("there"), await places("here"), await places("third")
    await there.store.put([fact("A.", state=State.RETIRED), fact("B.", needs_review=True), fact("C.")])
    data = await there.bundle()
    assert orjson.loads(gzip.decompress(data).splitlines()[0])["count"] == 1
    await here.take(data, there)
    assert orjson.loads(gzip.decompress(await here.bundle()).splitlines()[0])["count"] == 0
    await third.take(await here.bundle(republish=True), here)
    (got,) = await third.all()
    assert got.fact == "C." and got.source.endswith(f"/handbook via {there.signer.public.id}")


async def test_cases_made_of_what_users_asked_stay_at_home(places: Make) -> None:
    there = await places("there")
    case = Case(({"role": "user", "content": "my secret date"},), ("2024-05-03",))
    await there.store.put([recipe(author="expert", cases=(case,)), recipe(author="hand", cases=(case,))])
    assert gzip.decompress(await there.bundle()).count(b"my secret date") == 1
    assert gzip.decompress(await there.bundle(private_cases=True)).count(b"my secret date") == 2


async def test_a_shard_that_others_could_not_read_is_named_at_export(places: Make) -> None:
    there = await places("there")
    (made,) = await there.store.put([fact("x" * 700)])
    with pytest.raises(BundleError, match=made.id):
        await there.bundle()


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "A", "a" * 65, "a\n"])
async def test_a_name_is_no_path(places: Make, tmp_path: Path, name: str) -> None:
    there = await places("there")
    with pytest.raises(InvalidRequest):
        await there.bundle(name=name)
    with pytest.raises(InvalidRequest):
        save(tmp_path, name, b"")


async def test_a_bundle_is_saved_whole(places: Make, tmp_path: Path) -> None:
    there = await places("there")
    data = await there.bundle()
    path = save(tmp_path / "out", "handbook", data)
    assert path.name == "handbook.shards" and path.read_bytes() == data
    assert [p.name for p in path.parent.iterdir()] == ["handbook.shards"]


# --- attacks


async def test_a_bundle_of_a_stranger_is_refused(places: Make) -> None:
    there, here = await places("there"), await places("here")
    await there.store.put([fact("One is odd.")])
    data = await there.bundle()
    await refused(here, data, here, SigningError, f"{there.signer.public.id} is not trusted")


async def test_a_bundle_signed_with_another_key_is_refused(places: Make) -> None:
    there, here, thief = await places("there"), await places("here"), await places("thief")
    await there.store.put([fact("One is odd.")])
    data = await there.bundle()
    await refused(here, repacked(data, lambda lines: None, thief.signer), there, SigningError, "not that of")
    posing = with_manifest(data, thief.signer, key=str(thief.signer.public))
    await refused(here, posing, there, SigningError, "not that of")


async def test_a_changed_record_is_refused(places: Make) -> None:
    there, here = await places("there"), await places("here")
    await there.store.put([fact("One is odd."), fact("Two is even.")])
    data = await there.bundle()

    def tamper(lines: list[bytes]) -> None:
        lines[1] = lines[1].replace(b"odd", b"bad").replace(b"even", b"evil")

    def swap(lines: list[bytes]) -> None:
        lines[1], lines[2] = lines[2], lines[1]

    def leave_out(lines: list[bytes]) -> None:
        del lines[1]

    for change in (tamper, swap, leave_out):
        await refused(here, repacked(data, change), there, SigningError, "not that of")
    for change in (swap, leave_out):  # signed by a publisher whose tool is broken
        await refused(here, repacked(data, change, there.signer), there, BundleError, "manifest")


async def test_a_bundle_cut_anywhere_is_refused(places: Make) -> None:
    there, here = await places("there"), await places("here")
    await there.store.put([fact("One is odd.")])
    data = await there.bundle()
    for end in range(0, len(data), 7):
        await refused(here, data[:end], there, BundleError, "cut|no bundle")
    await refused(here, data + b"x", there, BundleError, "follows")
    await refused(here, data + data, there, BundleError, "follows")
    plain = gzip.decompress(data)
    for end in (plain.index(b"\n") + 1, plain.rindex(b"\n", 0, -1) + 1, len(plain) - 1):
        await refused(here, gzip.compress(plain[:end]), there, BundleError, "cut|single line|manifest")


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"PK\x03\x04", b"\x1f\x8b", b"x" * 5000])
async def test_what_is_no_bundle_is_refused(places: Make, data: bytes) -> None:
    there, here = await places("there"), await places("here")
    await refused(here, data, there, BundleError, "bundle")
    await refused(here, gzip.compress(data), there, BundleError, "bundle")


async def test_a_bomb_is_not_unpacked(places: Make) -> None:
    there, here = await places("there"), await places("here")
    bomb = packed_zeros()
    assert len(bomb) < 2**20
    await refused(here, bomb, there, BundleTooLarge, "more than 64 MiB")


async def test_a_newer_format_is_told(places: Make) -> None:
    there, here = await places("there"), await places("here")
    data = with_manifest(await there.bundle(), there.signer, format=2, novelty=True)
    await refused(here, data, there, NewerFormat, "upgrade")


@pytest.mark.parametrize(
    "fields",
    [{"name": "../../etc/passwd"}, {"name": "a/b"}, {"version": "x"}, {"count": -1}, {"count": "1"}, {"format": 0}]
    + [{"magic": "tar"}, {"extra": 1}, {"publisher": "../x"}],
)
async def test_a_manifest_is_read_strictly(places: Make, fields: Json) -> None:
    there, here = await places("there"), await places("here")
    data = with_manifest(await there.bundle(), there.signer, **fields)
    await refused(here, data, there, BundleError, "manifest")


async def test_a_publisher_cannot_reach_beyond_its_shards(places: Make) -> None:
    there, here = await places("there"), await places("here")
    mine = (await here.store.put([fact("This is mine.")]))[0]
    good: Json = {"id": new_id(), "shard": {"kind": "content", "fact": "One is odd."}}
    bad: list[Json] = [
        {"id": "../../../etc/passwd"},
        {"id": mine.id.upper()},
        {"shard": {"kind": "content", "fact": "x", "tenant": "other"}},
        {"shard": {"kind": "memory", "fact": "x", "user": "ann"}},
        {"shard": {"kind": "content", "fact": "x", "scope": "global"}},
        {"shard": {"kind": "content", "fact": "x", "state": "live"}},
        {"shard": {"kind": "content", "fact": "x", "source": "me"}},
        {"shard": {"kind": "content", "fact": "x", "checks": [{"python": "import os"}]}},
        {"shard": {"kind": "content", "fact": "x", "checks": ["http"]}},
        {"evidence": [{"reader": "core", "state": "live", "evidence": {"x": "y" * 9000}}]},
        {"state": "retired"},
        {"trust": 3},
    ]
    records = [good, {**good, "id": mine.id}, *({**good, "id": new_id()} | wrong for wrong in bad)]
    report = await here.take(with_records(await there.bundle(), there.signer, *records), there)
    assert (report.new, report.refused) == (2, len(bad)) and len(report.rejected) == len(bad)
    shards = await here.all()
    assert len(shards) == 3 and next(shard for shard in shards if shard.id == mine.id).fact == mine.fact


async def test_an_id_comes_once(places: Make) -> None:
    there, here = await places("there"), await places("here")
    record: Json = {"id": new_id(), "shard": {"kind": "content", "fact": "One is odd."}}
    data = with_records(await there.bundle(), there.signer, record, record)
    await refused(here, data, there, BundleError, "earlier")


# --- there and back, of anything

WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40).filter(str.strip)
CASES = st.builds(
    Case,
    messages=st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": WORDS}), min_size=1).map(tuple),
    accepted=st.lists(WORDS, min_size=1, max_size=3).map(tuple),
    origin=st.sampled_from(Origin),
    fields=st.just({}) | st.just({"max_tokens": 5}),
)
SHARDS = st.builds(
    Shard,
    id=st.uuids().map(lambda id: id.hex),
    kind=st.just(Kind.PROCESS),
    title=WORDS,
    trigger=WORDS | st.just(""),
    questions=st.lists(WORDS, max_size=4).map(tuple),
    fact=WORDS.map(str.strip),
    steps=st.lists(WORDS, max_size=4).map(tuple),
    examples=st.lists(st.builds(Example, WORDS, WORDS), min_size=1, max_size=4).map(tuple),
    checks=st.sampled_from([(), ("not_empty",), ({"regex": "^x"},)]),
    options=st.lists(WORDS, max_size=3).map(tuple),
    schema=st.none() | st.just({"type": "object", "properties": {"a": {"type": "number"}}}),
    cases=st.lists(CASES, max_size=3).map(tuple),
    for_models=st.lists(WORDS, max_size=2).map(tuple),
    slot=WORDS | st.just(""),
    valid_from=st.none() | st.floats(0, 1e9),
    valid_to=st.none() | st.floats(2e9, 1e10),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shards=st.lists(SHARDS, max_size=6, unique_by=lambda shard: shard.id))
async def test_what_goes_out_comes_in(shards: list[Shard], round_trips: tuple[Place, Place]) -> None:
    there, here = round_trips
    await there.store.delete(Where())
    await here.store.delete(Where())
    if shards:
        await there.store.put(shards)
    data = await there.bundle(version="1")
    bundle = open_bundle(data, there.trusted)
    assert {record.id: content_hash(record.shard) for record in bundle.records} == {
        shard.id: content_hash(shard) for shard in shards
    }
    report = await here.take(data, there)
    assert report.new == len(shards) and report.refused == 0
    assert sorted(content_hash(shard) for shard in await here.all()) == sorted(map(content_hash, shards))
    assert (await here.take(data, there)).unchanged == len(shards)


@pytest.fixture
async def round_trips(places: Make) -> tuple[Place, Place]:
    return await places("there"), await places("here")
