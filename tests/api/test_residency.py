"""What lists tell of models that are loaded when they are asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.engines import Engine, Residency
from gateway.engines.footprint import Footprint
from gateway.live import Live
from tests.asgi import Client
from tests.conftest import Serve, build_from
from tests.engines.fake_programs import program
from tests.engines.virtual import Played, World

MODELS = """
models:
  core: {engine: scripted, context: 512, replies: [{text: hi}]}
  expert: {engine: scripted, context: 4096, replies: [{text: hi}]}
  remote: {engine: openai, base_url: "https://example.com/v1", model: x}
  asleep: {engine: openai, base_url: "https://example.com/v1", model: x, api_key: "${NOT_SET_HERE}"}
"""
POLICY = "policy: default\nserves: [auto]\nroutes: [{name: all, answer: {model: core}}]\n"
SLOW_S = 0.05

Ask = Callable[[str], Awaitable[None]]


def played(name: str, **settings: Any) -> Played:
    size = Footprint(300, 50) if name == "core" else Footprint(700, 0)
    return Played(name, World(Footprint(1000, 100)), size, load_s=SLOW_S, unload_s=0.0, **settings)


@pytest.fixture
async def client(tmp_path: Path, home: Path) -> AsyncIterator[Client]:
    """Its core is always on, its expert on demand: engines that only play."""
    gateway, runtime = build_from(tmp_path, MODELS, default=POLICY)
    engines: tuple[Engine, ...] = (
        played("core", residency=Residency.ALWAYS),
        played("expert", slots=2, idle_ttl_s=60.0),
    )
    live = Live(replace(gateway, engines=engines, budget=Footprint(1000, 100)), runtime.pool)
    await runtime.start()
    await runtime.pool.settled(engines, 10)
    yield Client(live, runtime)
    await runtime.close()


async def ask(client: Client, name: str) -> None:
    """One request to the model, as its backend would."""
    async with client.runtime.pool.lease(next(e for e in client.gateway.engines if e.name == name)):
        pass


async def listed(client: Client) -> Any:
    reply = await client.call("GET", "/v1/models")
    assert reply.status == 200
    return reply.json


async def residency(client: Client, name: str) -> Any:
    return (await client.call("GET", f"/v1/models/{name}")).json["gateway"]["residency"]


async def test_the_list_tells_each_local_models_place_in_memory(client: Client) -> None:
    facts = {entry["id"]: entry["gateway"] for entry in (await listed(client))["data"]}
    core = facts["core"]["residency"]
    assert (core.pop("idle_s"), core.pop("load_s")) == (pytest.approx(0, abs=5), SLOW_S)
    assert core == {
        "kind": "always",
        "stage": "warm",
        "ram_bytes": 300,
        "gpu_bytes": 50,
        "slots": 1,
        "busy": 0,
        "waiting": 0,
        "loads": 1,
        "restarts": 0,
        "last_error": None,
        "why": "loaded",
    }
    expert = facts["expert"]["residency"]
    assert (expert["kind"], expert["stage"], expert["loads"], expert["idle_s"]) == ("on_demand", "dormant", 0, None)
    assert (expert["ram_bytes"], expert["idle_ttl_s"], expert["slots"]) == (700, 60.0, 2), "what it would take"
    assert "residency" not in facts["remote"] and "residency" not in facts["default"]


async def test_a_model_that_is_asked_for_is_seen_to_wake(client: Client) -> None:
    engine = client.gateway.engines[1]
    assert isinstance(engine, Played)
    engine.load_s = 3600.0
    asking = asyncio.create_task(ask(client, "expert"))
    await asyncio.sleep(0)
    expert = await residency(client, "expert")
    assert (expert["stage"], expert["waiting"], expert["loads"]) == ("loading", 1, 0)
    asking.cancel()


async def test_a_model_that_was_asked_for_is_loaded(client: Client) -> None:
    await ask(client, "expert")
    expert = await residency(client, "expert")
    assert (expert["stage"], expert["loads"]) == ("warm", 1) and expert["idle_s"] < 30


async def test_the_list_tells_the_budget_what_is_taken_and_who_is_inactive(client: Client) -> None:
    about = (await listed(client))["gateway"]
    budget = {"ram_bytes": 1000, "gpu_bytes": 100}
    assert about["memory"] == {"budget": budget, "taken": {"ram_bytes": 300, "gpu_bytes": 50}}
    (inactive,) = about["inactive"]
    assert inactive["id"] == "asleep" and "NOT_SET_HERE" in inactive["gateway"]["why"]


async def test_ollamas_list_of_what_is_loaded_has_sizes_and_ends(client: Client) -> None:
    async def ps() -> dict[str, Any]:
        return {model["name"]: model for model in (await client.call("GET", "/api/ps")).json["models"]}

    loaded = await ps()
    assert list(loaded) == ["core:latest"]
    assert (loaded["core:latest"]["size"], loaded["core:latest"]["size_vram"]) == (350, 50)
    assert datetime.fromisoformat(loaded["core:latest"]["expires_at"]).year == 2300
    await ask(client, "expert")
    expert = (await ps())["expert:latest"]
    assert (expert["size"], expert["size_vram"], expert["context_length"]) == (700, 0, 4096)
    left_s = datetime.fromisoformat(expert["expires_at"]).timestamp() - time.time()
    assert 30 < left_s <= 61


async def test_steps_are_recorded_from_the_first_one_on(client: Client) -> None:
    await ask(client, "expert")
    assert client.runtime.residency is not None
    rows = await client.runtime.residency.events(0, time.time() + 1)
    started, *steps = rows
    assert (started.model, started.ram_bytes, started.gpu_bytes) == ("", 1000, 100)
    assert [(row.model, row.reason) for row in steps] == [
        (name, reason) for name in ("core", "expert") for reason in ("wanted", "load", "loaded")
    ]
    assert steps[2].ram_bytes == 300 and steps[2].load_s == SLOW_S


async def test_a_reload_that_changes_the_budget_is_recorded(client: Client) -> None:
    assert client.runtime.residency is not None
    for budget in (Footprint(1000, 100), Footprint(2000, 100)):
        client.runtime.pool.keep(client.gateway.engines)
        client.live.swap(replace(client.gateway, budget=budget))
        client.runtime.limit_journal(journal_age_days=30, journal_size_mb=512)
    rows = await client.runtime.residency.events(0, time.time() + 1)
    assert [(row.reason, row.ram_bytes) for row in rows if not row.model] == [("started", 1000), ("limits", 2000)]


async def test_metrics_tell_the_same(client: Client) -> None:
    lines = (await client.call("GET", "/metrics")).body.decode().splitlines()
    assert 'gateway_model_stage{model="core",stage="warm"} 1.0' in lines
    assert 'gateway_memory_taken_bytes{kind="ram"} 300.0' in lines
    assert 'gateway_model_loads_total{model="core"} 1.0' in lines


async def test_a_dormant_model_is_listed_with_the_size_of_its_file(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "tiny-1M-Q4_0.gguf").write_bytes(b"GGUF" + b"x" * 96)
    llama_server = program(tmp_path / "llama-server", "LLAMA_API_KEY")
    client = await serve(
        f"""
        models:
          m:
            engine: llama.cpp
            server: llama-server
            command: {llama_server.path}
            source: "file:{tmp_path}/tiny-1M-Q4_0.gguf"
            context: 512
            residency: on_demand
        """,
        default=POLICY.replace("core", "m"),
    )
    assert (await client.call("GET", "/readyz")).json == {"status": "ready", "models": {"m": "dormant"}}
    assert (await client.call("GET", "/api/ps")).json == {"models": []}
    entry = (await client.call("GET", "/api/tags")).json["models"][-1]
    assert (entry["name"], entry["size"], entry["details"]["quantization_level"]) == ("m:latest", 100, "Q4_0")
    shown = (await client.call("POST", "/api/show", {"model": "m"})).json
    assert shown["model_info"]["onion.context_length"] == 512 and "completion" in shown["capabilities"]
    assert (await client.call("GET", "/api/v0/models/m")).json["state"] == "not-loaded"
    assert not llama_server.path.with_suffix(".pids").exists(), "looking loads nothing"

    assert (await client.chat("hello")).status == 200
    (running,) = (await client.call("GET", "/api/ps")).json["models"]
    assert running["name"] == "m:latest" and running["size"] >= 100
    assert (await residency(client, "m"))["loads"] == 1
