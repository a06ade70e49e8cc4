from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.shards import Kind, Scope, Shard, Standing, State
from gateway.shards.sharing.feed import PURPOSE, signed_bytes
from gateway.shards.sharing.signing import SigningError
from gateway.shards.store import Where
from gateway.trace import new_id
from gateway.transport.client import PooledClient
from tests.shards.nodes import Node, fact, new_home, publishing, recipe

Json = dict[str, Any]


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Json:
        data: Json = orjson.loads(self.body)
        return data

    @property
    def facts(self) -> list[str | None]:
        """Of each entry; None for a revocation."""
        return [entry["shard"]["fact"] if "shard" in entry else None for entry in self.json["data"]]


async def ask(node: Node, query: str = "", key: str = "", **headers: str) -> Answer:
    client = PooledClient()
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key:
        sent["authorization"] = f"Bearer {key}"
    try:
        reply = await client.get(f"{node.url}?{query}", sent, connect_s=5)
        answer = Answer(reply.status, dict(reply.headers), await reply.read(2**24))
        reply.close()
        return answer
    finally:
        await client.close()


@pytest.fixture
async def node(tmp_path: Path, empty_database: Path) -> AsyncIterator[Node]:
    async with publishing(new_home(tmp_path / "node", empty_database)) as (node, _):
        yield node


async def test_pages_come_in_the_order_of_changes(node: Node) -> None:
    made = await node.store.put([fact(f"Fact {n}.") for n in range(5)])
    await node.store.put([made[0].now(fact="Fact 0, anew.")])
    got, after = [], 0
    while True:
        answer = await ask(node, f"after={after}&limit=2")
        got += answer.facts
        revisions = [entry["revision"] for entry in answer.json["data"]]
        assert revisions == sorted(revisions) and min(revisions) > after
        if answer.json["next"] is None:
            break
        after = answer.json["next"]
    assert got == ["Fact 1.", "Fact 2.", "Fact 3.", "Fact 4.", "Fact 0, anew."]
    assert answer.json["newest"] == 6 and answer.json["held"]["count"] == 5


async def test_a_page_is_signed_for_who_asked(node: Node) -> None:
    await node.store.put([fact("One is odd.")])
    answer = await ask(node, x_gateway_nonce="n1")
    id, _, encoded = answer.headers["x-gateway-signature"].partition(" ")
    assert id == node.key.id == answer.json["publisher"]["id"] and answer.json["publisher"]["key"] == str(node.key)
    signature = base64.b64decode(encoded)
    node.key.check(PURPOSE, signed_bytes("n1", answer.body), signature)
    for nonce, body in (("n2", answer.body), ("n1", answer.body.replace(b"odd", b"bad"))):
        with pytest.raises(SigningError):
            node.key.check(PURPOSE, signed_bytes(nonce, body), signature)


async def test_what_has_not_changed_is_not_sent_again(node: Node) -> None:
    (made,) = await node.store.put([fact("One is odd.")])
    first = await ask(node, x_gateway_nonce="a")
    again = await ask(node, x_gateway_nonce="b")
    tag = first.headers["etag"]
    assert again.body == first.body and again.headers["etag"] == tag and tag.startswith('"')
    for header in (tag, f'"x", {tag}', "*"):
        answer = await ask(node, if_none_match=header)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert (await ask(node, "after=1", if_none_match=tag)).status == 200
    await node.store.put([made])
    assert (await ask(node, if_none_match=tag)).status == 200


async def test_evidence_is_part_of_what_a_tag_names(node: Node) -> None:
    (made,) = await node.store.put([recipe()])
    tag = (await ask(node)).headers["etag"]
    await node.store.set_standings([Standing(made.id, "core", evidence={"lift": 0.4})])
    answer = await ask(node, if_none_match=tag)
    assert answer.status == 200
    claim = {"reader": "core", "state": "candidate", "fingerprint": "", "evidence": {"lift": 0.4}}
    assert answer.json["data"][0]["evidence"] == [claim]


async def test_what_is_gone_comes_as_a_revocation(node: Node) -> None:
    retired, deleted, waiting, kept = await node.store.put([fact(f"Fact {n}.") for n in range(4)])
    await node.store.set_state([retired.id], State.RETIRED)
    await node.store.delete(Where(), [deleted.id])
    await node.store.put([waiting.now(needs_review=True)])
    data = (await ask(node)).json["data"]
    assert {entry["id"] for entry in data if entry.get("revoked")} == {retired.id, deleted.id, waiting.id}
    assert all(entry.keys() == {"revision", "id", "revoked"} for entry in data if entry.get("revoked"))
    assert [entry["id"] for entry in data if "shard" in entry] == [kept.id]


