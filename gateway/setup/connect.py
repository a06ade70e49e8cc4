"""`gateway connect CLIENT`: what to paste into a client, and a trial with it against the running gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
from rich.console import Console
from rich.markup import escape

from gateway.chat import Json
from gateway.setup.clients import Client, Failure, Server, Trial
from gateway.setup.clients.reply import failure_of
from gateway.setup.surfaces import SURFACES, Seen, try_all
from gateway.transport import ConnectFailed, ConnectionCut, ReplyTooLarge
from gateway.transport.client import PooledClient

LOOK_S = 3.0
LIMIT_BYTES = 8 << 20
FIRST_WORDS, TABLE_WORDS = 90, 40  # characters


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands at the address, seen without generating anything. `fault`: why a trial would fail, with what to do.

    Args:
        models: what may be sent as `model`.
        wants_key: it answers 401 without one.
    """

    models: tuple[str, ...] = ()
    wants_key: bool = False
    fault: str | None = None


def root_of(url: str) -> str:
    """The gateway's root, of its root or its base URL. Raises: ValueError for what is no web address."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("wants an address such as http://127.0.0.1:8080")
    if parts.username or parts.password:
        raise ValueError("has a name or password in it; give a key with --key or $GATEWAY_KEY")
    _ = parts.port  # raises for what is no number
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


async def look(server: Server) -> Standing:
    client = PooledClient()
    try:
        async with asyncio.timeout(LOOK_S):
            return await _look(client, server)
    except TimeoutError:
        return Standing(fault=f"{server.root} takes connections, but has not answered within {LOOK_S:g} s")
    except (ConnectFailed, ConnectionCut, ReplyTooLarge):
        return Standing(fault=f"nothing answers at {server.root}: start it with `gateway serve`, or name it with --url")
    finally:
        await client.close()


async def _look(client: PooledClient, server: Server) -> Standing:
    status, body = await _get(client, f"{server.base_url}/models", server.key)
    if status == 401:
        return Standing(wants_key=True, fault=_key_fault(server))
    data = _json(body)
    listed = data.get("data") if status == 200 else None
    if not isinstance(listed, list):
        return Standing(fault=f"{server.base_url}/models answers {status}: {failure_of(status, body).message}")
    wants_key = server.key is not None and (await _get(client, f"{server.base_url}/models", None))[0] == 401
    models = tuple(str(entry.get("id")) for entry in listed if isinstance(entry, dict))
    if server.model in models:
        return Standing(models, wants_key)
    _, about = await _get(client, f"{server.base_url}/models/{quote(server.model, safe='/:')}", server.key)
    facts = _json(about).get("gateway")
    if isinstance(facts, dict) and facts.get("active") is False:
        why = facts.get("why") or "`gateway check` says why"
        return Standing(models, wants_key, f"model '{server.model}' is inactive: {why}")
    return Standing(models, wants_key, f"no model is called '{server.model}'; there are: {', '.join(models)} (--model)")


async def _get(client: PooledClient, url: str, key: str | None) -> tuple[int, bytes]:
    headers = {"accept": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    reply = await client.get(url, headers, connect_s=LOOK_S)
    try:
        return reply.status, await reply.read(LIMIT_BYTES)
    finally:
        reply.close()


def _json(body: bytes) -> dict[str, Any]:
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return data if isinstance(data, dict) else {}


def _key_fault(server: Server) -> str:
    if server.key is not None:
        return "the key is wrong or revoked: `gateway keys list` shows which there are"
    return "the server asks for a key: set GATEWAY_KEY or say --key (`gateway keys create --name NAME` makes one)"


def explain(failure: Failure, server: Server) -> str:
    """A failed trial for people: what the server said, and what to do."""
    said = failure.message
    if server.key:
        said = said.replace(server.key, "…")
    said = _printable(said)
    if failure.code == "timeout":
        return f"{said}: a model that is just being loaded, or a large one, may need longer (--timeout)"
    if failure.status == 401:
        return _key_fault(server)
    if failure.status == 404 or failure.code == "model_not_found":
        return f"{said} (--model names another)"
    if failure.status == 503:
        return f"{said}: the server may still be loading its models; {server.root}/readyz tells"
    if failure.status == 502:
        return f"{said}: the model behind the gateway failed; `gateway check` and the server's log say more"
    return said if failure.status is None else f"{failure.status}: {said}"


def connect(client: Client, server: Server, console: Console, *, tests: bool) -> Json:
    """Print what to paste and, with `tests`, try it. The result's `ok` is False where a trial failed."""
    standing = asyncio.run(look(server))
    server = replace(server, wants_key=standing.wants_key or (server.key is not None and not standing.models))
    snippets = client.paste(server)
    for snippet in snippets:
        console.print(f"[bold]{escape(snippet.where)}[/]", highlight=False, soft_wrap=True)
        console.print(escape(snippet.text), highlight=False, soft_wrap=True)
    report: Json = {
        "ok": True,
        "client": client.name,
        "base_url": server.base_url,
        "model": server.model,
        "wants_key": server.wants_key,
        "models": list(standing.models),
        "fault": standing.fault,
        "snippets": [{"where": snippet.where, "text": snippet.text} for snippet in snippets],
    }
    if standing.fault is not None:
        report["ok"] = not tests
        word = "[red]failed[/]" if tests else "[yellow]note[/]"
        console.print(f"{word} {escape(standing.fault)}", highlight=False, soft_wrap=True)
    elif tests:
        trials, seen = asyncio.run(_tried(client, server))
        report["trials"] = [_facts(trial, server) for trial in trials]
        report["surfaces"] = [_surface_facts(one, server) for one in seen]
        report["ok"] = all(t.failure is None for t in trials) and all(s.failure is None for s in seen)
        _tell(trials, server, console)
        _tabulate(seen, server, console)
    else:
        console.print(f"try it: gateway connect {client.name} --test", highlight=False, soft_wrap=True)
    return report


