"""What crosses the socket: framing, limits, slow and hostile clients, and the end of the server."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import http_protocol
from gateway.config.files import read_config
from gateway.errors import ConfigError
from gateway.live import Edge
from gateway.serve import Address, listen
from tests.conftest import Serve, write_config
from tests.http.sockets import PATH, Connection, Listening, chat, chunked, listening, request
from tests.test_serve import GATEWAY, start_serving
from tests.upstream import SINGLE

MODELS = """
models:
  m1:
    engine: scripted
    replies:
      - {when: {contains: slowly}, text: one two three four, first_token_ms: 150, between_ms: 50}
      - {when: {contains: never}, text: one two, first_token_ms: 60000}
      - {when: {contains: first}, text: first, first_token_ms: 100}
      - {text: hi}
"""
MIB = 1 << 20


@pytest.fixture
async def here(serve: Serve) -> AsyncIterator[Listening]:
    async with listening(await serve(MODELS, default=SINGLE)) as here:
        yield here


async def test_a_connection_is_kept_for_the_next_request(here: Listening) -> None:
    connection = await here.connect()
    for _ in range(3):
        connection.send(request(body=chat()))
        assert (await connection.reply()).text == "hi"


async def test_pipelined_requests_are_answered_in_order(here: Listening) -> None:
    connection = await here.connect()
    connection.send(
        request(body=chat("first")) + request("GET", "/v1/nothing") + request(body=chat()) + request("GET", "/healthz")
    )
    assert (await connection.reply()).text == "first"
    assert (await connection.reply()).status == 404
    assert (await connection.reply()).text == "hi"
    assert (await connection.reply()).json["status"] == "ok"


async def test_a_request_may_come_byte_by_byte_and_in_chunks(here: Listening) -> None:
    body = chat("grüße 🙂")
    connection = await here.connect()
    for byte in request(body=body):
        connection.send(bytes([byte]))
        await asyncio.sleep(0)
    assert (await connection.reply()).text == "hi"
    connection.send(request(transfer_encoding="chunked") + chunked(*(bytes([byte]) for byte in body)))
    assert (await connection.reply()).text == "hi"


async def test_a_client_that_waits_to_be_told_so_is_told_to_go_on(here: Listening) -> None:
    connection = await here.connect()
    for _ in range(2):
        head, body = request(body=chat(), expect="100-continue").split(b"\r\n\r\n")
        connection.send(head + b"\r\n\r\n")
        assert (await connection.reply()).status == 100
        connection.send(body)
        reply = await connection.reply()
        assert reply.text == "hi"
        assert "connection" not in reply.headers


async def test_who_waits_and_gets_an_error_instead_is_not_asked_for_more(here: Listening) -> None:
    connection = await here.connect()
    connection.send(request(path="/v1/nothing", expect="100-continue", content_length="1000"))
    reply = await connection.reply()
    assert (reply.status, reply.headers["connection"]) == (404, "close")
    assert await connection.end() == b"", "for nobody knows whether a body or a request comes next"


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param("Content-Length: 5\r\nTransfer-Encoding: chunked", id="both lengths"),
        pytest.param("Transfer-Encoding: chunked\r\nContent-Length: 5", id="both lengths, the other way round"),
        pytest.param("Content-Length: 5\r\nContent-Length: 6", id="two lengths"),
        pytest.param("Content-Length: 5, 5", id="a list of lengths"),
        pytest.param("Content-Length: +5", id="a sign"),
        pytest.param("Content-Length: 0x5", id="a hexadecimal length"),
        pytest.param("Content-Length: ", id="no length"),
        pytest.param("Content-Length : 5", id="a space before the colon"),
        pytest.param("Transfer-Encoding: chunked, identity", id="chunked is not the last"),
        pytest.param("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", id="chunked twice"),
        pytest.param("Transfer-Encoding: \x0bchunked", id="a tab of another kind"),
        pytest.param("Transfer-Encoding:\r\n chunked", id="a folded encoding"),
        pytest.param("X-A: b\r\n c\r\nContent-Length: 0", id="a folded header"),
        pytest.param("X-A: b\x00c", id="NUL in a value"),
        pytest.param("X\x00A: b", id="NUL in a name"),
        pytest.param("X-A: b\rX-B: c", id="a lone CR"),
        pytest.param("X-A: b\nX-B: c", id="a lone LF"),
        pytest.param("no colon", id="no colon"),
        pytest.param("Host: elsewhere", id="two hosts"),
    ],
)
async def test_heads_that_two_servers_could_read_differently_are_refused(here: Listening, lines: str) -> None:
    connection = await here.connect()
    connection.send(f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\n{lines}\r\n\r\n".encode("latin-1"))
    reply = await connection.reply()
    assert reply.status == 400
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}
    assert reply.headers["x-request-id"]
    if "Host" not in lines:
        assert reply.headers["connection"] == "close"
        assert await connection.end() == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 400, id="h2 preface"),
        pytest.param(b"GET / HTTP/2.0\r\nHost: 127.0.0.1\r\n\r\n", 505, id="HTTP/2.0"),
        pytest.param(b"GET /healthz\r\n\r\n", 505, id="HTTP/0.9"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS"),
        pytest.param(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", 400, id="CONNECT"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400, id="a path that is not ASCII"),
        pytest.param(request(transfer_encoding="gzip, chunked") + b"0\r\n\r\n", 501, id="gzip in transfer"),
        pytest.param(request(transfer_encoding="identity") + b"hello", 501, id="identity in transfer"),
        pytest.param(request(version="1.0", transfer_encoding="chunked") + b"0\r\n\r\n", 400, id="chunks in HTTP/1.0"),
        pytest.param(request(transfer_encoding="chunked") + b"zz\r\n", 400, id="a chunk without size"),
        pytest.param(request(transfer_encoding="chunked") + b"f" * 17 + b"\r\n", 400, id="a chunk too large to count"),
        pytest.param(request(transfer_encoding="chunked") + b"5\nhello\r\n0\r\n\r\n", 400, id="a chunk with a lone LF"),
        pytest.param(b"GET /healthz HTTP/1.1\r\n\r\n", 400, id="no host"),
        pytest.param(request("GET", "http://elsewhere/healthz"), 400, id="an address with another host"),
        pytest.param(request("GET", "localhost:80"), 400, id="a host in place of a path"),
        pytest.param(request(x_long="a" * 70_000), 431, id="a large header"),
        pytest.param(request(x_long="a" * 300_000), 431, id="a header larger than one read"),
        pytest.param(request(path="/" + "a" * 70_000), 431, id="a long path"),
        pytest.param(request(**{f"x_{n}": "1" for n in range(300)}), 431, id="many headers"),
        pytest.param(
            request(transfer_encoding="chunked") + b"1;" + b"x" * 1_000_000,
            400,
            id="endless extension of a chunk",
        ),
        pytest.param(
            request(transfer_encoding="chunked") + b"1\r\na\r\n0\r\nx-t: " + b"x" * 1_000_000,
            400,
            id="endless trailer",
        ),
    ],
)
async def test_what_is_not_a_request_gets_an_answer_and_an_end(here: Listening, data: bytes, status: int) -> None:
    connection = await here.connect()
    connection.send(data)
    reply = await connection.reply()
    assert (reply.status, reply.headers["connection"]) == (status, "close")
    assert reply.json["error"]["type"] == "invalid_request_error"
    assert await connection.end() == b""


async def test_a_whole_address_will_do_where_its_host_is_the_host(here: Listening) -> None:
    reply = await here.ask(request("GET", "http://LocalHost/healthz"))
    assert (reply.status, reply.json["status"]) == (200, "ok")


async def test_rubbish_after_a_request_waits_for_its_answer(here: Listening) -> None:
    for rubbish in (b"\x00\x01 rubbish\r\n\r\n", request(transfer_encoding="chunked") + b"zz\r\n"):
        connection = await here.connect()
        connection.send(request(body=chat("first")) + rubbish)
        assert (await connection.reply()).text == "first"
        assert (await connection.reply()).status == 400
        assert await connection.end() == b""


async def test_trailers_do_not_pass_for_headers(here: Listening) -> None:
    connection = await here.connect()
    trailers = b"x-request-id: trailer\r\nx-forwarded-for: 1.2.3.4\r\n\r\n"
    connection.send(request(transfer_encoding="chunked") + chunked(chat())[:-2] + trailers)
    reply = await connection.reply()
    assert reply.text == "hi"
    assert reply.headers["x-request-id"] != "trailer"


@pytest.mark.parametrize("length", [True, False], ids=["content-length", "chunked"])
async def test_an_offer_of_http2_does_not_lose_the_body(here: Listening, length: bool) -> None:
    """Java's own client makes it with its first request."""
    offer = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2_settings": "AAEAAEAAAAIAAAAA"}
    connection = await here.connect()
    if length:
        connection.send(request(body=chat("first"), **offer) + request(body=chat()))
    else:
        connection.send(request(transfer_encoding="chunked", **offer) + chunked(chat("first")) + request(body=chat()))
    assert (await connection.reply()).text == "first"
    assert (await connection.reply()).text == "hi"
    connection.send(request("GET", "/healthz", **offer))
    assert (await connection.reply()).status == 200


