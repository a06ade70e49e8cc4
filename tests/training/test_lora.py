"""The real thing: the core model learns to write dates, and llama.cpp says with the adapter what torch says."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from gateway.training import process
from gateway.training.jobs import parted
from gateway.training.merge import merge
from gateway.training.pairs import Pair
from gateway.training.process import ADAPTER, TrainingFailed, put
from gateway.training.settings import Settings, settings_for
from tests.conftest import running
from tests.engines.test_adapters import odds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.model,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra 'train'"),
]
SYSTEM = {"role": "system", "content": "Write the date as YYYY-MM-DD. Answer with the date alone."}
MONTHS = "January February March April May June July August September October November December".split()


def dates(count: int, seed: int = 0) -> list[Pair]:
    rng, found = random.Random(seed), []
    for _ in range(count):
        year, month, day = rng.randint(1950, 2030), rng.randint(1, 12), rng.randint(1, 28)
        name = MONTHS[month - 1]
        said = rng.choice([f"{day} {name} {year}", f"{name} {day}, {year}", f"the {day}th of {name} {year}"])
        user, answer = f"We met on {said}.", f"{year}-{month:02}-{day:02}"
        found.append(Pair((SYSTEM, {"role": "user", "content": user}, {"role": "assistant", "content": answer})))
    return found


async def trained(base: Path, folder: Path, count: int, **said: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    settings, events = settings_for(count, said), list[dict[str, Any]]()
    put(folder, *parted(dates(count), settings))
    return await process.train(base, folder, settings, events.append), events


async def test_it_learns_and_writes_an_adapter_that_llama_cpp_loads(core_model_path: Path, tmp_path: Path) -> None:
    report, events = await trained(core_model_path, tmp_path / "job", 64, epochs=2, rank=8)
    assert report["held_out_loss"] < 0.7 * report["held_out_loss_before"]
    assert events[0]["event"] == "started" and events[0]["examples"] == 58
    assert (tmp_path / "job" / ADAPTER).stat().st_size == report["size_bytes"]
    assert (tmp_path / "job" / "peft" / "adapter_config.json").exists()


async def test_it_goes_on_where_it_was_killed(core_model_path: Path, tmp_path: Path) -> None:
    folder, settings = tmp_path / "job", settings_for(40, {"epochs": 3, "rank": 4})
    put(folder, *parted(dates(40), settings))
    killed = asyncio.Event()

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and not killed.is_set():
            killed.set()
            os.kill(child_pid(), signal.SIGKILL)

    with pytest.raises(TrainingFailed, match="ended unexpectedly"):
        await process.train(core_model_path, folder, settings, tell)
    assert (folder / "checkpoint.pt").exists() or killed.is_set()
    events: list[dict[str, Any]] = []
    report = await process.train(core_model_path, folder, settings, events.append)
    assert report["steps"] == 15


def child_pid() -> int:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return next(int(pid) for pid, command in commands.items() if b"gateway.training.child" in command)


async def test_too_little_memory_and_no_model_are_told(core_model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed) as caught:
        await trained(core_model_path, tmp_path / "small", 12, memory_mb=300)
    assert caught.value.code == "out_of_memory"
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(TrainingFailed) as caught:
        await trained(tmp_path / "broken.gguf", tmp_path / "broken", 12)
    assert caught.value.code == "unfit"
    with pytest.raises(TrainingFailed, match="none of 11 examples is short enough"):
        await trained(core_model_path, tmp_path / "long", 12, max_tokens=32)


def test_the_same_seed_gives_the_same_parts() -> None:
    settings = Settings(seed=3)
    one, other = parted(dates(50), settings), parted(dates(50), settings)
    assert one == other and (len(one[0]), len(one[1])) == (45, 5)
    assert parted(dates(50), Settings(held_out=0)) == (dates(50), [])


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"
)  # torch, transformers
async def test_llama_cpp_computes_with_an_adapter_what_torch_does(
    core_model_path: Path, tmp_path: Path, home: Path
) -> None:
    """Over unquantised weights: what packing them costs is no fault of the adapter's."""
    import torch

    from gateway.training import lora

    base, adapter = tmp_path / "base.gguf", tmp_path / "adapter.gguf"
    merge(core_model_path, None, base, "f32")
    model = lora.load(base, settings_for(8, {"rank": 8}))
    generator = torch.Generator().manual_seed(3)
    for name, weight in model.net.named_parameters():
        if "lora_B" in name:
            weight.data = 0.05 * torch.randn(weight.shape, generator=generator)
    model.write(adapter)
    models = f"""
    models:
      core:
        engine: llama.cpp
        source: "file:{base}"
        context: 512
        threads: 2
        adapters: {{own: {{source: "file:{adapter}"}}}}
    """
    policy = "policy: default\nroutes: [{name: all, answer: {model: core}}]\n"
    apart = []
    async with running(tmp_path, models, default=policy) as client:
        for pair in dates(20, seed=5):
            text = pair.messages[1]["content"]
            seen = sorted((await odds(client, text, "core:own")).values(), reverse=True)
            ids = model.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt"
            )
            with torch.no_grad():
                logits = model.net(**ids).logits[0, -1].float()
            told = torch.log_softmax(logits, -1).topk(len(seen)).values.tolist()
            apart.append(max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(seen, told, strict=True)))
    assert max(apart) < 0.01