async def _tried(client: Client, server: Server) -> tuple[Sequence[Trial], Sequence[Seen]]:
    return await client.trials(server), await try_all(server, [SURFACES[name] for name in client.surfaces])


def _facts(trial: Trial, server: Server) -> Mapping[str, object]:
    return {
        "ok": trial.failure is None,
        "stream": trial.is_stream,
        "by": trial.by,
        "text": trial.text,
        "model": trial.answered_by,
        "path": trial.path,
        "first_s": trial.first_s,
        "whole_s": trial.whole_s,
        "error": explain(trial.failure, server) if trial.failure is not None else None,
    }


def _surface_facts(seen: Seen, server: Server) -> Mapping[str, object]:
    return {
        "ok": seen.failure is None,
        "surface": seen.surface.name,
        "path": seen.surface.path,
        "says": seen.says,
        "model": seen.model,
        "took_s": seen.took_s,
        "error": explain(seen.failure, server) if seen.failure is not None else None,
    }


def _tabulate(seen: Sequence[Seen], server: Server, console: Console) -> None:
    """One line each, however narrow the terminal: it is read from left to right."""
    names, paths = (
        max(map(len, texts)) for texts in zip(*((s.surface.name, s.surface.path) for s in seen), strict=True)
    )
    models = max(len(one.model or "") for one in seen)
    for one in seen:
        is_ok = one.failure is None
        says = _printable(one.says if one.failure is None else explain(one.failure, server))
        mark = "[green]ok[/]    " if is_ok else "[red]failed[/]"
        shown = escape(says if not is_ok or len(says) <= TABLE_WORDS else says[:TABLE_WORDS] + "…")
        asked = f"{one.surface.name:<{names}}  {one.surface.path:<{paths}}  {one.model or '':<{models}}"
        console.print(f"{mark} {asked}  {one.took_s:6.2f} s  {shown}", highlight=False, soft_wrap=True)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _tell(trials: Sequence[Trial], server: Server, console: Console) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    for by in dict.fromkeys(trial.by for trial in trials):
        say(f"tried with {escape(by)}")
    for trial in trials:
        kind = "streamed" if trial.is_stream else "whole"
        if trial.failure is not None:
            say(f"  [red]failed[/] {kind}: {escape(explain(trial.failure, server))}")
            continue
        words = _printable(trial.text)
        shown = words if len(words) <= FIRST_WORDS else words[:FIRST_WORDS] + "…"
        say(f"  [green]ok[/] {kind}: {escape(shown)}")
        facts = [
            f"{name} {value}"
            for name, value in (("model", trial.answered_by), ("path", trial.path))
            if value is not None
        ]
        facts += [f"first words after {trial.first_s:.2f} s"] if trial.first_s is not None else []
        facts += [f"all after {trial.whole_s:.2f} s"] if trial.whole_s is not None else []
        say(f"     {escape(', '.join(facts))}")
