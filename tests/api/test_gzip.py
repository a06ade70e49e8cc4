"""Compressed answers and requests."""

from __future__ import annotations

import asyncio
import gzip
import random
import zlib

import orjson
import pytest

from gateway.api.gzip import MIN_BYTES, accepts_gzip
from tests.asgi import Client, chat_body
from tests.conftest import Serve
from tests.upstream import SINGLE

LONG = " ".join(str(random.Random(1).random()) for _ in range(MIN_BYTES // 10))
MODELS = f"""
models:
  m1:
    engine: scripted
    replies:
      - {{when: {{contains: long}}, text: "{LONG}"}}
      - {{when: {{contains: huge}}, text: "{LONG * 8}"}}
      - {{text: hi}}
"""
GZIP = {"accept-encoding": "gzip, deflate, br"}


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve(MODELS, default=SINGLE)


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("gzip", True),
        ("gzip, deflate", True),
        ("deflate, GZIP;q=0.5", True),
        ("br, gzip; q=1.0", True),
        ("*", True),
        ("x-gzip", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("*;q=0", False),
        ("identity", False),
        ("br, zstd", False),
        ("gzip;q=x", False),
        ("", False),
    ],
)
def test_weights_are_respected(said: str, taken: bool) -> None:
    assert accepts_gzip(said) is taken


@pytest.mark.parametrize("text", ["long", "huge"])
async def test_a_large_answer_is_compressed_for_those_who_take_it(client: Client, text: str) -> None:
    plain = await client.chat(text)
    assert "content-encoding" not in plain.headers
    packed = await client.chat(text, headers=GZIP)
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) == len(packed.body) < 0.6 * len(plain.body)
    assert packed.headers["vary"] == "Accept-Encoding"
    assert packed.headers["content-type"] == "application/json"
    assert packed.json["choices"] == plain.json["choices"]
    assert packed.headers["x-gateway-model"] == "m1"
    refused = await client.chat(text, headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in refused.headers


async def test_small_answers_and_errors_are_sent_as_they_are(client: Client) -> None:
    for reply in (await client.chat(headers=GZIP), await client.chat(headers=GZIP, model="nobody")):
        assert "content-encoding" not in reply.headers
        assert int(reply.headers["content-length"]) == len(reply.body)


async def test_streams_never_are(client: Client) -> None:
    reply = await client.chat("huge", headers=GZIP, stream=True)
    assert "content-encoding" not in reply.headers and "content-length" not in reply.headers
    assert len(reply.writes) > 100
    assert reply.text == LONG * 8


async def test_routes_that_are_no_chats_are_compressed_too(serve: Serve) -> None:
    names = "".join(f"  model-{number}: {{engine: scripted, replies: [{{text: hi}}]}}\n" for number in range(200))
    client = await serve(f"models:\n  m1: {{engine: scripted, replies: [{{text: hi}}]}}\n{names}", default=SINGLE)
    reply = await client.call("GET", "/v1/models", None, GZIP)
    assert reply.headers["content-encoding"] == "gzip"
    assert len(reply.json["data"]) == 203


def packed(encoding: str, body: bytes) -> bytes:
    return zlib.compress(body) if encoding == "deflate" else gzip.compress(body)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "deflate", "identity", ""])
async def test_requests_may_be_compressed(client: Client, encoding: str) -> None:
    body = orjson.dumps(chat_body())
    sent = packed(encoding, body) if encoding not in ("identity", "") else body
    reply = await client.call("POST", "/v1/chat/completions", sent, {"content-encoding": encoding})
    assert (reply.status, reply.text) == (200, "hi")


async def test_a_large_compressed_request_does_not_hold_others_up(client: Client) -> None:
    body = gzip.compress(orjson.dumps(chat_body("x " + "".join(str(random.random()) for _ in range(50_000)))))
    reply = await client.call("POST", "/v1/chat/completions", body, {"content-encoding": "gzip"})
    assert (reply.status, reply.text) == (200, "hi")


async def test_a_bomb_goes_off_nowhere(client: Client) -> None:
    client.live.body_limit_bytes = 1 << 20
    bomb = gzip.compress(bytes(200 << 20), 1)
    assert len(bomb) < 1 << 20
    async with asyncio.timeout(2):
        reply = await client.call("POST", "/v1/chat/completions", bomb, {"content-encoding": "gzip"})
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    "body",
    [b"{}", gzip.compress(b"{}")[:-4], gzip.compress(b"{}") + b"more", b""],
    ids=["plain", "cut", "more after it", "empty"],
)
async def test_what_cannot_be_unpacked_is_400(client: Client, body: bytes) -> None:
    reply = await client.call("POST", "/v1/chat/completions", body, {"content-encoding": "gzip"})
    assert reply.status == 400
    assert "gzip" in reply.error["message"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
async def test_other_encodings_are_415(client: Client, encoding: str) -> None:
    reply = await client.call("POST", "/v1/chat/completions", b"x", {"content-encoding": encoding})
    assert (reply.status, reply.error["code"]) == (415, "unsupported_content_encoding")
    assert reply.headers["accept-encoding"] == "gzip, deflate"
