"""A gateway whose small model is scripted: it answers everyday questions, and what stands before a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gateway.shards.bookcase import Opened
from gateway.shards.proving.cases import controls
from tests.asgi import Client
from tests.conftest import Serve

FACT = "The warden of Brill Tower is Otto Frei, a retired ferryman."
QUESTION = "Who is the warden of Brill Tower?"
QUESTIONS = [QUESTION, "Who watches over Brill Tower?", "What did the warden of Brill Tower do before?"]
Replies = list[dict[str, Any]]


def everyday() -> Replies:
    return [{"when": {"contains": one.messages[0]["content"]}, "text": one.accepted[0]} for one in controls()]


def models(*replies: dict[str, Any], strong: Replies | None = None, **more: Any) -> str:
    core = {"engine": "scripted", "parameters": "135M", "price": {}, "replies": [*everyday(), *replies, {"text": "hm"}]}
    expert = {
        "engine": "scripted",
        "price": {"input_usd_per_mtok": 1},
        "replies": strong or [{"text": "of the expert"}],
    }
    return yaml.safe_dump({"models": {"core": core, "expert": expert}, **more})


KNOWS = {"when": {"contains": FACT}, "text": "The warden of Brill Tower is Otto Frei, a retired ferryman."}
POLICY = """
    policy: default
    serves: [auto]
    routes:
      - {name: rest, answer: {model: core, shards: true}}
"""
CASCADE = """
    policy: default
    serves: [auto]
    learn: true
    routes:
      - name: rest
        answer:
          cascade:
            - {model: core, shards: true, checks: [not_empty, used_shard, {regex: "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}]}
            - {model: expert}
"""


async def shelved(serve: Serve, minilm_home: Path, models: str, **policies: str) -> Client:
    """A running gateway with the embedding model at hand."""
    client = await serve(models, **policies)
    (client.runtime.home / "models").symlink_to(minilm_home / "models")
    opened(client).ledger.share_of = lambda standing: 0.0  # type: ignore[method-assign]  # withheld by chance
    return client


def opened(client: Client) -> Opened:
    found = client.runtime.bookcase.opened
    assert found is not None
    return found


async def add(client: Client, **shard: Any) -> dict[str, Any]:
    reply = await client.call("POST", "/v1/shards", {"kind": "content", **shard})
    assert reply.status == 201, reply.body
    made: dict[str, Any] = reply.json
    return made


async def work(client: Client) -> None:
    """What a running server does beside its requests."""
    await opened(client).workshop.work()
    await opened(client).index.refresh()
