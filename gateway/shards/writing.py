"""A shard as JSON, for the database, for files and for bundles, and back."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Any

import orjson

from gateway.shards import Case, Example, Json, Kind, Origin, Scope, Shard, State, Trust

LISTS = ("questions", "not_for", "steps", "checks", "options", "for_models")
NOT_IN_BODY = frozenset({"revision"})


def as_json(shard: Shard) -> Json:
    """All that is not as it is by default."""
    out: Json = {}
    for field in fields(Shard):
        value = getattr(shard, field.name)
        if value != field.default and value != () and field.name not in NOT_IN_BODY:
            out[field.name] = _plain(value)
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, Trust):
        return int(value)
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, Example):
        return {"user": value.user, "assistant": value.assistant}
    if isinstance(value, Case):
        origin = {} if value.origin is Origin.SOURCE else {"origin": str(value.origin)}
        extra = {"fields": dict(value.fields)} if value.fields else {}
        return {"messages": list(value.messages), "accepted": list(value.accepted), **origin, **extra}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def from_json(data: Json) -> Shard:
    """Of what `as_json` has written. What came from outside is read by `outside.py`."""
    known = {field.name for field in fields(Shard)}
    read = {name: value for name, value in data.items() if name in known}
    read["kind"] = Kind(read["kind"])
    for name, kind in (("scope", Scope), ("state", State), ("trust", Trust)):
        if name in read:
            read[name] = kind(read[name])
    for name in LISTS:
        if name in read:
            read[name] = tuple(read[name])
    read["examples"] = tuple(Example(one["user"], one["assistant"]) for one in read.get("examples", ()))
    read["cases"] = tuple(map(case_from, read.get("cases", ())))
    return Shard(**read)


def case_from(data: Json) -> Case:
    origin = Origin(data.get("origin", Origin.SOURCE))
    return Case(tuple(data["messages"]), tuple(data["accepted"]), origin, data.get("fields", {}))


def body_of(shard: Shard) -> str:
    return orjson.dumps(as_json(shard)).decode()


def shard_of(body: str) -> Shard:
    return from_json(orjson.loads(body))
