"""`POST /v1/embeddings`: the built-in model, models elsewhere, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import math
import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from sqlalchemy import select

from gateway.backends import litellm
from gateway.store.database import FILE_NAME
from gateway.store.tables import JOURNAL
from tests.asgi import Client, Response
from tests.conftest import SHARED, Serve, running
from tests.vector_upstream import embeddings, entry, vector_upstream

POLICY = "policy: default\nroutes: [{name: all, answer: {model: m1}}]\n"
FAKE = "models: {m1: {engine: scripted, replies: [{text: hi}]}}\n"
NUMBERS = [0.1, -0.25, 0.30000000000000004]
BASE64 = base64.b64encode(struct.pack("<3f", 0.5, -0.25, 2)).decode()
HELLO_WORLD = [15339, 1917]  # cl100k_base


async def embed(client: Client, given: Any = "hello", headers: dict[str, str] | None = None, **more: Any) -> Response:
    body = {"model": "m1", "input": given, **more}
    return await client.call("POST", "/v1/embeddings", body, headers)


@pytest.fixture
async def fake(serve: Serve, minilm_home: Path) -> Client:
    client = await serve(FAKE, default=POLICY)
    (client.runtime.home / "models").symlink_to(minilm_home / "models")
    return client


async def journal(client: Client) -> list[Any]:
    assert client.runtime.journal is not None and client.runtime.database is not None
    await client.runtime.journal.flush()
    async with client.runtime.database.read() as connection:
        return list(await connection.execute(select(JOURNAL)))


# --- the built-in model


async def test_one_text(fake: Client) -> None:
    reply = await embed(fake, "hello world", model="auto", user="me", some_field=1)
    assert reply.status == 200
    said = reply.json
    assert (said["object"], said["model"], len(said["data"])) == ("list", "all-MiniLM-L6-v2", 1)
    assert said["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert math.isclose(math.hypot(*said["data"][0]["embedding"]), 1, abs_tol=1e-5)
    assert reply.gateway["policy"] == "direct" and reply.gateway["cost_usd"] == 0
    assert reply.headers["x-gateway-model"] == reply.headers["x-gateway-route"] == "all-MiniLM-L6-v2"
    assert reply.headers["x-gateway-trace"] == reply.gateway["trace"] and "x-request-id" in reply.headers


async def test_each_of_its_names_and_ways_to_send_it(fake: Client) -> None:
    (first, *others) = [await embed(fake, "hello world", model=name) for name in ("minilm", "all-MiniLM-L6-v2", "auto")]
    others.append(await embed(fake, ["hello world"], model="auto"))
    others.append(await embed(fake, HELLO_WORLD, model="auto"))
    others.append(await embed(fake, [HELLO_WORLD], model="auto"))
    azure = await fake.call("POST", "/openai/deployments/minilm/embeddings?api-version=1", {"input": "hello world"})
    short = await fake.call("POST", "/embeddings", {"input": "hello world", "model": "auto"})
    assert all(reply.json["data"] == first.json["data"] for reply in (*others, azure, short))


async def test_base64_is_the_same_numbers(fake: Client) -> None:
    texts = ["one", "two and more", "three"]
    numbers = (await embed(fake, texts, model="auto", encoding_format="float")).json["data"]
    packed = (await embed(fake, texts, model="auto", encoding_format="base64")).json["data"]
    assert [entry["index"] for entry in packed] == [0, 1, 2]
    for one, other in zip(numbers, packed, strict=True):
        assert list(struct.unpack("<384f", base64.b64decode(other["embedding"]))) == one["embedding"]


async def test_a_long_list_keeps_its_order(fake: Client) -> None:
    texts = [f"{'word ' * (place % 9)}{place}" for place in range(150)]
    data = (await embed(fake, texts, model="auto")).json["data"]
    assert [entry["index"] for entry in data] == list(range(150))
    alone = (await embed(fake, texts[77], model="auto")).json["data"][0]["embedding"]
    assert data[77]["embedding"] == pytest.approx(alone, abs=1e-5)


async def test_it_is_journalled(fake: Client) -> None:
    await embed(fake, "hello world", model="auto")
    await embed(fake, "hello world", model="auto", dimensions=999)
    good, bad = sorted(await journal(fake), key=lambda row: row.status)
    assert (good.status, good.policy, good.route, good.model) == (200, "direct", *["all-MiniLM-L6-v2"] * 2)
    assert (good.input_tokens, good.output_tokens, good.cost_usd, good.requested_model) == (4, 0, 0, "auto")
    assert (bad.status, bad.error) == (400, "invalid_request_error")


# --- refused


@SHARED
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "a"}, "model"),
        ({"input": "a", "model": 3}, "model"),
        ({"model": "auto"}, "input"),
        ({"model": "auto", "input": None}, "input"),
        ({"model": "auto", "input": {"text": "a"}}, "input"),
        ({"model": "auto", "input": ""}, "input"),
        ({"model": "auto", "input": []}, "input"),
        ({"model": "auto", "input": ["a", ""]}, "input[1]"),
        ({"model": "auto", "input": ["a", [1]]}, "input[1]"),
        ({"model": "auto", "input": [[1], []]}, "input[1]"),
        ({"model": "auto", "input": [1, "a"]}, "input"),
        ({"model": "auto", "input": [1, -1]}, "input"),
        ({"model": "auto", "input": [True]}, "input"),
        ({"model": "auto", "input": [1.5]}, "input[0]"),
        ({"model": "auto", "input": [{"text": "a"}]}, "input[0]"),
        ({"model": "auto", "input": ["a"] * 2049}, "input"),
        ({"model": "auto", "input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"model": "auto", "input": "a", "encoding_format": 1}, "encoding_format"),
        ({"model": "auto", "input": "a", "dimensions": 0}, "dimensions"),
        ({"model": "auto", "input": "a", "dimensions": 385}, "dimensions"),
        ({"model": "auto", "input": "a", "dimensions": True}, "dimensions"),
        ({"model": "auto", "input": "a", "dimensions": "64"}, "dimensions"),
        ({"model": "auto", "input": "a", "user": 3}, "user"),
        ({"model": "default", "input": "a"}, "model"),
        ({"model": "m1", "input": "a"}, "model"),
    ],
)
async def test_what_is_wrong_is_400_with_the_field_at_fault(shared: Serve, body: Any, param: str) -> None:
    fake = await shared(FAKE, default=POLICY)
    reply = await fake.call("POST", "/v1/embeddings", body)
    assert (reply.status, reply.error["param"], reply.error["type"]) == (400, param, "invalid_request_error")


async def test_who_can_embed_is_told(fake: Client) -> None:
    policy, model, unknown = [await embed(fake, model=name) for name in ("default", "m1", "text-embedding-3-small")]
    assert "is a policy" in policy.error["message"] and "auto, minilm" in policy.error["message"]
    assert "m1' (engine scripted) cannot embed" in model.error["message"]
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")
    assert "auto, minilm, all-MiniLM-L6-v2" in unknown.error["message"]


async def test_a_body_that_is_no_json_and_another_method(fake: Client) -> None:
    assert (await fake.call("POST", "/v1/embeddings", b"{")).status == 400
    assert (await fake.call("GET", "/v1/embeddings")).status == 405
    fake.live.body_limit_bytes = 100
    assert (await embed(fake, "x" * 200, model="auto")).status == 413


async def test_a_request_that_goes_in_circles(fake: Client) -> None:
    assert (await embed(fake, model="auto", headers={"x-gateway-hops": "8"})).status == 508


# --- models elsewhere


async def test_a_request_is_forwarded_as_it_came(serve: Serve) -> None:
    async with vector_upstream(embeddings(NUMBERS, [1, 2, 3])) as up:
        client = await serve(entry(up, ", headers: {x-team: a}, price: {input_usd_per_mtok: 1000}"), default=POLICY)
        given = {"user": "u", "input_type": "query", "encoding_format": "float"}
        reply = await embed(client, ["a", "b"], **given, headers={"x-gateway-hops": "2", "authorization": "Bearer own"})
        assert up.bodies == [{"model": "up", "input": ["a", "b"], **given}]
        assert up.paths == ["/v1/embeddings"]
        sent = up.headers[0]
        assert (sent["authorization"], sent["x-team"], sent["x-gateway-hops"]) == ("Bearer k-upstream", "a", "3")
    assert [one["embedding"] for one in reply.json["data"]] == [NUMBERS, [1, 2, 3]], "the same digits"
    assert reply.json["model"] == "m1" and reply.json["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert reply.gateway["cost_usd"] == pytest.approx(0.007) and reply.gateway["path"] == "m1"
    (row,) = await journal(client)
    assert (row.policy, row.route, row.model, row.input_tokens) == ("direct", "m1", "m1", 7)


async def test_tokens_are_forwarded_as_tokens(serve: Serve) -> None:
    async with vector_upstream(embeddings([1.0], tokens=None)) as up:
        client = await serve(entry(up), default=POLICY)
        reply = await embed(client, [HELLO_WORLD])
        assert up.bodies[0]["input"] == [HELLO_WORLD]
        assert reply.gateway["usage"]["estimated"] and reply.json["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize("wanted", ["float", "base64"])
@pytest.mark.parametrize("sent", [[0.5, -0.25, 2.0], BASE64], ids=["float", "base64"])
async def test_an_upstream_may_answer_in_the_other_format(serve: Serve, wanted: str, sent: Any) -> None:
    async with vector_upstream(embeddings(sent)) as up:
        client = await serve(entry(up), default=POLICY)
        reply = await embed(client, encoding_format=wanted)
        assert up.bodies[0]["encoding_format"] == wanted
        assert reply.json["data"][0]["embedding"] == (BASE64 if wanted == "base64" else [0.5, -0.25, 2.0])


@pytest.mark.parametrize("sent", [[3.0, 4.0, 9.0], base64.b64encode(struct.pack("<3f", 3, 4, 9)).decode()])
async def test_dimensions_that_an_upstream_ignores_are_cut(serve: Serve, sent: Any) -> None:
    async with vector_upstream(embeddings(sent)) as up:
        client = await serve(entry(up), default=POLICY)
        reply = await embed(client, dimensions=2)
        assert up.bodies[0]["dimensions"] == 2
        assert reply.json["data"][0]["embedding"] == pytest.approx([0.6, 0.8])
        assert (await embed(client, dimensions=3)).json["data"][0]["embedding"] == [3, 4, 9]
        longer = await embed(client, dimensions=4)
        assert (longer.status, longer.error["param"]) == (400, "dimensions")


async def test_vectors_stand_where_their_index_says(serve: Serve) -> None:
    said = embeddings([1.0], [2.0])
    said["data"].reverse()
    async with vector_upstream(said) as up:
        client = await serve(entry(up), default=POLICY)
        assert [one["embedding"] for one in (await embed(client, ["a", "b"])).json["data"]] == [[1.0], [2.0]]


@pytest.mark.parametrize(
    "said",
    [
        b"<html>",
        [1],
        {},
        {"data": []},
        {"data": {}},
        embeddings(None),
        embeddings([]),
        embeddings([1, None]),
        embeddings(["a"]),
        embeddings("?"),
        embeddings("YWJj"),
        {"data": [{"index": 3, "embedding": [1.0]}]},
        {"data": [7]},
    ],
)
@pytest.mark.parametrize("wanted", ["float", "base64"])
async def test_what_is_no_embedding_is_502(serve: Serve, said: Any, wanted: str) -> None:
    async with vector_upstream(said) as up:
        client = await serve(entry(up), default=POLICY)
        reply = await embed(client, encoding_format=wanted)
        assert (reply.status, reply.error["code"]) == (502, "bad_upstream_reply")


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (401, {"error": {"message": "wrong key k-upstream"}}, (502, "bad_upstream_reply", None)),
        (429, {"error": {"message": "slow down", "code": "rate"}}, (429, "rate", None)),
        (400, {"error": {"message": "bad input k-upstream", "param": "input"}}, (400, None, "input")),
        (
            400,
            {"error": {"message": "maximum context length is 8192 tokens"}},
            (400, "context_length_exceeded", "input"),
        ),
        (200, {"error": {"message": "no", "code": 404}}, (404, None, None)),
        (500, b"oops", (502, "bad_upstream_reply", None)),
    ],
)
async def test_errors_are_mapped_as_a_chats_are(serve: Serve, status: int, said: Any, expected: Any) -> None:
    async with vector_upstream(said, status, {"retry-after": "7"}) as up:
        client = await serve(entry(up), default=POLICY)
        reply = await embed(client)
        assert (reply.status, reply.error["code"], reply.error["param"]) == expected
        assert "k-upstream" not in reply.body.decode() and "127.0.0.1" not in reply.body.decode()
        assert status != 429 or reply.headers["retry-after"] == "7"
        assert reply.headers["x-gateway-route"] == "m1"


async def test_nobody_there_and_nobody_answering(serve: Serve) -> None:
    async with vector_upstream(None) as up:
        client = await serve(entry(up), default=POLICY)
        late = await embed(client, headers={"x-gateway-deadline-s": "0.2"})
        assert (late.status, late.error["code"]) == (504, "upstream_timeout")
        await asyncio.wait_for(up.left.wait(), 5)
    assert (await embed(client)).status == 503


async def test_a_client_that_leaves_ends_the_call(serve: Serve) -> None:
    async with vector_upstream(None) as up:
        client = await serve(entry(up), default=POLICY)
        call = client.start("POST", "/v1/embeddings", {"model": "m1", "input": "hello"})
        await asyncio.wait_for(up.asked.wait(), 5)
        call.leave()
        await asyncio.wait_for(up.left.wait(), 1)
        await call.done()
        (row,) = await journal(client)
        assert (row.status, row.error) == (499, "client_closed") and row.input_tokens > 0


async def test_a_cost_limit_holds(serve: Serve) -> None:
    async with vector_upstream(embeddings([1.0])) as up:
        client = await serve(entry(up, ", price: {input_usd_per_mtok: 1000}"), default=POLICY)
        long = await embed(client, "word " * 2000, headers={"x-gateway-max-cost-usd": "0.1"})
        assert (long.status, long.error["code"]) == (402, "max_cost_exceeded") and not up.bodies
        assert (await embed(client, headers={"x-gateway-max-cost-usd": "0.1"})).status == 200


async def test_quirks_and_defaults_of_a_model_hold(serve: Serve) -> None:
    async with vector_upstream(embeddings([1.0, 0.0])) as up:
        client = await serve(entry(up, ", provider: mistral, defaults: {dimensions: 2}, drop: [foo]"), default=POLICY)
        reply = await embed(client, user="me", foo=1)
        assert up.bodies == [{"model": "up", "input": "hello", "dimensions": 2}]
        assert set(reply.headers["x-gateway-dropped"].split(",")) == {"user", "foo"}


async def test_a_server_that_streams_its_chats_is_not_asked_to_here(serve: Serve) -> None:
    async with vector_upstream(embeddings([1.0])) as up:
        client = await serve(entry(up, ", provider: llama-server"), default=POLICY)
        assert (await embed(client)).status == 200
        assert up.bodies == [{"model": "up", "input": "hello"}] and up.headers[0]["accept"] == "application/json"


def litellm_entry(model: str, url: str) -> str:
    return f"models: {{m1: {{engine: litellm, model: {model}, base_url: '{url}', api_key: k-upstream}}}}\n"


@pytest.mark.filterwarnings(f"ignore:{litellm.READ_ONLY}:UserWarning")
async def test_through_litellm(serve: Serve) -> None:
    async with vector_upstream(embeddings([3.0, 4.0, 0.0])) as up:
        client = await serve(litellm_entry("mistral/mistral-embed", up.url), default=POLICY)
        reply = await embed(client, ["hello"], dimensions=2, encoding_format="base64")
        assert reply.status == 200, reply.body
        assert up.bodies[0]["input"] == ["hello"] and up.bodies[0]["model"] == "mistral-embed"
        assert not {"_skip_mcp_handler", "no-log", "drop_params", "messages"} & up.bodies[0].keys()
        vector = struct.unpack("<2f", base64.b64decode(reply.json["data"][0]["embedding"]))
        assert vector == pytest.approx((0.6, 0.8)) and reply.json["usage"]["prompt_tokens"] == 7
    async with vector_upstream({"message": "slow down"}, 429) as up:
        client = await serve(litellm_entry("mistral/mistral-embed", up.url), default=POLICY)
        assert (await embed(client)).status == 429
    anthropic = await serve(litellm_entry("anthropic/claude-sonnet-4-5", "http://127.0.0.1:9"), default=POLICY)
    reply = await embed(anthropic)
    assert (reply.status, reply.error["param"]) == (400, "model")
    assert "its provider has no embeddings" in reply.error["message"]
    await litellm.close()


# --- the openai package, against a real server


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory, empty_database: Path, minilm_home: Path) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("sdk")
    (folder / "home").mkdir()
    (folder / "home" / "models").symlink_to(minilm_home / "models")
    shutil.copy(empty_database, folder / "home" / FILE_NAME)
    started, stop, loops = threading.Event(), asyncio.Event(), []
    bound = socket.create_server(("127.0.0.1", 0))

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with running(folder, FAKE, default=POLICY) as gateway:
            server = uvicorn.Server(uvicorn.Config(gateway.app, lifespan="off", ws="none", log_config=None))
            task = asyncio.create_task(server.serve(sockets=[bound]))
            started.set()
            await stop.wait()
            server.should_exit = True
            await task

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(20)
    url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
    with openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=20) as sdk:
        yield sdk
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(20)
    assert not thread.is_alive()


def test_the_sdk_reads_what_it_asks_for_by_default(sdk: openai.OpenAI) -> None:
    by_default = sdk.embeddings.create(model="auto", input=["one text", "another"])
    floats = sdk.embeddings.create(model="auto", input=["one text", "another"], encoding_format="float")
    assert [one.index for one in by_default.data] == [0, 1] and by_default.usage == floats.usage
    for packed, plain in zip(by_default.data, floats.data, strict=True):
        assert packed.embedding == plain.embedding and len(plain.embedding) == 384
    assert len(sdk.embeddings.create(model="auto", input="a", dimensions=64).data[0].embedding) == 64


def test_the_sdk_raises_its_own_errors(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        sdk.embeddings.create(model="text-embedding-3-small", input="a")
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.embeddings.create(model="auto", input="")
    assert caught.value.param == "input"


def test_token_arrays_as_langchain_sends_them(sdk: openai.OpenAI) -> None:
    """Lists of cl100k_base's ids, a chunk of a text each."""
    tokens = sdk.embeddings.create(model="auto", input=[HELLO_WORLD, [15339]])
    texts = sdk.embeddings.create(model="auto", input=["hello world", "hello"])
    for one, other in zip(tokens.data, texts.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
