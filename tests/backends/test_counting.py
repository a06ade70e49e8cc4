"""Who counts, and what happens where nobody can."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from hypothesis import given, settings

from gateway.backends import counting
from gateway.backends.counting import Estimator, TiktokenCounter, counter_for, counter_of, encoding_of
from gateway.engines import Lease, Patience
from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.engines.pool import Pool
from gateway.tokens import Count, Counter, at_least, at_most, estimate_request
from gateway.transport.client import PooledClient
from tests.engines.conftest import add, lease_of, site
from tests.test_tokens import BODY, IMAGE, asking

TOOLS = [{"type": "function", "function": {"name": "größe", "parameters": {"type": "object", "properties": {}}}}]

# --- OpenAI's encodings


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-5-mini", "o200k_base"),
        ("gpt-5.1", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("gpt-4o", "o200k_base"),
        ("openai/gpt-4o-2024-08-06", "o200k_base"),
        ("openrouter/openai/o3", "o200k_base"),
        ("o1-mini", "o200k_base"),
        ("ft:gpt-4o-mini:org::id", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("azure/gpt-35-turbo", "cl100k_base"),
        ("gpt-3.5-turbo-0125", "cl100k_base"),
        ("gpt-oss-120b", None),
        ("o1x", None),
        ("claude-sonnet-4-5", None),
        ("mistral/gpt-4o", None),
        ("", None),
    ],
)
def test_the_encoding_of_a_model(model: str, encoding: str | None) -> None:
    assert encoding_of(model) == encoding
    assert isinstance(counter_for("m", model), TiktokenCounter if encoding else Estimator)


async def test_messages_are_counted_by_openais_formula() -> None:
    # the example of OpenAI's cookbook, with what the API said
    messages = [
        {
            "role": "system",
            "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain "
            "English.",
        },
        {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
        {
            "role": "system",
            "name": "example_assistant",
            "content": "Things working well together will increase revenue.",
        },
        {
            "role": "system",
            "name": "example_user",
            "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased "
            "leverage.",
        },
        {
            "role": "system",
            "name": "example_assistant",
            "content": "Let's talk later when we're less busy about how to do better.",
        },
        {
            "role": "user",
            "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
        },
    ]
    assert await TiktokenCounter("m", "cl100k_base").count({"messages": messages}) == Count(129, estimated=False)
    assert await TiktokenCounter("m", "o200k_base").count({"messages": messages}) == Count(124, estimated=False)


async def test_what_openai_does_not_publish_is_marked_as_estimated() -> None:
    counter = TiktokenCounter("m", "o200k_base")
    plain = await counter.count(asking("hello"))
    for richer in (
        asking("hello", tools=TOOLS),
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}, IMAGE]}]},
    ):
        count = await counter.count(richer)
        assert count.estimated and count.tokens > plain.tokens


async def test_a_long_text_is_counted_in_pieces_and_exactly() -> None:
    text = "Die Größe, the size; 3.14159 (and so on…)\n\n  if x:\n    y = 'z'  # 日本語 👩‍👩‍👧\n" * 3000
    encoding = await counting._loaded("o200k_base")
    assert encoding is not None
    whole = len(encoding.encode_ordinary(text))
    assert await TiktokenCounter("m", "o200k_base").count(asking(text)) == Count(whole + 7, estimated=False)


async def test_white_space_that_overflows_tiktokens_stack_is_counted() -> None:
    count = await TiktokenCounter("m", "o200k_base").count(asking("\u3000" * 1_000_000))
    assert count.estimated and 60_000 < count.tokens < 70_000


async def test_counting_a_megabyte_does_not_stop_the_loop() -> None:
    counter = TiktokenCounter("m", "o200k_base")
    await counter.count(asking("hello"))  # loads the encoding
    gaps: list[float] = []

    async def watch() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    watching = asyncio.create_task(watch())
    started = time.perf_counter()
    await counter.count(asking("The quick brown fox jumps over the lazy dog. " * 25_000))
    took = time.perf_counter() - started
    watching.cancel()
    assert len(gaps) > 10, "others have run meanwhile"
    assert max(gaps) < max(0.05, took / 2)


def in_a_fresh_process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "", "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


COUNT_OFFLINE = """
    import asyncio, socket, sys

    class NoSocket(socket.socket):
        def connect(self, address):
            raise AssertionError(f"it wants to connect to {address}")

    socket.socket = NoSocket
    socket.getaddrinfo = socket.create_connection = NoSocket.connect
    from gateway.backends import counting
    PREPARE
    body = {"messages": [{"role": "user", "content": "hi"}]}
    count = asyncio.run(counting.TiktokenCounter("m", "o200k_base").count(body))
    print(count.tokens, count.estimated, "litellm" in sys.modules)
