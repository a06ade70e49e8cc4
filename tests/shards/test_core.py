"""Shards on the real core model: it uses a proven fact, its prefix cache holds, and what is useless is not admitted."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.shards import Kind, Shard, Standing, State
from tests.asgi import Client, Response
from tests.conftest import Serve
from tests.shards.story import POLICY, add, opened, shelved

pytestmark = pytest.mark.model
FACTS = (
    ("The warden of Brill Tower is Otto Frei.", "Who is the warden of Brill Tower?", "Otto Frei"),
    ("The ferry to Kell leaves at half past nine.", "When does the ferry to Kell leave?", "nine"),
    ("The password of the reading room is bluebird.", "What is the password of the reading room?", "bluebird"),
)


@pytest.fixture
async def client(serve: Serve, minilm_home: Path, core_model_path: Path) -> AsyncIterator[Client]:
    models = f"""
    models:
      core:
        engine: llama.cpp
        source: file:{core_model_path}
        context: 4096
        slots: 1
        price: {{}}
    """
    client = await shelved(serve, minilm_home, models, default=POLICY)
    await client.runtime.pool.settled(client.gateway.engines, 60)
    yield client


async def put_live(client: Client, *facts: str) -> list[str]:
    """Facts that are taken as proven."""
    shelf, [subject] = opened(client), client.gateway.orders.subjects
    made = [Shard(f"{n:032x}", Kind.CONTENT, fact=fact) for n, fact in enumerate(facts)]
    await shelf.store.put(made)
    reader = subject.reader
    await shelf.ledger.set(Standing(one.id, reader.name, State.LIVE, reader.fingerprint) for one in made)
    await shelf.workshop.embed()
    return [one.id for one in made]


async def asked(client: Client, question: str, **fields: Any) -> Response:
    return await client.start_chat(question, temperature=0, max_tokens=32, **fields).done(timeout_s=60)


async def test_it_answers_from_a_fact_and_not_without(client: Client) -> None:
    await put_live(client, *(fact for fact, _, _ in FACTS))
    right = wrong = 0
    for _, question, answer in FACTS:
        with_it = await asked(client, question)
        without = await asked(client, question, headers={"x-gateway-no-shards": "1"})
        assert with_it.headers["x-gateway-shards"]
        right += answer in with_it.text
        wrong += answer not in without.text
    assert (right, wrong) == (3, 3)


@pytest.mark.slow
async def test_each_turn_reads_on_from_the_one_before(client: Client) -> None:
    ids = await put_live(client, *(fact for fact, _, _ in FACTS))
    messages = [{"role": "system", "content": "You are the help desk of a small harbour town. " * 8}]
    shards, cached, prompts = [], [], []
    for _, question, _ in FACTS:
        messages.append({"role": "user", "content": question})
        reply = await client.chat(messages=messages, temperature=0, max_tokens=24)
        usage = reply.json["usage"]
        cached.append(usage["prompt_tokens_details"]["cached_tokens"])
        prompts.append(usage["prompt_tokens"])
        shards.append(reply.headers["x-gateway-shards"].split(","))
        messages.append({"role": "assistant", "content": reply.text})
    assert shards == [ids[:1], ids[:2], ids]
    assert cached[1] >= prompts[0] - 8 and cached[2] >= prompts[1] - 8


@pytest.mark.slow
async def test_a_useful_fact_is_proven_and_useless_words_are_not(client: Client) -> None:
    fact, question, _ = FACTS[0]
    asked = [question, "Tell me who the warden of Brill Tower is.", "Which person is warden of Brill Tower?"]
    useful = await add(client, fact=fact, questions=asked)
    useless = await add(client, fact="It is always good to be helpful and polite to everybody.", questions=asked[:1])
    results = {}
    for one in (useful, useless):
        tested = await client.start("POST", f"/v1/shards/{one['id']}/test", {}).done(300)
        results[one["id"]] = tested.json
    assert results[useful["id"]]["admitted"], results[useful["id"]]["why"]
    assert not results[useless["id"]]["admitted"]
