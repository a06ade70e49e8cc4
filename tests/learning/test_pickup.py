"""A running server follows what is learned, and what is taken back."""

import asyncio
from pathlib import Path

from gateway.learned_files import Learned, LearnedFile
from gateway.live import Live
from gateway.reload import Files, Reloader
from tests.asgi import Client
from tests.conftest import build_from

MODELS = """
models:
  small: {engine: scripted, replies: [{text: small}]}
  large: {engine: scripted, replies: [{text: large}]}
"""
POLICY = """
policy: default
routes:
  - {name: long, when: {input_tokens: {above: {learned: long, default: 1000}}}, answer: {model: large}}
  - {name: rest, answer: {model: small}}
"""


def threshold(value: float) -> LearnedFile:
    return LearnedFile("thresholds", {"version": 1, "thresholds": {"long": value}})


async def says(client: Client, word: str) -> None:
    async with asyncio.timeout(20):
        while (await client.chat("hello there")).text != word:
            await asyncio.sleep(0.02)


async def test_a_learned_threshold_is_followed_and_reverted(home: Path, tmp_path: Path) -> None:
    gateway, runtime = build_from(tmp_path, MODELS, default=POLICY)
    live = Live(gateway, runtime.pool)
    await runtime.start()
    client = Client(live, runtime)
    files = Files(tmp_path / "models.yaml", tmp_path / "policies", lambda config, unwanted: None, home / "learned")
    served, config = files.read()
    reloader = Reloader(client.live, runtime, files, served, config.scripts)
    running = asyncio.create_task(reloader.run())
    try:
        assert (await client.chat("hello there")).text == "small"
        Learned(home).write([threshold(1.0)])
        await says(client, "large")
        Learned(home).write([threshold(500.0)])
        await says(client, "small")
        Learned(home).revert()
        await says(client, "large")
        (home / "learned" / "thresholds.yaml").write_text("version: 2\n")  # what is damaged changes nothing
        async with asyncio.timeout(20):
            while client.live.stale_why is None:
                await asyncio.sleep(0.02)
        assert "thresholds.yaml" in client.live.stale_why and (await client.chat("hello there")).text == "large"
    finally:
        running.cancel()
        await asyncio.wait({running})
        await runtime.close()
