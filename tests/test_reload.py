"""New configuration while requests run: whole or not at all."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.config.files import Config, read_config
from gateway.errors import SourceError
from gateway.live import Live
from gateway.reload import Files, Reloader, awake
from tests.asgi import Client
from tests.conftest import build_from, write_config

WORDS = 12


def generation(number: int, between_ms: int = 5) -> str:
    text = " ".join([f"g{number}"] * WORDS)
    return f"models:\n  m: {{engine: scripted, replies: [{{text: '{text}', between_ms: {between_ms}}}]}}\n"


def policy(number: int) -> str:
    return f"policy: default\nroutes: [{{name: r{number}, answer: {{model: m}}}}]\n"


class Served:
    """A gateway on files that a test may change."""

    def __init__(self, folder: Path, client: Client) -> None:
        self.folder, self.client, self.live = folder, client, client.live
        self.fetched: list[Config] = []
        self.fetch: Callable[[Config, Callable[[], bool]], None] = lambda config, _: self.fetched.append(config)
        learned = client.runtime.home / "learned"
        files = Files(
            folder / "models.yaml", folder / "policies", lambda config, unwanted: self.fetch(config, unwanted), learned
        )
        served, config = files.read()
        self.reloader = Reloader(self.live, client.runtime, files, served, config.scripts)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self.reloader.run())
        try:
            yield
        finally:
            running.cancel()
            async with asyncio.timeout(10):
                await asyncio.wait({running})

    async def says(self, word: str) -> None:
        """Returns once this is what answers begin with."""
        async with asyncio.timeout(20):
            while (await self.client.chat("hello")).text.split()[0] != word:
                await asyncio.sleep(0.02)

    def write(self, models: str, policy: str) -> None:
        write_config(self.folder, models, default=policy)

    async def health(self) -> dict[str, object]:
        config: dict[str, object] = (await self.client.call("GET", "/healthz")).json["config"]
        return config


@asynccontextmanager
async def served(folder: Path, models: str, policy: str) -> AsyncIterator[Served]:
    gateway, runtime = build_from(folder, models, default=policy)
    live = Live(gateway, runtime.pool)
    await runtime.start()
    try:
        yield Served(folder, Client(live, runtime))
    finally:
        await runtime.close()


@pytest.fixture
async def one(tmp_path: Path, home: Path) -> AsyncIterator[Served]:
    async with served(tmp_path, generation(0), policy(0)) as found:
        yield found


async def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_is_new_is_served_and_said(one: Served) -> None:
    assert (await one.health())["status"] == "current"
    one.write(generation(1), policy(1))
    await one.reloader.reload()
    reply = await one.client.chat("hello")
    assert (reply.gateway["route"], reply.text.split()[0]) == ("r1", "g1")
    assert (await one.health())["status"] == "current"
    assert len(one.fetched) == 1


@pytest.mark.slow
async def test_two_hundred_reloads_under_twenty_streams(one: Served) -> None:
    """Each stream is whole, and all of it, route and words, is of one configuration."""
    done, seen = asyncio.Event(), []

    async def talk() -> None:
        while not done.is_set():
            reply = await one.client.chat("hello", stream=True)
            assert reply.status == 200 and reply.events[-1] == "[DONE]"
            seen.append((reply.gateway["route"], reply.text))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(talk())
        for number in range(1, 201):
            one.write(generation(number), policy(number))
            await one.reloader.reload()
            assert one.live.stale_why is None
        done.set()
    assert len(seen) >= 100
    for route, text in seen:
        number = route.removeprefix("r")
        assert text.split() == [f"g{number}"] * WORDS
    assert len({route for route, _ in seen}) > 20
    assert (await one.client.chat("hello")).gateway["route"] == "r200"
    assert not one.live._in_use.total()


async def test_a_stream_ends_on_the_gateway_that_it_began_with(one: Served) -> None:
    one.write(generation(1, between_ms=60), policy(1))
    await one.reloader.reload()
    call = one.client.start_chat("hello", stream=True)
    await call.wrote.wait()
    one.write(generation(2), policy(2))
    await one.reloader.reload()
    assert (await one.client.chat("hello")).text.split()[0] == "g2"
    assert (await call.done()).text.split() == ["g1"] * WORDS


@pytest.mark.parametrize(
    ("models", "routes", "why"),
    [
        ("models: [", policy(1), "models.yaml:1"),
        (generation(1), "policy: default\nroutes: [{name: a, answer: {model: nobody}}]\n", "default.yaml:2"),
        ("models:\n  m: {engine: scripted, replis: []}\n", policy(1), "models.yaml:2"),
        ("", policy(1), "models.yaml:"),
    ],
    ids=["not YAML", "unknown model", "unknown key", "empty"],
)
async def test_a_mistake_changes_nothing_and_is_told(
    one: Served, models: str, routes: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    one.write(models, routes)
    await one.reloader.reload()
    assert (await one.client.chat("hello")).text.split()[0] == "g0"
    health = await one.health()
    assert health["status"] == "stale" and str(health["why"]).startswith(why)
    assert "configuration not reloaded" in caplog.text and why.split(":")[0] in caplog.text
    one.write(generation(3), policy(3))
    await one.reloader.reload()
    assert (await one.health())["status"] == "current"
    assert (await one.client.chat("hello")).text.split()[0] == "g3"


async def test_a_mistake_that_is_undone_is_forgotten(one: Served) -> None:
    one.write("models: {}", policy(0))
    await one.reloader.reload()
    assert (await one.health())["status"] == "stale"
    one.write(generation(0), policy(0))
    await one.reloader.reload()
    assert (await one.health())["status"] == "current"


async def test_a_model_file_that_cannot_be_fetched_changes_nothing(one: Served) -> None:
    def fail(config: Config, is_unwanted: Callable[[], bool]) -> None:
        raise SourceError("no such file")

    one.fetch = fail
    one.write(generation(1), policy(1))
    await one.reloader.reload()
    assert (await one.health())["why"] == "no such file"
    assert (await one.client.chat("hello")).text.split()[0] == "g0"


async def test_settings_beside_the_models_change_too(one: Served) -> None:
    one.write(generation(1) + "body_limit_mb: 0.001\n", policy(1))
    await one.reloader.reload()
    assert (await one.client.chat("x" * 2000)).status == 413


async def test_what_only_a_start_can_change_is_said(one: Served, caplog: pytest.LogCaptureFixture) -> None:
    one.write(f"redis_url: redis://127.0.0.1:1/0\n{generation(1)}", policy(1))
    await one.reloader.reload()
    assert one.live.stale_why is None
    assert [text for text in caplog.messages if "next start" in text] == [
        "redis_url has changed: it counts from the next start on"
    ]


async def test_changed_files_are_seen(one: Served) -> None:
    one.write(generation(1), policy(1))  # before anyone looks: the first model files were being fetched, say
    async with one.watching():
        await one.says("g1")
        (one.folder / "policies" / "default.yaml").unlink()
        (one.folder / "policies" / "other.yaml").write_text("policy: other\nroutes: [{name: a, answer: {model: m}}]\n")
        await until(lambda: "other" in one.live.gateway.policies and "default" not in one.live.gateway.policies)
        # the way of editors: a new file takes the old one's place
        (one.folder / "new").write_text(generation(7).replace("  m:", "  renamed:"))
        (one.folder / "new").rename(one.folder / "models.yaml")
        await until(lambda: one.live.stale_why)
        (one.folder / "models.yaml").write_text(generation(8))
        await until(lambda: one.live.stale_why is None)


async def test_a_folder_made_anew_and_the_end_of_a_link_are_seen(one: Served) -> None:
    policies, elsewhere = one.folder / "policies", one.folder / "elsewhere.yaml"
    async with one.watching():
        shutil.rmtree(policies)
        await until(lambda: one.live.stale_why)
        one.write(generation(1), policy(1))
        await one.says("g1")
        one.write(generation(2), policy(2))
        await one.says("g2")
        elsewhere.write_text(generation(3))
        (one.folder / "models.yaml").unlink()
        (one.folder / "models.yaml").symlink_to(elsewhere)
        await one.says("g3")
        elsewhere.write_text(generation(4))
        await one.says("g4")


async def test_changed_scripts_are_seen(tmp_path: Path, home: Path) -> None:
    script = tmp_path / "scripts" / "m.yaml"
    script.parent.mkdir()
    script.write_text("replies: [{text: one}]\n")
    async with served(tmp_path, "models:\n  m: {engine: scripted, script: scripts/m.yaml}\n", policy(0)) as one:
        async with one.watching():
            script.write_text("replies: [{text: two}]\n")
            await one.says("two")
            script.write_text("replies: [{test: three}]\n")
            await until(lambda: one.live.stale_why)
            script.write_text("replies: [{text: three}]\n")
            await one.says("three")


async def test_what_editors_hide_beside_a_policy_is_none(one: Served) -> None:
    (one.folder / "policies" / ".#default.yaml").symlink_to("me@here.123:456")  # Emacs's lock
    one.write(generation(1), policy(1))
    await one.reloader.reload()
    assert (await one.health())["status"] == "current"


class Fetching:
    """A fetch that takes until it is told to go on, or that it is not wanted any more."""

    def __init__(self) -> None:
        self.begun, self.goes_on = threading.Event(), threading.Event()
        self.was_unwanted = False

    def __call__(self, config: Config, is_unwanted: Callable[[], bool]) -> None:
        self.begun.set()
        while not self.goes_on.wait(0.01):
            if is_unwanted():
                self.was_unwanted = True
                raise SourceError("not wanted")


async def test_a_change_takes_the_place_of_one_that_is_still_fetched(one: Served) -> None:
    one.fetch = fetching = Fetching()
    async with one.watching():
        one.write(generation(1), policy(1))
        await until(fetching.begun.is_set)
        assert (await one.health())["status"] == "loading"
        assert (await one.client.chat("hello")).text.split()[0] == "g0"
        one.reloader.ask()  # nothing else is in the files: it goes on
        fetching.goes_on.set()
        await one.says("g1")
        assert not fetching.was_unwanted
        one.fetch = fetching = Fetching()
        one.write(generation(2), policy(2))
        await until(fetching.begun.is_set)
        one.fetch = lambda config, is_unwanted: None
        one.write(generation(3), policy(3))
        await one.says("g3")
        assert fetching.was_unwanted and (await one.health())["status"] == "current"


async def test_a_fetch_ends_with_the_server(one: Served) -> None:
    one.fetch = fetching = Fetching()
    async with one.watching():
        one.write(generation(1), policy(1))
        await until(fetching.begun.is_set)
    assert fetching.was_unwanted


async def test_the_end_of_the_server_does_not_wait_for_a_fetch_that_hangs(
    one: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.reload.LET_GO_S", 0.05)
    begun, goes_on = threading.Event(), threading.Event()

    def hang(config: Config, is_unwanted: Callable[[], bool]) -> None:
        begun.set()
        goes_on.wait()

    one.fetch = hang
    async with one.watching():
        one.write(generation(1), policy(1))
        await until(begun.is_set)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "fetch")
    goes_on.set()


async def test_asking_reloads_what_has_not_changed(one: Served) -> None:
    before = one.live.gateway
    await one.reloader.reload()
    assert one.live.gateway is before
    one.reloader.ask()
    await one.reloader.reload()
    assert one.live.gateway is not before


CORE = """
models:
  core: {{engine: llama.cpp, source: "file:{path}", context: 512, slots: {slots}, threads: 1}}
