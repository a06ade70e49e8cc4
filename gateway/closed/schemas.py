"""JSON schemas that allow a few values only."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.chat import Json

MOST_OPTIONS = 200
DEEPEST = 4  # references that are followed
REMARKS = frozenset({"title", "description", "default", "examples", "$schema", "$defs", "definitions"})


def values_of(schema: Json | bool | None) -> list[Any]:
    """All that it allows, where that is one of some simple values, or an object with one such property; else none."""
    if not isinstance(schema, dict):
        return []
    found = _of_object(schema) if "properties" in schema else _simple(schema, schema)
    texts = set(map(written, found))
    return found if len(texts) == len(found) and 2 <= len(found) <= MOST_OPTIONS else []


def written(value: Any) -> str:
    """As models write JSON: with a blank after a colon."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(key)}: {written(item)}" for key, item in value.items()) + "}"
    return orjson.dumps(value).decode()


def _of_object(schema: Json) -> list[Any]:
    properties = schema["properties"]
    if set(schema) - REMARKS - {"type", "properties", "required", "additionalProperties"}:
        return []
    if not isinstance(properties, dict) or len(properties) != 1 or schema.get("type", "object") != "object":
        return []
    [(name, inner)] = properties.items()
    if schema.get("required") != [name] or schema.get("additionalProperties") not in (None, False):
        return []  # `{}`, or more than the property, would do as well
    return [{name: value} for value in _simple(inner, schema)]


def _simple(schema: Any, root: Json, depth: int = 0) -> list[Any]:
    """Values of an enum, a constant, a boolean, or of several of these; none where there may be others."""
    if not isinstance(schema, dict) or depth > DEEPEST:
        return []
    said = set(schema) - REMARKS
    if said == {"$ref"}:
        return _simple(_found(schema["$ref"], root), root, depth + 1)
    if said in ({"anyOf"}, {"oneOf"}):
        ways = schema[said.pop()]
        return _of_ways(ways, root, depth + 1) if isinstance(ways, list) else []
    if said - {"type", "enum", "const"}:
        return []
    kind = schema.get("type")
    values: list[Any]
    if "const" in said:
        values = [schema["const"]]
    elif "enum" in said:
        values = schema["enum"] if isinstance(schema["enum"], list) else []
    else:
        values = [True, False] if kind == "boolean" else [None] if kind == "null" else []
    values = [value for value in values if _is_of(value, kind)]
    return values if all(value is None or isinstance(value, bool | int | str) for value in values) else []


def _of_ways(ways: list[Any], root: Json, depth: int) -> list[Any]:
    """Of all of them, while they are not too many: one reference can stand for a thousand, and each of those too."""
    values: list[Any] = []
    for way in ways:
        part = _simple(way, root, depth)
        values += part
        if not part or len(values) > MOST_OPTIONS:
            return []
    return values


def _found(reference: Any, root: Json) -> Any:
    """What `#/$defs/NAME` stands for."""
    parts = str(reference).split("/")
    if len(parts) != 3 or parts[0] != "#" or parts[1] not in ("$defs", "definitions"):
        return None
    defined = root.get(parts[1])
    return defined.get(parts[2]) if isinstance(defined, dict) else None


def _is_of(value: Any, kind: Any) -> bool:
    if kind is None:
        return True
    names = {type(None): {"null"}, bool: {"boolean"}, int: {"integer", "number"}, str: {"string"}}
    kinds = set(kind) if isinstance(kind, list) else {kind}
    return bool(names.get(type(value), set()) & kinds)
