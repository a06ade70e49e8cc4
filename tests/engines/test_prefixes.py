"""What slots hold is stored before a server goes and put back before the next turn, and nothing is lost where that does
not work. The server only plays: `test_prefix_swap.py` has the real one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.engines import Lease, Residency, prefixes
from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.engines.llama_cpp_child import parameters
from gateway.engines.prefixes import Prefixes, seated
from gateway.engines.slots import SlotTable, Slotted
from gateway.engines.wishes import Wish
from gateway.errors import ConfigError
from gateway.reload import Files, Reloader
from gateway.transport.client import PooledClient
from tests.conftest import build_from, running
from tests.engines.fake_programs import program

LONG = 2000  # tokens


@dataclass
class SlotServer:
    """llama.cpp's actions on slots: `slots` are its own, `fails` and `stalls` name actions."""

    folder: Path
    slots: dict[int, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    fails: set[str] = field(default_factory=set)
    stalls: set[str] = field(default_factory=set)
    says: object = None
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    lease: Lease = Lease("", None, "m")

    async def answer(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["authorization"] == "Bearer the key"
        slot, action = int(request.match_info["slot"]), request.query["action"]
        self.asked.append(f"{action} {slot}")
        file = self.folder / (await request.json())["filename"]
        if action in self.stalls:
            file.write_text("half of it")
            self.stalled.set()
            await self.released.wait()
        if action in self.fails:
            file.write_text("half of it")
            return web.json_response({"error": {"message": f"no space left in {file}"}}, status=500)
        if action == "save":
            file.write_text(self.slots[slot])
        else:
            self.slots[slot] = file.read_text()
        return web.json_response(self.says or {"n_saved" if action == "save" else "n_restored": LONG})


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[SlotServer]:
    folder = tmp_path / "prefixes" / "m"
    folder.mkdir(parents=True)
    server = SlotServer(folder)
    app = web.Application()
    app.router.add_post("/slots/{slot}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    server.lease = Lease(f"http://127.0.0.1:{port}/v1", "the key", "m")
    yield server
    server.released.set()
    await runner.cleanup()


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Prefixes]:
    client = PooledClient()
    kept = Prefixes(tmp_path / "prefixes", client)
    kept.limit(10)
    yield kept
    await client.close()


@dataclass
class Run:
    """One run of the server, from load to unload."""

    server: SlotServer
    kept: Prefixes | None
    slots: int = 1

    def __post_init__(self) -> None:
        self.server.slots.clear()
        self.table = SlotTable(self.slots, self.server.folder)

    async def turn(self, conversation: str | None, tokens: int = LONG) -> Wish:
        wish = Wish(conversation=conversation)
        async with seated(self.table, self.server.lease, wish, self.kept) as lease:
            if lease.slot is not None:
                self.server.slots[lease.slot] = str(conversation)
            wish.tokens = tokens
        return wish

    async def unload(self) -> None:
        assert self.kept is not None
        await self.kept.store_all(self.table, self.server.lease)


def files(server: SlotServer) -> list[Path]:
    return sorted(server.folder.iterdir())


async def test_a_conversation_goes_on_after_a_swap(server: SlotServer, kept: Prefixes) -> None:
    run = Run(server, kept, slots=2)
    first = await run.turn("a")
    await run.turn("b")
    assert (first.restored_tokens, first.restored_ms) == (0, 0)
    await run.unload()
    assert server.asked == ["save 1", "save 0"], "the last used first"

    run = Run(server, kept, slots=2)
    wish = await run.turn("b")
    assert wish.restored_tokens == LONG and wish.restored_ms > 0
    assert server.slots == {0: "b"} and server.asked[2:] == ["restore 0"]
    assert (await run.turn("b")).restored_tokens == 0, "it is in its slot"
    assert (await run.turn("c")).restored_tokens == 0, "nothing is stored of it"
    assert server.asked[3:] == []


async def test_the_lease_names_the_slot(server: SlotServer, kept: Prefixes) -> None:
    table = SlotTable(1)
    async with seated(table, server.lease, Wish(conversation="a"), None) as lease:
        assert (lease.slot, lease.key) == (0, "the key")
        async with seated(table, server.lease, Wish(conversation="b"), kept) as other:
            assert other.slot is None, "none is free"
    async with seated(table, server.lease, Wish(), kept) as lease:
        assert lease.slot is None, "the server chooses"
    assert table.take("c") is not None


async def test_a_slot_is_given_back_by_whoever_fails_or_leaves(server: SlotServer, kept: Prefixes) -> None:
    table = SlotTable(1, server.folder)
    with pytest.raises(RuntimeError):
        async with seated(table, server.lease, Wish(conversation="a"), kept):
            raise RuntimeError
    run = Run(server, kept)
    await run.turn("a")
    await run.unload()
    server.stalls.add("restore")
    run = Run(server, kept)
    task = asyncio.create_task(run.turn("a"))
    await server.stalled.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert run.table.take("b") is not None and run.table.worth_storing() == []


async def test_one_that_has_gone_on_is_not_put_back(server: SlotServer, kept: Prefixes) -> None:
    run = Run(server, kept)
    await run.turn("a")
    await run.unload()
    run = Run(server, kept)
    await run.turn("a")
    await run.turn("b")
    assert (await run.turn("a")).restored_tokens == 0, "the server's own memory has more of it"


async def test_what_is_put_back_does_not_cost_another_its_prefix(server: SlotServer, kept: Prefixes) -> None:
    run = Run(server, kept, slots=2)
    await run.turn("a")
    await run.turn("b")
    await run.unload()
    run = Run(server, kept)
    for conversation in ("a", "b", "a", "b"):
        assert (await run.turn(conversation)).restored_tokens == LONG
        assert server.slots[0] == conversation
    assert server.asked[2:] == ["restore 0", "save 0", "restore 0", "save 0", "restore 0", "save 0", "restore 0"]


@pytest.mark.parametrize("tokens", [0, 511])
async def test_short_ones_are_not_stored(server: SlotServer, kept: Prefixes, tokens: int) -> None:
    run = Run(server, kept)
    await run.turn("a", tokens)
    await run.unload()
    assert server.asked == [] and files(server) == []


async def test_switched_off_nothing_is_stored_or_put_back(server: SlotServer, kept: Prefixes) -> None:
    run = Run(server, kept)
    await run.turn("a")
    await run.unload()
    kept.limit(0)
    run = Run(server, kept)
    assert (await run.turn("a")).restored_tokens == 0
    await run.unload()
    assert server.asked == ["save 0"]


async def test_more_than_the_limit_is_not_kept(server: SlotServer, kept: Prefixes) -> None:
    kept.limit(1e-6)  # a byte
    run = Run(server, kept)
    await run.turn("abc")
    await run.unload()
    assert files(server) == []


async def test_a_failure_costs_the_prefix_alone_and_is_told_once(
    server: SlotServer, kept: Prefixes, caplog: pytest.LogCaptureFixture
) -> None:
    server.fails.add("save")
    run = Run(server, kept, slots=2)
    await run.turn("a")
    await run.turn("b")
    await run.unload()
    await run.unload()
    assert files(server) == [], "half a file is removed"
    assert [record.message for record in caplog.records if record.name.startswith("gateway")] == [
        "model m: save of a conversation failed: its server refuses with 500"
    ]
    server.fails.clear()
    await run.unload()
    assert len(files(server)) == 2

    caplog.clear()
    server.fails.add("restore")
    run = Run(server, kept, slots=2)
    assert (await run.turn("a")).restored_tokens == 0
    assert (await run.turn("b")).restored_tokens == 0
    assert [record.message for record in caplog.records if record.name.startswith("gateway")] == [
        "model m: restore of a conversation failed: its server refuses with 500"
    ]


async def test_a_damaged_file_never_reaches_the_server(server: SlotServer, kept: Prefixes) -> None:
    """llama.cpp's would end itself."""
    run = Run(server, kept)
    await run.turn("a")
    await run.unload()
    files(server)[0].write_text("")
    assert (await Run(server, kept).turn("a")).restored_tokens == 0
    assert server.asked == ["save 0"] and files(server) == []


@pytest.mark.parametrize("says", [{"n_saved": "many"}, {"n_saved": 0}, ["n_saved"], {"ok": True}])
async def test_a_server_that_says_something_else_has_stored_nothing(
    server: SlotServer, kept: Prefixes, says: object
) -> None:
    server.says = says
    run = Run(server, kept)
    await run.turn("a")
    await run.unload()
    assert files(server) == []


async def test_a_server_that_is_gone_is_not_waited_for(server: SlotServer, kept: Prefixes) -> None:
    run = Run(server, kept)
    await run.turn("a")
    server.lease = Lease("http://127.0.0.1:1/v1", None, "m")
    async with asyncio.timeout(5):
        await run.unload()
    assert files(server) == []


async def test_storing_takes_only_so_long(
    server: SlotServer, kept: Prefixes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(prefixes, "ONE_S", 0.05)
    server.stalls.add("save")
    run = Run(server, kept)
    await run.turn("a")
    async with asyncio.timeout(5):
        await run.unload()
    assert files(server) == []
    assert "took too long" in caplog.text


async def test_it_hurries_when_the_gateway_stops(
    server: SlotServer, kept: Prefixes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefixes, "CLOSE_S", 0.05)
    server.stalls.add("save")
    under_way = Run(server, kept)
    await under_way.turn("a")
    task = asyncio.create_task(under_way.unload())
    await server.stalled.wait()
    kept.hurry()
    async with asyncio.timeout(2):
        await task
        await under_way.unload()


async def test_the_sweep_removes_what_is_over_a_new_limit(server: SlotServer, kept: Prefixes) -> None:
    run = Run(server, kept)
    await run.turn("a")
    await run.unload()
    sweep = asyncio.create_task(kept.sweep())
    await asyncio.sleep(0.02)
    assert len(files(server)) == 1
    kept.limit(0)
    async with asyncio.timeout(5):
        while server.folder.exists():
            await asyncio.sleep(0.005)
    sweep.cancel()
    await asyncio.wait({sweep})


async def test_what_was_done_is_logged(server: SlotServer, kept: Prefixes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gateway.engines.prefixes")
    run = Run(server, kept)
    await run.turn("my secret")
    await run.unload()
    await Run(server, kept).turn("my secret")
    assert "model m: 2000 tokens stored in" in caplog.text
    assert "model m: 2000 tokens of a conversation restored in" in caplog.text
    assert "secret" not in caplog.text


# What starts the servers that do it


def entry(path: Path, **keys: Any) -> str:
    more = "".join(f"\n    {name}: {value}" for name, value in keys.items())
    return f"models:\n  m:\n    engine: llama.cpp\n    source: 'file:{path}'\n    server: xllamacpp{more}\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


def engine_of(folder: Path, models: str) -> LlamaCppSettings:
    gateway, _ = build_from(folder, models)
    engine = gateway.engines[0]
    assert isinstance(engine, LlamaCppSettings) and isinstance(engine, Slotted)
    return engine


def test_nothing_is_stored_unless_the_file_says_so(model: Path, tmp_path: Path) -> None:
    for off in ("", "prefix_cache_mb: 0\n"):
        engine = engine_of(tmp_path, off + entry(model))
        assert engine.slot_folder() is None and engine.launch().settings["slot_folder"] is None
    assert not (tmp_path / "home" / "prefixes").exists()
    with pytest.raises(ConfigError, match="prefix_cache_mb"):
        build_from(tmp_path, "prefix_cache_mb: -1\n" + entry(model))


def test_the_server_is_told_where(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(tmp_path, "prefix_cache_mb: 100\n" + entry(model))
    folder = engine.slot_folder()
    assert folder is not None and folder.parent == tmp_path / "home" / "prefixes"
    assert engine.launch().settings["slot_folder"] == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    params = parameters(pytest.importorskip("xllamacpp").CommonParams(), dict(engine.launch().settings))
    assert params.slot_save_path == f"{folder}/", "it puts the name right behind"

    program(tmp_path / "llama-server", "LLAMA_API_KEY")
    other = replace(engine, server="llama-server", command=str(tmp_path / "llama-server"))
    argv = other.launch().settings["argv"]
    assert argv[argv.index("--slot-save-path") + 1] == str(other.slot_folder())
    folders = {folder, other.slot_folder()}
    monkeypatch.setenv("LLAMA_ARG_CACHE_TYPE_K", "q8_0")
    assert other.slot_folder() not in folders, "it holds something else with it"


def test_a_changed_model_has_another_folder_and_settings_of_size_have_none(model: Path, tmp_path: Path) -> None:
    engine = LlamaCppSettings("m", model, server="xllamacpp", prefixes=tmp_path)
    folder = engine.slot_folder()
    same = replace(engine, name="n", context=512, slots=3, threads=7, residency=Residency.ON_DEMAND)
    assert same.slot_folder() == folder is not None
    model.write_bytes(b"GGUF of another model")
    assert engine.slot_folder() not in (None, folder)
    model.unlink()
    assert engine.slot_folder() is None


def test_all_parts_of_a_split_model_count(tmp_path: Path) -> None:
    parts = [tmp_path / f"model-{number:05}-of-00002.gguf" for number in (1, 2)]
    for part in parts:
        part.write_bytes(b"GGUF")
    engine = LlamaCppSettings("m", parts[0], server="xllamacpp", prefixes=tmp_path)
    folder = engine.slot_folder()
    parts[1].write_bytes(b"GGUF of another model")
    assert None not in (folder, engine.slot_folder()) and engine.slot_folder() != folder


def test_what_cannot_be_stored_rightly_is_not(model: Path, tmp_path: Path) -> None:
    engine = LlamaCppSettings("m", model, server="xllamacpp", prefixes=tmp_path)
    for other in (replace(engine, mmproj=model), replace(engine, adapters=(("a", model),))):
        assert other.slot_folder() is None and other.launch().settings["slot_folder"] is None


def test_a_folder_that_cannot_be_made_is_done_without(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    engine = LlamaCppSettings("m", model, server="xllamacpp", prefixes=tmp_path / "file" / "prefixes")
    assert engine.launch().settings["slot_folder"] is None
    assert "model m: no conversations can be stored" in caplog.text


async def test_a_reload_changes_the_limit(tmp_path: Path) -> None:
    models = "models:\n  m: {engine: scripted, replies: [{text: hi}]}\n"
    async with running(tmp_path, models) as client:
        kept = client.runtime.prefixes
        kept.limit(100)
        file = kept.root / "m" / "x.1.0.kv"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
        files = Files(tmp_path / "models.yaml", tmp_path / "policies", lambda config, unwanted: None)
        sweep = asyncio.create_task(kept.sweep())
        await Reloader(client.live, client.runtime, files, b"", frozenset()).reload()
        async with asyncio.timeout(5):
            while kept.root.exists() and list(kept.root.iterdir()):
                await asyncio.sleep(0.005)
        sweep.cancel()
        await asyncio.wait({sweep})
