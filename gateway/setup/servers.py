"""Model servers on this machine: each usual address is asked, all at the same time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.probe import FoundServer, ProbeFailed, probe
from gateway.transport import ConnectFailed, ConnectionCut, HttpClient, ReplyTooLarge

CONNECT_S, PROBE_S, HEALTH_S, LOOK_S = 0.5, 2.0, 0.5, 2.4  # together they stay below 3 s
OUR_OWN = "onion-gateway"  # the kind of another gateway
MAX_LIST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class LocalServers:
    """`gateways`: addresses where another Onion Gateway answers. `notes`: what answered, but cannot be used."""

    servers: tuple[FoundServer, ...] = ()
    gateways: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def addresses(usual: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """The usual addresses by kind, with Ollama's as OLLAMA_HOST says."""
    found = dict(usual)
    given = environ.get("OLLAMA_HOST", "").strip()
    if given and "ollama" in found:
        found["ollama"] = ollama_url(given) or found["ollama"]
    return found


def ollama_url(host: str) -> str | None:
    """OLLAMA_HOST as the base URL of a client, read as Ollama does; None where it is no address.

    Source: ollama `envconfig/config.go`, Host().
    """
    scheme, has_scheme, rest = host.rpartition("://")
    scheme = scheme.lower() if has_scheme else "http"
    usual_port = {"http": 80, "https": 443}.get(scheme) if has_scheme else 11434
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        name, port = parts.hostname or "127.0.0.1", parts.port or usual_port
    except ValueError:
        return None
    if usual_port is None:
        return None
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)  # where it listens is not where it is called
    return f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}{parts.path.rstrip('/')}/v1"


async def find_servers(client: HttpClient, usual: Mapping[str, str]) -> LocalServers:
    found = await asyncio.gather(*(_look(client, kind, url) for kind, url in usual.items()))
    servers, gateways, notes = [], [], []
    for kind, url, answer in zip(usual, usual.values(), found, strict=True):
        if answer == OUR_OWN or isinstance(answer, FoundServer) and answer.kind == OUR_OWN:
            gateways.append(url)
        elif isinstance(answer, FoundServer):
            servers.append(answer)
        elif answer:
            notes.append(f"{kind} at {url}: {answer}")
    return LocalServers(tuple(servers), tuple(gateways), tuple(notes))


async def _look(client: HttpClient, kind: str, url: str) -> FoundServer | str | None:
    """A server, why what answers is of no use, or None where nothing listens."""
    if not await _listens(url):
        return None
    try:
        async with asyncio.timeout(LOOK_S):
            try:
                return await probe(client, url, timeout_s=PROBE_S)
            except ProbeFailed as exc:
                return OUR_OWN if await _is_locked_gateway(client, url) else exc.reason
    except TimeoutError:
        return f"did not answer within {LOOK_S:g} s"


async def _listens(url: str) -> bool:
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def _is_locked_gateway(client: HttpClient, base_url: str) -> bool:
    """One that asks for keys lists nothing, but says that it lives."""
    alive = await _get_json(client, f"{base_url.removesuffix('/v1')}/healthz")
    return isinstance(alive, dict) and {"status", "version"} <= set(alive)


async def _get_json(client: HttpClient, url: str) -> object:
    """The reply's JSON, whatever its status; None where there is none in time."""
    reply = None
    try:
        async with asyncio.timeout(HEALTH_S):
            reply = await client.get(url, {"accept": "application/json"}, connect_s=HEALTH_S)
            return json.loads(await reply.read(MAX_LIST_BYTES))
    except (TimeoutError, ConnectFailed, ConnectionCut, ReplyTooLarge, ValueError, RecursionError):
        return None
    finally:
        if reply is not None:
            reply.close()
