"""The loop on the real core model, with no manual step: what a larger model answers lifts the smaller one."""

import random
from pathlib import Path

import pytest
import yaml

from gateway.chat import Json
from tests.asgi import Client
from tests.conftest import Serve
from tests.shards.story import opened, shelved

pytestmark = [pytest.mark.model, pytest.mark.slow]
MONTHS = "January February March April May June July August September October November December".split()
SYSTEM = "Write the date that the message mentions as YYYY-MM-DD. Answer with the date alone."
FORMS = ("{day} {month} {year}", "{month} {day}, {year}", "the {day}{th} of {month} {year}", "{month} {day}{th} {year}")
FRAMES = ("We met on {}.", "The rent is due on {}, please.", "Book a table for {}", "{} was a cold day", "Is {} free?")
POLICY = """
    policy: default
    serves: [auto]
    learn: true
    routes:
      - name: rest
        answer:
          cascade:
            - {model: core, shards: true, checks: [not_empty, used_shard, {regex: "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}]}
            - {model: strong}
"""


def dates(count: int) -> list[tuple[str, str]]:
    """(message, ISO date), in many words."""
    chance = random.Random(7)
    out: dict[str, str] = {}
    while len(out) < count:
        year, month, day = chance.randint(1990, 2029), chance.randint(1, 12), chance.randint(1, 28)
        th = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd"}.get(day, "th")
        said = chance.choice(FORMS).format(day=day, month=MONTHS[month - 1], year=year, th=th)
        out[chance.choice(FRAMES).format(said)] = f"{year}-{month:02}-{day:02}"
    return list(out.items())


async def ask(client: Client, said: str, **headers: str) -> Json:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": said}]
    call = client.start_chat(messages=messages, temperature=0, max_tokens=32, headers=headers)
    found: Json = (await call.done(120)).json
    return found


async def test_dates(serve: Serve, minilm_home: Path, core_model_path: Path) -> None:
    asked = dates(60)
    replies = [{"when": {"contains": said}, "text": iso} for said, iso in asked]
    core = {"engine": "llama.cpp", "source": f"file:{core_model_path}", "context": 4096, "price": {}}
    models = yaml.safe_dump({"models": {"core": core, "strong": {"engine": "scripted", "replies": replies}}})
    client = await shelved(serve, minilm_home, models, default=POLICY)
    await client.runtime.pool.settled(client.gateway.engines, 60)
    first, rest = asked[:40], asked[40:]
    for said, _ in first:
        await ask(client, said)
    await opened(client).lessons.flush()
    await opened(client).workshop.work()
    await opened(client).index.refresh()

    async def passed(**headers: str) -> int:
        right = 0
        for said, iso in rest:
            reply = await ask(client, said, **headers)
            right += reply["model"] == "core" and reply["choices"][0]["message"]["content"].strip() == iso
        return right

    before, after = await passed(**{"x-gateway-no-shards": "1"}), await passed()
    [shard] = (await client.call("GET", "/v1/shards?kind=process")).json["data"]
    print(before, after, len(rest), shard["readers"]["core"]["evidence"])
    assert after - before >= 0.3 * len(rest)