"""
ASK_CORE = "policy: default\nroutes: [{name: a, answer: {model: core}}]\n"


@pytest.mark.model
async def test_a_changed_model_takes_over_once_it_answers(tmp_path: Path, home: Path, core_model_path: Path) -> None:
    async with served(tmp_path, CORE.format(path=core_model_path, slots=1), ASK_CORE) as one:
        assert (await one.client.chat("Say hi.", max_tokens=4)).status == 200
        pool = one.client.runtime.pool
        old = pool.states()["core"].pid
        call = one.client.start_chat("Count to one hundred.", stream=True, max_tokens=120)
        await call.wrote.wait()
        one.write(CORE.format(path=core_model_path, slots=2), ASK_CORE)
        reloading = asyncio.create_task(one.reloader.reload())
        await until(lambda: len(pool._residents) == 2)
        assert (await one.client.call("GET", "/readyz")).status == 200
        await reloading
        new = pool.states()["core"]
        assert new.slots == 2 and new.pid not in (None, old)
        assert (await one.client.chat("Say hi.", max_tokens=4)).status == 200
        stream = await call.done(60)
        assert stream.events[-1] == "[DONE]"
        await until(lambda: len(pool._residents) == 1)


@pytest.mark.model
async def test_a_model_that_does_not_start_does_not_take_over(
    tmp_path: Path, home: Path, core_model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    async with served(tmp_path, CORE.format(path=core_model_path, slots=1), ASK_CORE) as one:
        pid = None
        assert (await one.client.chat("Say hi.", max_tokens=4)).status == 200
        pid = one.client.runtime.pool.states()["core"].pid
        one.write(CORE.format(path=broken, slots=1), ASK_CORE)
        await one.reloader.reload()
        assert "model 'core' does not start: llama.cpp cannot load its model file" in caplog.text
        assert (await one.health())["status"] == "stale"
        assert (await one.client.chat("Say hi.", max_tokens=4)).status == 200
        assert one.client.runtime.pool.states()["core"].pid == pid
        await until(lambda: len(one.client.runtime.pool._residents) == 1)


async def test_a_server_that_nobody_keeps_any_more_is_not_waited_for(tmp_path: Path, home: Path) -> None:
    """The banner waits for the first configuration, which may be replaced meanwhile."""
    gateway, runtime = build_from(tmp_path, CORE.format(path=tmp_path / "none.gguf", slots=1), default=ASK_CORE)
    async with asyncio.timeout(5):
        await runtime.pool.settled(gateway.engines, 60)
    await runtime.close()


SLEEPERS = """
models:
  m: {{engine: scripted, replies: [{{text: hello}}]}}
  here: {{engine: llama.cpp, source: "file:{here}", residency: on_demand}}
  late: {{engine: llama.cpp, source: "file:{late}", residency: on_demand}}
  never: {{engine: llama.cpp, source: "file:{never}", residency: on_demand}}
