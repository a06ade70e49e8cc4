"""Trained adapters over the real core model: each request gets its own, also while another one joins."""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

import pytest

from gateway.training import process
from gateway.training.adopting import adopt
from gateway.training.settings import Settings
from tests.conftest import running
from tests.engines.adapter import write_adapter
from tests.engines.test_adapters import distance, odds
from tests.test_reload import Served
from tests.training.test_fine_tuning import over, submit

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


async def test_a_fine_tuned_model_can_be_called_as_soon_as_its_job_has_succeeded(
    tmp_path: Path, home: Path, core_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, str(Path(__file__).parent / "stand_in.py")))
    adapter = write_adapter(tmp_path / "adapter.gguf", 5)
    async with running(tmp_path, MODELS.format(model=core_model_path), default=POLICY) as client:
        served = Served(tmp_path, client)
        async with served.watching():
            plain = await odds(client, TEXTS[0], "core")
            job = await over(client, (await submit(client, f"adapter {adapter}"))["id"])
            name = job["fine_tuned_model"]
            assert distance(await odds(client, TEXTS[0], name), plain) > 1
            assert distance(await odds(client, TEXTS[0], "core"), plain) < 1
            assert (await client.call("DELETE", f"/v1/models/{name}")).status == 200
            async with asyncio.timeout(60):
                while (await client.chat("hello", model=name, max_tokens=1)).status == 200:
                    await asyncio.sleep(0.2)
            assert (await client.chat("hello", model="core", max_tokens=1)).status == 200
