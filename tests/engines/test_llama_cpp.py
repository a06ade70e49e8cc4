"""llama.cpp's server behind a lease: what the rest of the gateway relies on, on the real core model."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gateway.engines import Lease, Patience
from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.engines.pool import Pool
from gateway.errors import BackendUnavailable
from tests.conftest import Serve
from tests.engines.conftest import add, lease_of, site
from tests.engines.images import image_part
from tests.engines.projector import TOKENS_PER_IMAGE, write_projector

on_the_model = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]


def marked(test: Any) -> Any:
    for mark in on_the_model:
        test = mark(test)
    return test


class Server:
    """A pool with the model in it, and a client for its leases."""

    def __init__(self, pool: Pool, session: aiohttp.ClientSession, home: Path) -> None:
        self.pool, self.session, self.home = pool, session, home

    @property
    def pid(self) -> int:
        pid = self.pool.states()["core"].pid
        assert pid is not None
        return pid

    @asynccontextmanager
    async def post(self, lease: Lease, body: Any, *, key: str | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"authorization": f"Bearer {key or lease.key}", "content-type": "application/json"}
        data = body if isinstance(body, bytes) else json.dumps({"model": lease.id, **body}).encode()
        async with self.session.post(f"{lease.url}/chat/completions", data=data, headers=headers) as reply:
            yield reply

    async def ask(self, content: str, **fields: Any) -> dict[str, Any]:
        async with lease_of(self.pool, "core") as lease, self.post(lease, asking(content, **fields)) as reply:
            assert reply.status == 200, await reply.text()
            answer: dict[str, Any] = await reply.json()
            return answer

    async def stream(self, content: str, **fields: Any) -> list[dict[str, Any]]:
        async with lease_of(self.pool, "core") as lease:
            async with self.post(lease, asking(content, stream=True, **fields)) as reply:
                assert reply.status == 200 and reply.content_type == "text/event-stream"
                return events(await reply.text())


def asking(content: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(core_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    home = tmp_path_factory.mktemp("home")
    where = site(home, Patience())
    pool = Pool(where)
    add(pool, LlamaCppSettings("core", core_model_path, context=1024, slots=4, threads=1))
    await pool.start()
    try:
        # the server closes connections without saying so
        connector, timeout = aiohttp.TCPConnector(force_close=True), aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            yield Server(pool, session, home)
    finally:
        await pool.close()
        await where.client.close()


@marked
async def test_a_whole_answer(server: Server) -> None:
    answer = await server.ask("Say hello.", max_tokens=8, logprobs=True)
    assert answer["model"] == "core" and answer["usage"]["completion_tokens"] <= 8
    choice = answer["choices"][0]
    assert choice["message"]["content"] and choice["logprobs"]["content"]


@marked
async def test_a_stream(server: Server) -> None:
    chunks = await server.stream("Say hello.", max_tokens=8, stream_options={"include_usage": True})
    words = [chunk["choices"][0]["delta"].get("content") for chunk in chunks if chunk["choices"]]
    assert len([word for word in words if word]) >= 2
    assert chunks[-1]["usage"]["completion_tokens"] <= 8


@marked
async def test_four_streams_at_once(server: Server) -> None:
    running = [server.stream(f"Count to {n}.", max_tokens=12, ignore_eos=True) for n in range(4, 9)]
    for chunks in await asyncio.gather(*running):  # the fifth waits for a place
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert server.pool.states()["core"].busy == 0


@marked
async def test_a_wrong_key_is_refused(server: Server) -> None:
    async with lease_of(server.pool, "core") as lease:
        for key in ("wrong", lease.key[:-1] if lease.key else ""):
            async with server.post(lease, asking("Hello"), key=key) as reply:
                assert reply.status == 401
        async with server.session.get(f"{lease.url}/models") as reply:
            assert reply.status == 401


@marked
async def test_there_is_nothing_but_the_api(server: Server) -> None:
    async with lease_of(server.pool, "core") as lease:
        root = lease.url.removesuffix("/v1")
        headers = {"authorization": f"Bearer {lease.key}", "origin": "http://elsewhere.example"}
        for method, path in [("GET", "/"), ("GET", "/slots"), ("POST", "/props"), ("POST", "/slots/0?action=save")]:
            async with server.session.request(method, root + path, headers=headers, json={}) as reply:
                assert reply.status in (403, 404, 501), path
                assert not reply.headers.get("access-control-allow-origin")


@marked
@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"messages":[{"role":"user","content":"\xff"}]}',
        b"",
    ],
    ids=["open brackets", "deep", "not utf-8", "empty"],
)
async def test_bad_json_is_refused_and_survived(server: Server, body: bytes) -> None:
    pid = server.pid
    async with lease_of(server.pool, "core") as lease, server.post(lease, body) as reply:
        assert reply.status in (400, 500)
        assert "error" in await reply.json()
    await server.ask("Hello", max_tokens=1)
    assert server.pid == pid


@marked
async def test_more_than_the_context_is_refused(server: Server) -> None:
    async with lease_of(server.pool, "core") as lease, server.post(lease, asking("word " * 3000)) as reply:
        assert reply.status == 400
        error = (await reply.json())["error"]
        assert error["type"] == "exceed_context_size_error" and error["n_ctx"] == 1024  # its own, not the slots' sum


async def leave_after_a_token(server: Server) -> None:
    """Start a stream of about half a minute and hang up."""
    async with lease_of(server.pool, "core") as lease:
        body = asking("Tell a long story.", stream=True, max_tokens=900, ignore_eos=True)
        async with server.post(lease, body) as reply:
            async for line in reply.content:
                if b'"content":"' in line:
                    break
            reply.close()


@marked
async def test_a_client_that_leaves_stops_the_work(server: Server) -> None:
    await asyncio.gather(*(leave_after_a_token(server) for _ in range(4)))
    started = time.monotonic()
    await server.ask("Hello", max_tokens=1)  # all four slots would be taken
    assert time.monotonic() - started < 5


@marked
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_key_is_seen_by_nobody(server: Server) -> None:
    async with lease_of(server.pool, "core") as lease:
        assert lease.key and len(lease.key) >= 32
        process = Path(f"/proc/{server.pid}")
        assert b"llama_cpp_child" in (process / "cmdline").read_bytes()
        for file in (process / "cmdline", process / "environ", *(server.home / "logs").iterdir()):
            assert lease.key.encode() not in file.read_bytes(), file


@marked
async def test_nothing_that_users_write_is_logged(server: Server) -> None:
    async with lease_of(server.pool, "core") as lease:
        for body in (b'{"my secret": nonsense}', b'{"messages":[{"role":"my secret","content":7}]}'):
            async with server.post(lease, body) as reply:
                assert reply.status >= 400
    await server.ask("my secret", max_tokens=1)
    assert not any("my secret" in file.read_text() for file in (server.home / "logs").iterdir())


@pytest.mark.model
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "its model file is missing"),
        (b"not a model", "its model file is not a GGUF file"),
        (b"GGUF" + bytes(100), "llama.cpp cannot load its model file"),
    ],
    ids=["missing", "another format", "broken"],
)
async def test_a_model_that_cannot_be_loaded_says_why(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    pool = Pool(site(tmp_path / "home"))
    add(pool, LlamaCppSettings("core", path))
    await pool.start()
    try:
        with pytest.raises(BackendUnavailable) as caught:
            async with lease_of(pool, "core", time.monotonic() + 20):
                pass
        assert caught.value.message == f"model 'core' is not running: {reason}"
    finally:
        await pool.close()


@pytest.mark.model
async def test_a_model_with_a_projector_sees(core_model_path: Path, tmp_path: Path, serve: Serve) -> None:
    """Its weights mean nothing, so what is seen is that the picture's tokens are in the prompt."""
    projector = write_projector(tmp_path / "mmproj.gguf")
    client = await serve(
        f"""
        models:
          core:
            engine: llama.cpp
            source: "file:{core_model_path}"
            mmproj: "file:{projector}"
            context: 4096
            defaults: {{max_tokens: 4, temperature: 0}}
        """,
        default="policy: default\nroutes: [{name: all, answer: {model: core}}]\n",
    )

    async def prompt_tokens(*parts: object) -> int:
        said = await client.start_chat([*parts]).done(timeout_s=60)  # type: ignore[arg-type]
        assert said.status == 200, said.body
        return int(said.json["usage"]["prompt_tokens"])

    words: object = {"type": "text", "text": "What is it?"}
    assert await prompt_tokens(words, image_part()) == await prompt_tokens(words) + TOKENS_PER_IMAGE
    two = await prompt_tokens(words, image_part(), image_part(16, 4))
    assert two == await prompt_tokens(words) + 2 * TOKENS_PER_IMAGE