"""


async def test_the_files_of_models_on_demand_come_while_others_are_served(tmp_path: Path, home: Path) -> None:
    here, late, never = (tmp_path / f"{name}.gguf" for name in ("here", "late", "never"))
    here.write_bytes(b"GGUF")
    text = SLEEPERS.format(here=here, late=late, never=never)
    async with served(tmp_path, text, policy(0)) as one:
        seen: list[tuple[str, ...]] = []
        pool, config = one.client.runtime.pool, read_config(tmp_path / "models.yaml", tmp_path / "policies")
        assert set(awake(config).models) == {"m"}

        def fetch(wanted: Config, is_unwanted: Callable[[], bool]) -> None:
            seen.append((*wanted.models, str(pool.states()["late"].stage), str(pool.states()["never"].stage)))
            if "never" in wanted.models:
                raise SourceError("never.gguf: there is none")
            late.write_bytes(b"GGUF")

        one.fetch = fetch
        await one.reloader.fetch_sleepers(config, one.client.gateway.engines)
        assert seen == [("late", "downloading", "downloading"), ("never", "dormant", "downloading")]
        states = pool.states()
        assert {name: str(states[name].stage) for name in ("here", "late", "never")} == {
            "here": "dormant",
            "late": "dormant",
            "never": "absent",
        }
        assert states["never"].last_error == "never.gguf: there is none"
