"""What is on this machine: model files, model servers, API keys. Found here, decided upon in `plan`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.providers import LOCAL_SERVERS, PROVIDERS, Provider
from gateway.setup.files import Folder, FoundFiles, find_files, usual_folders
from gateway.setup.keys import AWS_VARIABLES, FoundKey, find_keys
from gateway.setup.preferences import LITELLM_PROVIDERS, LitellmProvider
from gateway.setup.servers import LocalServers, addresses, find_servers
from gateway.transport import is_loopback
from gateway.transport.client import PooledClient

SEARCH_DEPTH = 5


@dataclass(frozen=True)
class Machine:
    """Where to look; tests give their own.

    Args:
        here: the working directory.
        home: the user's home directory.
        searches: folders that the user named, looked through to SEARCH_DEPTH.
        checks_keys: ask the providers whether they take the keys, and the usual addresses for servers.
    """

    here: Path
    home: Path
    gateway_home: Path
    environ: Mapping[str, str]
    searches: tuple[Path, ...] = ()
    providers: Sequence[Provider] = ()
    litellm: Sequence[LitellmProvider] = LITELLM_PROVIDERS
    local_servers: Mapping[str, str] = field(default_factory=dict)
    probes: bool = True

    @staticmethod
    def this(gateway_home: Path, searches: tuple[Path, ...] = (), *, probes: bool = True) -> Machine:
        return Machine(
            here=Path.cwd(),
            home=Path(os.path.expanduser("~")),  # of a user without one: "~", where nothing is
            gateway_home=gateway_home,
            environ=os.environ,
            searches=searches,
            providers=tuple(PROVIDERS.values()),
            local_servers=LOCAL_SERVERS,
            probes=probes,
        )


@dataclass(frozen=True)
class Discovery:
    """`aws_variable`: one that holds AWS credentials. `notes`: what was left out, and why."""

    files: FoundFiles = FoundFiles()
    local: LocalServers = LocalServers()
    keys: tuple[FoundKey, ...] = ()
    aws_variable: str | None = None
    notes: tuple[str, ...] = ()


async def discover(machine: Machine) -> Discovery:
    """Servers and providers are asked while the files are read; takes a few seconds at most."""
    folders = [Folder(path, SEARCH_DEPTH) for path in machine.searches]
    folders += usual_folders(machine.here, machine.home, machine.gateway_home, machine.environ)
    environ, notes = _without_own_key(machine.environ)
    client = PooledClient()
    try:
        files, local, keys = await asyncio.gather(
            asyncio.to_thread(find_files, folders),
            find_servers(client, addresses(machine.local_servers, environ) if machine.probes else {}),
            find_keys(client, environ, machine.providers, machine.litellm, checks=machine.probes),
        )
    finally:
        await client.close()
    notes += [f"{path} is not there" for path in machine.searches if not path.is_dir()]
    notes += [f"another Onion Gateway answers at {url}; it is left out" for url in local.gateways]
    aws = next((name for name in AWS_VARIABLES if environ.get(name)), None)
    return Discovery(files, local, tuple(keys), aws, tuple([*notes, *files.notes, *local.notes]))


def _without_own_key(environ: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """OPENAI_API_KEY is not OpenAI's where the SDKs are pointed at this machine, as `gateway connect` tells people."""
    found = dict(environ)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE"):
        host = found.get(name, "").partition("://")[2].partition("/")[0].rpartition("@")[2].rpartition(":")[0]
        if is_loopback(host.strip("[]")) and found.get("OPENAI_API_KEY"):
            del found["OPENAI_API_KEY"]
            return found, [f"OPENAI_API_KEY is left out: {name} points at this machine, so it is no key of OpenAI's"]
    return found, []