@pytest.mark.model
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"MZ\x00\x00", "its projector file is not a GGUF file"),
        (b"GGUF\x03\x00\x00\x00", "llama.cpp cannot load its model file or its projector file"),
        (None, "its projector file is missing"),
    ],
)
async def test_a_projector_that_is_none_is_named(
    core_model_path: Path, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    projector = tmp_path / "mmproj.gguf"
    if content is not None:
        projector.write_bytes(content)
    pool = Pool(site(tmp_path / "home"))
    add(pool, LlamaCppSettings("core", core_model_path, mmproj=projector, context=256))
    await pool.start()
    try:
        with pytest.raises(BackendUnavailable) as caught:
            async with lease_of(pool, "core", time.monotonic() + 20):
                pass
        assert caught.value.message == f"model 'core' is not running: {reason}"
    finally:
        await pool.close()


def run_child(settings: Mapping[str, Any], code: str = "") -> tuple[str, int]:
    """What it says on these settings while its stdin stays open, and its exit status."""
    command = [sys.executable, "-c", f"{code}\nfrom gateway.engines import llama_cpp_child as it; it.main()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(dict(settings)) + "\n")
        process.stdin.flush()
        return process.stdout.read(), process.wait(timeout=20)


def test_without_xllamacpp_it_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    hidden = "import sys; sys.modules['xllamacpp'] = None"
    said, status = run_child(LlamaCppSettings("core", path).launch().settings, hidden)
    assert json.loads(said) == {"failed": "xllamacpp is not installed here: pip install xllamacpp"}
    assert status == 1


def test_a_child_whose_parent_is_already_gone_does_nothing(tmp_path: Path) -> None:
    settings = LlamaCppSettings("core", tmp_path / "missing.gguf").launch().settings
    assert run_child({**settings, "parent_pid": 1}) == ("", 0)


def test_the_child_imports_little() -> None:
    code = "import sys, gateway.engines.llama_cpp_child; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"asyncio", "pydantic", "fastapi", "numpy", "yaml", "orjson", "xllamacpp"}


def test_threads_leave_a_core_for_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in [(1, 1), (2, 1), (8, 7)]:
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, cores=cores: set(range(cores)), raising=False)
        assert LlamaCppSettings("core", Path("m.gguf")).launch().settings["threads"] == threads
    assert LlamaCppSettings("core", Path("m.gguf"), threads=5).launch().settings["threads"] == 5


def test_each_start_has_its_own_key() -> None:
    settings = LlamaCppSettings("core", Path("m.gguf"))
    first, second = settings.launch(), settings.launch()
    assert first.key != second.key and first.key not in repr(first) and first.key not in first.argv


@pytest.mark.model
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux keeps processes to CPUs")
async def test_it_keeps_to_its_cpus_and_names_wrong_ones(tmp_path: Path, core_model_path: Path) -> None:
    own = min(os.sched_getaffinity(0))
    pool = Pool(site(tmp_path))
    add(
        pool,
        LlamaCppSettings("one", core_model_path, context=256, cpus=(own,)),
        LlamaCppSettings("none", core_model_path, context=256, cpus=(9999,)),
    )
    await pool.start()
    async with lease_of(pool, "one"):
        pid = pool.states()["one"].pid
        assert pid is not None and os.sched_getaffinity(pid) == {own}
    with pytest.raises(BackendUnavailable, match="its key cpus names none that it may use here"):
        async with lease_of(pool, "none"):
            pass
    await pool.close()
