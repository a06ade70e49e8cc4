"""Trained adapters over the real core model: each request gets its own, also while another one joins."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from gateway.training.adopting import adopt
from gateway.training.settings import Settings
from tests.conftest import running
from tests.engines.adapter import write_adapter
from tests.engines.test_adapters import distance, odds
from tests.test_reload import Served

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(600)]
TEXTS = ("Name a mountain.", "Where is Rome?", "Count to four.")
MODELS = """
models:
  core:
    engine: llama.cpp
    source: "file:{model}"
    context: 1024
    slots: 4
    threads: 2
    defaults: {{temperature: 0, max_tokens: 4}}
"""
POLICY = "policy: default\nroutes: [{name: all, answer: {model: core}}]\n"
CLIENTS, ROUNDS = 8, 12


def put(home: Path, base: Path, seed: int) -> str:
    """Another adapter. Returns its name."""
    folder = home / "training" / str(seed)
    folder.mkdir(parents=True)
    write_adapter(folder / "adapter.gguf", seed)
    settings = Settings()
    entry = adopt(home, folder, model="core", name=f"n{seed}", base=base, data={}, settings=settings, report={})
    return entry.full_name


async def test_eight_clients_ask_base_and_three_adapters_while_one_of_them_joins(
    tmp_path: Path, home: Path, core_model_path: Path
) -> None:
    names = ["core", *(put(home, core_model_path, seed) for seed in (1, 2))]
    async with running(tmp_path, MODELS.format(model=core_model_path), default=POLICY) as client:
        served = Served(tmp_path, client)
        async with served.watching():
            alone = {(text, name): await odds(client, text, name) for text in TEXTS for name in names}
            found = []

            async def ask(number: int, names: list[str]) -> None:
                pairs = itertools.cycle(itertools.product(TEXTS, names))
                for text, name in itertools.islice(pairs, number, number + ROUNDS):
                    found.append(((text, name), await odds(client, text, name)))

            async def ask_until_it_joins(number: int) -> None:
                while third not in client.live.gateway.models:
                    await ask(number, names)

            third = await asyncio.to_thread(put, home, core_model_path, 3)
            async with asyncio.timeout(300):
                await asyncio.gather(*(ask_until_it_joins(number) for number in range(CLIENTS)))
            alone |= {(text, third): await odds(client, text, third) for text in TEXTS}
            await asyncio.gather(*(ask(number, [*names, third]) for number in range(CLIENTS)))
    assert len(found) >= 2 * CLIENTS * ROUNDS
    for pair, seen in found:
        assert min(alone, key=lambda other: distance(alone[other], seen)) == pair