"""


def test_encodings_need_no_network_and_no_import_of_litellm() -> None:
    assert in_a_fresh_process(COUNT_OFFLINE.replace("PREPARE", "")) == "8 False False"


def test_a_folder_that_lacks_the_encoding_is_passed_over(tmp_path: Path) -> None:
    assert in_a_fresh_process(COUNT_OFFLINE.replace("PREPARE", ""), TIKTOKEN_CACHE_DIR=str(tmp_path)) == "8 False False"


def test_without_the_encodings_file_tokens_are_estimated() -> None:
    code = COUNT_OFFLINE.replace("PREPARE", "counting.encodings_folder = lambda: None")
    assert in_a_fresh_process(code) == "8 True False"


# --- servers that count


@asynccontextmanager
async def server(*routes: web.RouteDef) -> AsyncIterator[Lease]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield Lease(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", "k1", "up")
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture
async def client() -> AsyncIterator[PooledClient]:
    client = PooledClient()
    yield client
    await client.close()


def server_counter(kind: str, client: PooledClient, lease: Lease | None, **options: Any) -> Counter:
    counter = counter_of(kind, "m", client, lambda: lease, **options)
    assert counter is not None
    return counter


async def test_vllm_is_asked_to_tokenize_the_chat(client: PooledClient) -> None:
    seen: list[Any] = []

    async def tokenize(request: web.Request) -> web.Response:
        seen.append((request.headers["authorization"], await request.json()))
        return web.json_response({"count": 17, "max_model_len": 100, "tokens": [1] * 17, "token_strs": None})

    async with server(web.post("/tokenize", tokenize)) as lease:
        counter = server_counter("vllm", client, lease, defaults={"chat_template_kwargs": {"enable_thinking": False}})
        assert await counter.count(asking("hello", tools=TOOLS, temperature=1, stream=True)) == Count(17, False)
    body = asking("hello", tools=TOOLS, model="up", chat_template_kwargs={"enable_thinking": False})
    assert seen == [("Bearer k1", body)]


async def test_an_older_llama_server_is_asked_in_two_calls(client: PooledClient) -> None:
    async def render(request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"prompt": f"<{body['messages'][0]['content']}>"})

    async def tokenize(request: web.Request) -> web.Response:
        body = await request.json()
        assert body["add_special"] is True and body["parse_special"] is True
        return web.json_response({"tokens": list(range(len(body["content"])))})

    async with server(web.post("/apply-template", render), web.post("/tokenize", tokenize)) as lease:
        counter = server_counter("llama-server", client, lease)
        assert await counter.count(asking("hello")) == Count(7, estimated=False)


@pytest.mark.parametrize("said", ["{}", "[]", "nonsense", '{"count": "many"}', '{"count": null}'])
async def test_a_server_that_says_nothing_of_use_leaves_an_estimate(client: PooledClient, said: str) -> None:
    async def tokenize(request: web.Request) -> web.Response:
        return web.Response(text=said, content_type="application/json")

    async with server(web.post("/tokenize", tokenize)) as lease:
        counter = server_counter("vllm", client, lease)
        assert await counter.count(asking("hello")) == Count(estimate_request(asking("hello")), estimated=True)


async def test_a_server_that_is_away_or_silent_leaves_an_estimate(
    client: PooledClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    estimated = Count(estimate_request(asking("hello")), estimated=True)
    assert await server_counter("llama.cpp", client, None).count(asking("hello")) == estimated
    async with server(web.post("/tokenize", never)) as lease:
        silent = counting.ServerCounter("m", counting.Asked(client, lambda: lease), lambda: "vllm", timeout_s=0.1)
        assert await silent.count(asking("hello")) == estimated
    assert await server_counter("vllm", client, lease).count(asking("hello")) == estimated, "nobody listens there"


def test_kinds_of_server_that_do_not_count(client: PooledClient) -> None:
    for kind in ("ollama", "lm-studio", "openai", "groq"):
        assert counter_of(kind, "m", client, lambda: None) is None


# --- the real core model


class Core:
    def __init__(self, pool: Pool, client: PooledClient) -> None:
        engine = next(iter(pool.current))
        self.pool, self.client, self.engine = pool, client, engine
        counter = counter_of("llama.cpp", "core", client, lambda: pool.address(engine))
        assert counter is not None
        self.counter = counter

    async def prompt_tokens(self, body: dict[str, Any]) -> int:
        """What a real request says that it had."""
        async with lease_of(self.pool, "core") as lease:
            headers = {"authorization": f"Bearer {lease.key}", "content-type": "application/json"}
            sent = orjson.dumps({**body, "max_tokens": 1})
            reply = await self.client.post(f"{lease.url}/chat/completions", headers, sent, connect_s=5)
            said = orjson.loads(await reply.read(1_000_000))
            reply.close()
            assert reply.status == 200, said
            return int(said["usage"]["prompt_tokens"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def core(core_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Core]:
    client = PooledClient()
    pool = Pool(site(tmp_path_factory.mktemp("home"), Patience(), client))
    add(pool, LlamaCppSettings("core", core_model_path, context=512, slots=2, threads=1))
    await pool.start()
    try:
        async with lease_of(pool, "core"):
            pass
        yield Core(pool, client)
    finally:
        await pool.close()
        await client.close()


SYSTEM = {"role": "system", "content": "Answer in one word."}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CHATS: dict[str, dict[str, Any]] = {
    "one turn": asking("Hello there, how are you?"),
    "with a system prompt": {"messages": [SYSTEM, {"role": "user", "content": "Capital of France?"}]},
    "many turns": {
        "messages": [SYSTEM, *[{"role": r, "content": f"number {i}"} for i, r in enumerate(["user", "assistant"] * 4)]]
    },
    "unicode": asking("日本語 👩‍👩‍👧 e\u0301 \u200b <|im_end|> <|im_start|> ÄÖÜ\t\n"),
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in ("one", "two")]}]},
    "tools": {**asking("What is the size?"), "tools": TOOLS},
    "a call and its result": {
        "messages": [
            {"role": "user", "content": "f of 1?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
        ],
        "tools": TOOLS,
    },
    "a schema": asking(
        "A colour as JSON.",
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": {"type": "object"}}},
    ),
}


@pytest.mark.model
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("body", CHATS.values(), ids=CHATS.keys())
async def test_a_local_count_is_what_usage_says(core: Core, body: dict[str, Any]) -> None:
    count = await core.counter.count(body)
    assert count == Count(await core.prompt_tokens(body), estimated=False)
    most = at_most(body, core.counter.template_tokens)
    assert most is not None and at_least(body) <= count.tokens <= most


@pytest.mark.model
@pytest.mark.asyncio(loop_scope="module")
async def test_the_two_calls_of_older_servers_come_to_the_same(core: Core) -> None:
    lease = core.pool.address(core.engine)
    assert lease is not None
    asked = counting.Asked(core.client, lambda: lease)
    for body in CHATS.values():
        prompt = (await asked.post(lease, "/apply-template", body))["prompt"]
        said = await asked.post(lease, "/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
        assert await core.counter.count(body) == Count(len(said["tokens"]), estimated=False)


@pytest.mark.model
@pytest.mark.asyncio(loop_scope="module")
async def test_the_bounds_hold_for_the_core_model(core: Core) -> None:
    bodies: list[dict[str, Any]] = []

    @settings(max_examples=60, deadline=None, database=None)
    @given(body=BODY)
    def collect(body: dict[str, Any]) -> None:
        bodies.append(body)

    collect()
    # its own system prompt is 26 tokens; that template is taken for what it is, so that the bound is not an idle one
    for body in bodies:
        body["messages"].append({"role": "user", "content": ""})  # it answers nothing else
        count = await core.counter.count(body)
        most = at_most(body, template_tokens=32)
        assert not count.estimated and most is not None
        assert at_least(body) <= count.tokens <= most, body


@pytest.mark.model
@pytest.mark.asyncio(loop_scope="module")
async def test_a_count_does_not_wait_for_answers(core: Core) -> None:
    spoke = asyncio.Event()

    async def keep_busy() -> None:
        async with lease_of(core.pool, "core") as lease:
            body = {**asking("Count."), "stream": True, "max_tokens": 400, "ignore_eos": True}
            headers = {"authorization": f"Bearer {lease.key}", "content-type": "application/json"}
            url = f"{lease.url}/chat/completions"
            reply = await core.client.post(url, headers, orjson.dumps(body), connect_s=5)
            try:
                while await reply.read_some():
                    spoke.set()
            finally:
                reply.close()

    busy = [asyncio.create_task(keep_busy()) for _ in range(3)]  # two speak, one waits for a place
    try:
        async with asyncio.timeout(30):
            await spoke.wait()
        counts = await asyncio.gather(*(core.counter.count(asking("word " * 1000)) for _ in range(8)))
        assert {count.estimated for count in counts} == {False}
        assert not any(task.done() for task in busy)
        assert core.pool.state_of(core.engine).waiting == 1
    finally:
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
