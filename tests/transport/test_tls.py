"""TLS: who the upstream says it is, and how it ends."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.transport import ConnectFailed, ConnectionCut, ConnectTimeout
from gateway.transport.client import PooledClient
from tests.transport.raw import OK, WAIT_S, Peer, answering, upstream


@dataclass(frozen=True)
class Certificates:
    folder: Path

    def serving(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.pem", self.folder / "key.pem")
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """`localhost`, signed by `ca`; `elsewhere`, for another host; `expired`; `unknown`, signed by nobody known."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run([program, *words], cwd=folder, check=True, capture_output=True)

    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *ec, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test CA")
    openssl("req", *ec, "-keyout", "key.pem", "-out", "any.csr", "-subj", "/CN=any")
    (folder / "index").touch()
    for name, host, days in [("localhost", "localhost", "2"), ("elsewhere", "models.example", "2")]:
        (folder / f"{name}.cnf").write_text(f"subjectAltName=DNS:{host}")
        sign = ("x509", "-req", "-in", "any.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        openssl(*sign, "-out", f"{name}.pem", "-days", days, "-extfile", f"{name}.cnf")
    ca = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=ca.srl\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n"
    (folder / "ca.cnf").write_text(ca + "[p]\ncommonName=supplied\n")
    dates = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z", "-extfile", "localhost.cnf")
    openssl("ca", "-batch", "-config", "ca.cnf", "-in", "any.csr", "-cert", "ca.pem", "-keyfile", "ca.key",
            "-out", "expired.pem", "-notext", *dates)  # fmt: skip
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    openssl("req", "-x509", "-key", "key.pem", "-out", "unknown.pem", "-days", "2", *names)
    return Certificates(folder)


@pytest.fixture(autouse=True)
def trusted(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.folder / "ca.pem"))


async def get(client: PooledClient, url: str) -> bytes:
    reply = await client.get(url, {}, connect_s=WAIT_S)
    try:
        return await reply.read(1 << 26)
    finally:
        reply.close()


async def test_a_certificate_of_the_file_in_the_environment(client: PooledClient, certificates: Certificates) -> None:
    spoken = []

    async def handle(peer: Peer) -> None:
        spoken.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await answering(OK)(peer)

    async with upstream(handle, tls=certificates.serving("localhost")) as server:
        assert await get(client, server.url) == await get(client, server.url) == b"ok"
        assert (server.connections, spoken) == (1, ["http/1.1"])
        await client.close()


@pytest.mark.parametrize("name", ["elsewhere", "expired", "unknown"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_others_are_not_spoken_to(client: PooledClient, certificates: Certificates, name: str) -> None:
    async with upstream(answering(OK), tls=certificates.serving(name)) as server:
        with pytest.raises(ConnectFailed, match="SSLCertVerificationError"):
            await get(client, server.url)
        assert server.heads == []


async def test_a_server_without_tls(client: PooledClient) -> None:
    async def handle(peer: Peer) -> None:
        await peer.reader.read(100)
        await peer.say(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with upstream(handle) as server:
        with pytest.raises(ConnectFailed):
            await get(client, server.url.replace("http", "https"))


async def test_a_handshake_that_never_ends_is_a_connect_timeout(client: PooledClient) -> None:
    async def handle(peer: Peer) -> None:
        await peer.gone()

    async with upstream(handle) as server:
        with pytest.raises(ConnectTimeout):
            await client.get(server.url.replace("http", "https"), {}, connect_s=0.05)
        await server.until(lambda: server.open_now == 0)


async def test_cancelled_during_the_handshake(client: PooledClient) -> None:
    async def handle(peer: Peer) -> None:
        await peer.gone()

    async with upstream(handle) as server:
        task = asyncio.create_task(get(client, server.url.replace("http", "https")))
        await server.until(lambda: server.open_now == 1)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.until(lambda: server.open_now == 0)


@pytest.mark.parametrize(
    "framing", [b"content-length: 9\r\n\r\nhalf", b"transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
async def test_an_end_in_mid_body_is_no_end(client: PooledClient, certificates: Certificates, framing: bytes) -> None:
    async def handle(peer: Peer) -> None:
        await peer.request()
        await peer.say(b"HTTP/1.1 200 OK\r\n" + framing)
        peer.writer.get_extra_info("socket")
        peer.writer.transport.abort()  # without a word of TLS

    async with upstream(handle, tls=certificates.serving("localhost")) as server:
        with pytest.raises(ConnectionCut):
            await get(client, server.url)


async def test_large_bodies_both_ways(client: PooledClient, certificates: Certificates) -> None:
    body = bytes(range(256)) * 20_000

    async def handle(peer: Peer) -> None:
        while (sent := await peer.request()) is not None:
            peer.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(sent) + sent)
            await peer.writer.drain()

    async with upstream(handle, tls=certificates.serving("localhost")) as server:
        for _ in range(2):
            reply = await client.post(server.url, {}, body, connect_s=WAIT_S)
            assert await reply.read(1 << 26) == body
            reply.close()
        assert server.connections == 1
        await client.close()
