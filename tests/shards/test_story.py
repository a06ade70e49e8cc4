"""A shard, told as a story: written, proven on its reader, found, given, seen in the answer, and taken back."""

from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.shards.story import CASCADE, FACT, KNOWS, POLICY, QUESTION, QUESTIONS, add, models, opened, shelved, work


async def test_a_fact_is_given_once_it_is_proven(serve: Serve, minilm_home: Path) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS), default=POLICY)
    made = await add(client, fact=FACT, questions=QUESTIONS)
    assert made["state"] == "candidate"
    before = await client.chat(QUESTION)
    assert before.text == "hm" and "x-gateway-shards" not in before.headers

    await work(client)
    proven = (await client.call("GET", f"/v1/shards/{made['id']}")).json
    assert proven["state"] == "live"
    evidence = proven["readers"]["core"]["evidence"]
    assert evidence["admitted"] and evidence["passed_without"] == 0 and evidence["lift_low"] > 0
    assert evidence["cost"]["requests"] > 0

    after = await client.chat(QUESTION)
    assert "Otto Frei" in after.text
    assert after.headers["x-gateway-shards"] == made["id"]
    assert after.gateway["shards"] == [made["id"]]


async def test_the_trace_says_what_was_considered_and_why(serve: Serve, minilm_home: Path) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS), default=POLICY)
    first = await add(client, fact=FACT, questions=QUESTIONS)
    await work(client)
    second = await add(client, fact="The keeper of Brill Tower's garden is Ines Holm, they say.")
    await opened(client).workshop.embed()
    reply = await client.chat(QUESTION)
    assert client.runtime.journal is not None
    row = await client.runtime.journal.find(reply.gateway["trace"])
    assert row is not None
    assert first["id"] in row.trace and '"why":"given"' in row.trace
    assert second["id"] in row.trace and "not proven for core" in row.trace
    assert FACT not in row.trace


async def test_a_request_may_do_without(serve: Serve, minilm_home: Path) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS), default=POLICY)
    await add(client, fact=FACT, questions=QUESTIONS)
    await work(client)
    reply = await client.chat(QUESTION, headers={"x-gateway-no-shards": "1"})
    assert reply.text == "hm" and "x-gateway-shards" not in reply.headers


async def test_streams_name_their_shards_in_headers_and_at_the_end(serve: Serve, minilm_home: Path) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS), default=POLICY)
    made = await add(client, fact=FACT, questions=QUESTIONS)
    await work(client)
    reply = await client.chat(QUESTION, stream=True)
    assert reply.headers["x-gateway-shards"] == made["id"]
    assert reply.gateway["shards"] == [made["id"]]


async def test_what_does_not_help_stays_a_candidate(serve: Serve, minilm_home: Path) -> None:
    client = await shelved(serve, minilm_home, models(), default=POLICY)
    made = await add(client, fact=FACT, questions=QUESTIONS)
    await work(client)
    found = (await client.call("GET", f"/v1/shards/{made['id']}")).json
    assert found["state"] == "candidate"
    assert not found["readers"]["core"]["evidence"]["admitted"]
    assert (await client.chat(QUESTION)).text == "hm"


async def test_what_waits_for_approval_is_given_to_nobody(serve: Serve, minilm_home: Path) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS), default=POLICY)
    made = await add(client, fact=FACT, questions=QUESTIONS, needs_review=True)
    await work(client)
    assert (await client.chat(QUESTION)).text == "hm"
    approved = await client.call("POST", f"/v1/shards/{made['id']}/approve", {})
    assert approved.json["needs_review"] is False
    await opened(client).index.refresh()
    assert "Otto Frei" in (await client.chat(QUESTION)).text


@pytest.mark.parametrize("verb", ["retire", "reject", "delete"])
async def test_taken_back_at_once(serve: Serve, minilm_home: Path, verb: str) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS), default=POLICY)
    made = await add(client, fact=FACT, questions=QUESTIONS)
    await work(client)
    if verb == "delete":
        await client.call("DELETE", f"/v1/shards/{made['id']}")
        assert (await client.call("GET", f"/v1/shards/{made['id']}")).status == 404
    else:
        assert (await client.call("POST", f"/v1/shards/{made['id']}/{verb}", {})).json["state"] == "retired"
    await opened(client).index.refresh()
    assert (await client.chat(QUESTION)).text == "hm"


async def test_a_changed_shard_is_a_candidate_again(serve: Serve, minilm_home: Path) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS), default=POLICY)
    made = await add(client, fact=FACT, questions=QUESTIONS)
    await work(client)
    changed = await client.call(
        "PATCH", f"/v1/shards/{made['id']}", {"fact": "The warden of Brill Tower is Mira Holm now."}
    )
    assert (changed.json["version"], changed.json["state"], changed.json["readers"]) == (2, "candidate", {})
    await opened(client).index.refresh()
    assert (await client.chat(QUESTION)).text == "hm"


