"""What is loaded now, as the running server tells it; without one, what models.yaml says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.api.model_facts import file_facts
from gateway.api.residency import engine_of
from gateway.errors import GatewayError
from gateway.gateway import Gateway
from gateway.transport import ConnectFailed, ConnectionCut, ReplyTooLarge
from gateway.transport.client import PooledClient

LOOK_S = 3.0
LIMIT_BYTES = 8 << 20
MIB = 2**20
NOT_LOADED = ("absent", "downloading", "dormant", "failed")  # what such a model would take is an estimate

Json = dict[str, Any]
PLAIN: Json = {"highlight": False, "soft_wrap": True}


async def ask(root: str, key: str | None) -> Json | None:
    """What the gateway at this address says of its models; None where nothing listens.

    Returns: `{"models": [{"name", "engine", "active", "residency", …}], "memory": {"budget", "taken"}}`
    Raises: GatewayError where something else answers, or it wants another key.
    """
    client = PooledClient()
    headers = {"accept": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    try:
        async with asyncio.timeout(LOOK_S):
            reply = await client.get(f"{root}/v1/models", headers, connect_s=LOOK_S)
            try:
                return _told(root, reply.status, await reply.read(LIMIT_BYTES), key)
            finally:
                reply.close()
    except ConnectFailed:
        return None
    except TimeoutError:
        raise GatewayError(f"{root} takes connections, but has not answered within {LOOK_S:g} s") from None
    except (ConnectionCut, ReplyTooLarge):
        raise GatewayError(f"what answers at {root} is no Onion Gateway: name it with --url") from None
    finally:
        await client.close()


def _told(root: str, status: int, body: bytes, key: str | None) -> Json:
    if status == 401:
        what = "the key is wrong or revoked" if key else "the server asks for a key: say --key or set GATEWAY_API_KEY"
        raise GatewayError(f"{root}: {what} (`gateway keys list` shows which there are)")
    try:
        data = orjson.loads(body)
        about, listed = data["gateway"], [*data["data"], *data["gateway"]["inactive"]]
        facts = [(entry["id"], entry["gateway"]) for entry in listed]
        models = [{"name": name, **of} for name, of in facts if of["kind"] == "model"]
        return {"models": models, "memory": about["memory"]}
    except (orjson.JSONDecodeError, LookupError, TypeError):
        message = f"what answers at {root} (status {status}) is no Onion Gateway of this version: name it with --url"
        raise GatewayError(message) from None


def configured(gateway: Gateway) -> list[Json]:
    """The models of a configuration that nobody serves now."""
    rows: list[Json] = []
    for model in gateway.models.values():
        row: Json = {"name": model.name, "engine": model.engine, "active": model.responder is not None}
        row |= {"why": model.why, **model.card}
        engine = engine_of(gateway, model)
        if engine is not None:
            path = getattr(engine, "path", None)
            size_bytes = file_facts(path)[0] if isinstance(path, Path) else 0
            row["residency"] = {"kind": engine.residency, "is_present": engine.is_present, "file_bytes": size_bytes}
        rows.append(row)
    return rows


def show(told: Json, console: Console) -> None:
    """Of a running server."""
    rows, memory = told["models"], told["memory"]
    has_gpu = memory["taken"]["gpu_bytes"] or any((row.get("residency") or {}).get("gpu_bytes") for row in rows)
    sizes = ("MiB", "GPU MiB") if has_gpu else ("MiB",)
    table = Table("model", "engine", "stage", *sizes, "slots", "waiting", "idle", "load", "restarts", box=None)
    for row in rows:
        residency = row.get("residency")
        table.add_row(escape(row["name"]), row["engine"], *(_cells(residency, has_gpu) if residency else [_state(row)]))
    console.print(table)
    for row in rows:
        if error := (row.get("residency") or {}).get("last_error"):
            console.print(f"[yellow]{escape(row['name'])}[/] last error: {escape(error)}", **PLAIN)
    _tell_inactive(rows, console)
    console.print(_memory_line(memory, has_gpu), **PLAIN)


def show_configured(rows: Sequence[Json], root: str, console: Console) -> None:
    console.print(f"no server answers at {root}: this is what models.yaml says", **PLAIN)
    table = Table("model", "engine", "state", "residency", "file", "accepts", "good at", box=None)
    for row in rows:
        residency, file = row.get("residency"), ""
        if residency is not None:
            size = f"{residency['file_bytes'] / MIB:.0f} MiB" if residency["file_bytes"] else ""
            file = size if residency["is_present"] else "[yellow]not here[/]: gateway pull"
        kind = residency["kind"] if residency is not None else ""
        words = (", ".join(row.get("accepts", ())), ", ".join(row.get("good_at", ())))
        table.add_row(escape(row["name"]), row["engine"], _state(row), kind, file, *map(escape, words))
    console.print(table)
    _tell_inactive(rows, console)


def _tell_inactive(rows: Sequence[Json], console: Console) -> None:
    for row in rows:
        if not row["active"]:
            console.print(f"[yellow]{escape(row['name'])}[/] is inactive: {escape(row['why'])}", **PLAIN)


def _state(row: Json) -> str:
    return "[green]active[/]" if row["active"] else "[yellow]inactive[/]"


def _cells(residency: Json, has_gpu: bool) -> list[str]:
    stage = residency["stage"]
    colour = {"warm": "green", "busy": "green", "failed": "red", "absent": "yellow", "downloading": "yellow"}.get(stage)
    about = "~" if stage in NOT_LOADED else ""
    sizes = [residency["ram_bytes"], residency["gpu_bytes"]][: 2 if has_gpu else 1]
    return [
        f"[{colour}]{stage}[/]" if colour else stage,
        *(f"{about}{size / MIB:.0f}" if size else "" for size in sizes),
        f"{residency['busy']}/{residency['slots']}",
        str(residency["waiting"] or ""),
        "" if residency["idle_s"] is None else _seconds(residency["idle_s"]),
        "" if residency["load_s"] is None else f"{residency['load_s']:.1f} s",
        str(residency["restarts"] or ""),
    ]


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _memory_line(memory: Json, has_gpu: bool) -> str:
    told = []
    for kind, name in (("ram_bytes", "memory"), ("gpu_bytes", "GPU memory"))[: 2 if has_gpu else 1]:
        budget = memory["budget"][kind]
        limit = "no limit is set" if budget is None else f"the budget is {budget / MIB:.0f} MiB"
        told.append(f"{name}: {memory['taken'][kind] / MIB:.0f} MiB taken, {limit}")
    return "; ".join(told)