async def test_states_that_are_published_can_be_chosen(tmp_path: Path, empty_database: Path) -> None:
    home = new_home(tmp_path / "node", empty_database)
    async with publishing(home, states=(State.LIVE,)) as (node, _):
        await node.store.put([fact("Unproven."), fact("Proven.", state=State.LIVE)])
        assert (await ask(node)).facts == [None, "Proven."]


async def test_a_tenant_sees_its_own_and_what_is_everybodys(tmp_path: Path, empty_database: Path) -> None:
    async with publishing(new_home(tmp_path / "node", empty_database), "acme", "evil") as (node, tokens):
        theirs = fact("Acme's own.", tenant="acme", writer="acme", source="/acme/secret.md")
        memory = Shard(new_id(), Kind.MEMORY, tenant="acme", scope=Scope.USER, user="ann", fact="Ann likes tea.")
        (_, _, gone, _) = await node.store.put(
            [theirs, memory, fact("Soon gone.", tenant="acme"), fact("For all.", scope=Scope.GLOBAL)]
        )
        await node.store.delete(Where(), [gone.id])
        own = await ask(node, key=tokens["acme"])
        assert own.facts == ["Acme's own.", "For all.", None]
        other = await ask(node, key=tokens["evil"])
        assert other.facts == ["For all."] and other.json["held"]["count"] == 1
        for word in (b"Acme", b"secret", b"Ann", gone.id.encode(), theirs.id.encode(), memory.id.encode()):
            assert word not in other.body
        assert b"Ann" not in own.body and b"secret" not in own.body and memory.id.encode() not in own.body
        tag = own.headers["etag"]
        assert (await ask(node, key=tokens["evil"], if_none_match=tag)).status == 200
        for key in ("", "ogw_wrong"):
            assert (await ask(node, key=key)).status == 401


async def test_others_changes_do_not_show(tmp_path: Path, empty_database: Path) -> None:
    async with publishing(new_home(tmp_path / "node", empty_database), "acme", "evil") as (node, tokens):
        await node.store.put([fact("Mine.", tenant="evil")])
        tag = (await ask(node, key=tokens["evil"])).headers["etag"]
        await node.store.put([fact("Acme's own.", tenant="acme")])
        assert (await ask(node, key=tokens["evil"], if_none_match=tag)).status == 304


async def test_what_was_subscribed_to_is_not_published_unless_asked(tmp_path: Path, empty_database: Path) -> None:
    for republish, facts in ((False, ["Own."]), (True, ["Own.", "Theirs.", "Bundled."])):
        home = new_home(tmp_path / str(republish), empty_database)
        async with publishing(home, republish=republish) as (node, _):
            names = ("feed:" + "a" * 16 + "/big", "bundle:" + "b" * 16 + "/book")
            await node.store.put([fact("Own."), fact("Theirs.", source=names[0]), fact("Bundled.", source=names[1])])
            answer = await ask(node)
            assert answer.facts == facts
            assert [entry.get("via") for entry in answer.json["data"]][1:] == [["a" * 16], ["b" * 16]] * republish


async def test_a_page_is_bounded_in_bytes(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.shards.sharing.feed.PAGE_BYTES", 2000)
    await node.store.put([fact("x" * 500) for _ in range(9)])
    answer = await ask(node)
    assert 1 < len(answer.json["data"]) < 9 and answer.json["next"] == answer.json["data"][-1]["revision"]


@pytest.mark.parametrize(
    ("query", "param"),
    [("after=-1", "after"), ("after=x", "after"), ("after=9223372036854775808", "after"), ("after=1.5", "after")]
    + [("limit=0", "limit"), ("limit=501", "limit"), ("limit=", "limit")],
)
async def test_a_wrong_query_is_400(node: Node, query: str, param: str) -> None:
    answer = await ask(node, query)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


async def test_a_wrong_nonce_is_400_and_the_largest_revision_is_not(node: Node) -> None:
    assert (await ask(node, x_gateway_nonce="x" * 65)).status == 400
    answer = await ask(node, "after=9223372036854775807&unknown=1")
    assert answer.status == 200 and answer.json["data"] == [] and answer.json["newest"] == 0


async def test_a_store_keeps_its_name(node: Node, tmp_path: Path, empty_database: Path) -> None:
    await node.store.put([fact("One is odd.")])
    name = (await ask(node)).json["store"]
    node.feed._name = None  # as after a restart
    assert (await ask(node)).json["store"] == name
    assert await node.store.count(Where()) == 1 and await node.store.newest() == 1
    assert len(await node.store.changes(0)) == 1
    async with publishing(new_home(tmp_path / "other", empty_database)) as (other, _):
        assert (await ask(other)).json["store"] != name