async def test_a_websocket_is_not_to_be_had_and_the_connection_lives(here: Listening) -> None:
    connection = await here.connect()
    connection.send(request("GET", "/v1/realtime", connection="Upgrade", upgrade="websocket"))
    assert (await connection.reply()).status == 404
    connection.send(request("GET", "/healthz"))
    assert (await connection.reply()).status == 200


async def test_http_1_0_gets_whole_answers_and_streams_without_chunks(here: Listening) -> None:
    connection = await here.connect()
    connection.send(request(version="1.0", body=chat()))
    reply = await connection.reply()
    assert (reply.text, reply.headers["connection"]) == ("hi", "close")
    connection = await here.connect()
    connection.send(request(version="1.0", body=chat(stream=True)))
    reply = await connection.reply()
    assert "transfer-encoding" not in reply.headers
    assert reply.body.startswith(b"data: {") and reply.body.endswith(b"data: [DONE]\n\n")


async def test_idle_and_half_spoken_connections_keep_nobody_waiting(here: Listening) -> None:
    for _ in range(200):
        await here.connect()
    for number in range(60):
        (await here.connect()).send(request(body=chat())[: 40 + number])
    async with asyncio.timeout(5):
        assert (await here.ask(request(body=chat()))).text == "hi"


async def test_a_head_that_does_not_end_is_given_up(here: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_S", 0.3)
    connection, idle = await here.connect(), await here.connect()
    connection.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n")

    async def drip() -> None:
        while True:  # each byte is a sign of life, and none of them helps
            connection.send(b"x")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    reply = await connection.reply()
    dripping.cancel()
    assert (reply.status, reply.headers["connection"]) == (408, "close")
    idle.send(request(body=chat()))
    assert (await idle.reply()).text == "hi", "who says nothing has not begun a head"


async def test_a_second_head_may_wait_while_the_first_answer_goes_out(
    here: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_S", 0.2)
    connection = await here.connect()
    connection.send(request(body=chat("first")) + b"GET /he")
    assert (await connection.reply()).text == "first"
    connection.send(b"althz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await connection.reply()).status == 200


async def test_a_body_that_stops_is_given_up(here: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "BODY_S", 0.3)
    connection = await here.connect()
    connection.send(request(body=chat())[:-5])
    reply = await connection.reply()
    assert (reply.status, reply.headers["connection"]) == (408, "close")
    assert "body" in reply.json["error"]["message"]


async def test_an_idle_connection_is_closed_in_the_end(here: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "KEEP_ALIVE_S", 0.3)
    connection = await here.connect()
    connection.send(request(body=chat()))
    assert (await connection.reply()).text == "hi"
    assert await connection.end() == b""


async def test_an_answer_may_take_longer_than_any_of_these(here: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_S", "BODY_S", "KEEP_ALIVE_S"):
        monkeypatch.setattr(http_protocol, name, 0.1)
    reply = await here.ask(request(body=chat("slowly", stream=True)))
    assert reply.body.endswith(b"data: [DONE]\n\n")


async def test_a_client_that_reads_nothing_does_not_hold_a_model_for_ever(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "STALL_S", 0.3)
    words = " ".join(["x" * 16_384] * 100)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # else the system takes megabytes
    client = await serve(f"models: {{m1: {{engine: scripted, replies: [{{text: {words}}}]}}}}", default=SINGLE)
    async with listening(client, listener=listener) as here:
        connection = await here.connect()
        connection.reader._transport.pause_reading()  # type: ignore[attr-defined]
        connection.send(request(body=chat(stream=True)))
        while "gateway_requests_in_flight 1" not in await metrics(here):
            await asyncio.sleep(0.01)
        async with asyncio.timeout(10):
            while "gateway_requests_in_flight 0" not in await metrics(here):
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("size", [100, 300_000], ids=["small", "large"])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_is_noticed_whatever_it_has_sent(here: Listening, stream: bool, size: int) -> None:
    connection = await here.connect()
    connection.send(request(body=chat("never " + "x" * size, stream=stream)))
    async with asyncio.timeout(10):
        while "gateway_requests_in_flight 1" not in await metrics(here):
            await asyncio.sleep(0.01)
        connection.close()
        while "gateway_requests_in_flight 0" not in await metrics(here):
            await asyncio.sleep(0.01)
    assert 'status="499"' in await metrics(here)


async def metrics(here: Listening) -> str:
    return (await here.ask(request("GET", "/metrics"))).body.decode()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("length", [True, False], ids=["content-length", "chunked"])
async def test_a_body_of_200_mb_is_told_413_and_held_nowhere(here: Listening, length: bool) -> None:
    """The client is one that sends all of it before it reads."""
    connection = await here.connect()
    block = bytes(MIB)
    gc.collect()
    before = resident_bytes()
    connection.send(request(content_length=str(200 * MIB)) if length else request(transfer_encoding="chunked"))
    for _ in range(200):
        connection.send(block if length else chunked(block)[:-5])
        await connection.writer.drain()
    reply = await connection.reply()
    assert (reply.status, reply.json["error"]["code"]) == (413, "request_too_large")
    assert reply.headers["connection"] == "close"
    assert resident_bytes() - before < (10 if length else 2 * 32 + 10) * MIB, "no more than the limit, once joined"
    assert (await here.ask(request(body=chat()))).text == "hi"


async def test_an_early_answer_leaves_the_connection_usable(here: Listening) -> None:
    connection = await here.connect()
    connection.send(request(path="/v1/nothing", content_length=str(MIB)))
    assert (await connection.reply()).status == 404
    connection.send(bytes(MIB) + request(body=chat()))
    assert (await connection.reply()).text == "hi"


async def test_a_server_that_stops_lets_streams_end_and_sends_others_away(serve: Serve) -> None:
    async with listening(await serve(MODELS, default=SINGLE)) as here:
        idle, streaming = await here.connect(), await here.connect()
        idle.send(request("GET", "/healthz"))
        await idle.reply()
        streaming.send(request(body=chat("slowly", stream=True)))
        await streaming.reader.readuntil(b"\r\n\r\n")
        here.server.handle_exit(15, None)
        assert await idle.end() == b"", "idle connections are closed"
        ready = await here.ask(request("GET", "/readyz"))
        assert (ready.status, ready.json["status"]) == (503, "stopping")
        refused = await here.ask(request(body=chat()))
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert refused.headers["connection"] == "close"
        assert (await streaming.end()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        with pytest.raises(OSError):
            for _ in range(100):
                (await here.connect()).close()
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("signals", [1, 2])
async def test_streams_that_outlast_the_grace_or_a_second_signal_end_loudly(serve: Serve, signals: int) -> None:
    models = MODELS.replace("between_ms: 50", "between_ms: 3000")
    async with listening(await serve(models, default=SINGLE), grace_s=0.2 if signals == 1 else 600) as here:
        connection = await here.connect()
        connection.send(request(body=chat("slowly", stream=True)))
        await connection.reader.readuntil(b"data: ")
        for _ in range(signals):
            here.server.handle_exit(15, None)
        rest = await connection.end(5)
        assert b'"error"' in rest and b"stopping" in rest
        assert b"[DONE]" not in rest


# -- the command ---------------------------------------------------------------------------------------------------


def folder_with_a_policy(folder: Path) -> Path:
    write_config(folder, MODELS.replace("between_ms: 50", "between_ms: 300"), default=SINGLE)
    return folder


@pytest.mark.parametrize("signals", [1, pytest.param(2, marks=pytest.mark.slow)])
async def test_sigterm_lets_streams_of_a_process_end_and_a_second_ends_it_at_once(tmp_path: Path, signals: int) -> None:
    served = await asyncio.to_thread(start_serving, folder_with_a_policy(tmp_path), tmp_path / "home")
    try:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", int(served.url.rpartition(":")[2])))
        connection.send(request(body=chat("slowly", stream=True)))
        await connection.reader.readuntil(b"data: ")
        for _ in range(signals):
            served.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.05)  # else the two are one
        rest = await connection.end()
        connection.close()
        assert (b"[DONE]" in rest) == (signals == 1)
        assert (b"stopping" in rest) == (signals == 2)
        assert await asyncio.to_thread(served.process.wait, 10) == 0
        assert "Traceback" not in (tmp_path / "serve.log").read_text()
    finally:
        served.process.kill()
        served.process.wait()


@pytest.mark.parametrize(
    "options", [["--root-path", "/v1"], ["--trusted-proxies", "127.0.0.1,somewhere"], ["--grace-s", "-1"]]
)
def test_options_that_cannot_be_meant_are_usage_errors(tmp_path: Path, options: list[str]) -> None:
    done = subprocess.run(
        [*GATEWAY, "serve", *options],
        cwd=tmp_path,
        env={**os.environ, "GATEWAY_HOME": str(tmp_path)},
        capture_output=True,
    )
    assert done.returncode == 2
    assert options[0].encode() in done.stderr


async def test_a_unix_socket_may_be_opened_by_a_proxy_of_another_user(tmp_path: Path) -> None:
    listener = listen(Address(uds=tmp_path / "s"))
    try:
        assert (tmp_path / "s").stat().st_mode & 0o777 == 0o666
    finally:
        listener.close()


async def test_origins_and_proxies_of_models_yaml_are_read_and_checked(tmp_path: Path) -> None:
    more = "cors_origins: ['https://*.example.org']\ntrusted_proxies: [127.0.0.1, 10.0.0.0/8, unix]\n"
    config = read_config(*write_config(tmp_path, MODELS + more, default=SINGLE))
    assert config.settings.edge == Edge(("https://*.example.org",), ("127.0.0.1", "10.0.0.0/8", "unix"))
    wrong = "cors_origins: [app.example.org]\ntrusted_proxies: [10.0.0.0/99]\n"
    with pytest.raises(ConfigError) as error:
        read_config(*write_config(tmp_path, MODELS + wrong, default=SINGLE))
    assert [problem.key for problem in error.value.problems] == ["cors_origins[0]", "trusted_proxies[0]"]