async def test_a_document_becomes_facts_and_read_again_changes_only_what_changed(
    serve: Serve, minilm_home: Path
) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS), default=POLICY)
    text = f"# Towers\n\n{FACT} Kell Tower has stood empty since the great flood of 1931.\n"
    first = (await client.call("POST", "/v1/shards/documents", {"source": "towers.md", "text": text})).json
    assert (first["added"], first["kept"]) == (2, 0)
    again = (await client.call("POST", "/v1/shards/documents", {"source": "towers.md", "text": text})).json
    assert (again["added"], again["kept"]) == (0, 2)
    edited = text.replace("1931", "1932")
    third = (await client.call("POST", "/v1/shards/documents", {"source": "towers.md", "text": edited})).json
    assert (third["added"], third["kept"], third["superseded"]) == (1, 1, 1)
    listed = (await client.call("GET", "/v1/shards?source=towers.md&state=candidate")).json["data"]
    assert sorted("1932" in one["fact"] for one in listed) == [False, True]


async def test_search_shows_what_would_be_given(serve: Serve, minilm_home: Path) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS), default=POLICY)
    await add(client, fact=FACT, questions=QUESTIONS)
    await work(client)
    found = (await client.call("POST", "/v1/shards/search", {"query": QUESTION})).json
    assert found["reader"] == "core"
    assert [(one["in"], one["text"], one["why"]) for one in found["data"]] == [(True, FACT, "given")]


async def test_a_reader_that_is_another_model_now_proves_its_shards_anew(serve: Serve, minilm_home: Path) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS), default=POLICY)
    made = await add(client, fact=FACT, questions=QUESTIONS)
    await work(client)
    shelf = opened(client)
    [standing] = await shelf.store.standings([made["id"]])
    await shelf.ledger.demote("core", "another")
    [demoted] = await shelf.store.standings([made["id"]])
    assert (standing.state, demoted.state) == ("live", "trial")
    assert demoted.evidence["why"] == "the model has changed: it is proven anew"


async def test_what_a_larger_model_answered_teaches_the_small_one(serve: Serve, minilm_home: Path) -> None:
    """The loop with no large author: the expert's answers become worked examples, tested on the core."""
    months = "January February March April May June July August September October November December".split()
    days = range(1, 13)
    dates = [(f"{day} {months[day - 1]} 20{10 + day}", f"20{10 + day}-{day:02}-{day:02}") for day in days]
    strong = [{"when": {"contains": said}, "text": iso} for said, iso in dates]
    client = await shelved(serve, minilm_home, models(strong=strong), default=CASCADE)
    system = {"role": "system", "content": "Write the date as YYYY-MM-DD."}
    for said, iso in dates:
        messages = [system, {"role": "user", "content": f"We met on {said}."}]
        reply = await client.chat(messages=messages)
        assert reply.text == iso and reply.headers["x-gateway-model"] == "expert"
    shelf = opened(client)
    await shelf.lessons.flush()
    lessons = await shelf.lessons.find()
    assert len(lessons) == 12 and set(lessons[0].failed.values()) == {"regex"}
    await work(client)
    [shard] = (await client.call("GET", "/v1/shards?kind=process")).json["data"]
    assert shard["author"] == "examples" and len(shard["examples"]) == 9
    assert shard["trigger"] == system["content"]
    assert shard["readers"]["core"]["state"] == "candidate"  # a script cannot be taught


async def test_without_consent_nothing_is_kept(serve: Serve, minilm_home: Path) -> None:
    client = await shelved(serve, minilm_home, models(), default=CASCADE.replace("learn: true", "learn: false"))
    assert (await client.chat("a date")).headers["x-gateway-model"] == "expert"
    await opened(client).lessons.flush()
    assert await opened(client).lessons.find() == []


async def test_shards_are_published_where_the_configuration_says_so(serve: Serve, minilm_home: Path) -> None:
    closed = await shelved(serve, minilm_home, models(KNOWS), default=POLICY)
    assert (await closed.call("GET", "/v1/shards/feed")).status == 404
    client = await shelved(serve, minilm_home, models(KNOWS, shards={"publish": True}), default=POLICY)
    made = await add(client, fact=FACT, questions=QUESTIONS)
    page = await client.call("GET", "/v1/shards/feed", headers={"x-gateway-nonce": "n"})
    assert page.status == 200 and page.headers["x-gateway-signature"]
    assert made["id"] in page.body.decode()
    again = await client.call("GET", "/v1/shards/feed", headers={"if-none-match": page.headers["etag"]})
    assert again.status == 304


async def test_a_rating_is_a_use_of_what_was_given(serve: Serve, minilm_home: Path) -> None:
    client = await shelved(serve, minilm_home, models(KNOWS), default=POLICY)
    made = await add(client, fact=FACT, questions=QUESTIONS)
    await work(client)
    reply = await client.chat(QUESTION)
    await client.call("POST", "/v1/feedback", {"trace": reply.gateway["trace"], "value": True})
    await opened(client).ledger.settle()
    [standing] = await opened(client).store.standings([made["id"]])
    assert (standing.shown, standing.shown_passed) == (1, 1)


async def test_a_large_document_keeps_nobody_waiting(serve: Serve) -> None:
    """Reading it takes a second, and others are answered meanwhile."""
    client = await serve(models(KNOWS), default=POLICY)
    reading = client.start("POST", "/v1/shards/documents", {"source": "long.md", "text": "A. " * 20_000})
    assert (await client.chat()).status == 200
    assert not reading.task.done()
    assert (await reading.done(60)).status == 201
