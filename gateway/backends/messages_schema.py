"""JSON Schemas as Anthropic takes them: of the many words there are it knows few, and refuses the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from gateway.chat import Json

STRING_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
KEPT = ("$ref", "title", "description", "enum", "const", "required")
DEFINITIONS = ("$defs", "definitions")
CHOICES = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
SILENT = ("$schema", "$id", "additionalProperties", "default")


TYPES = ("string", "number", "integer", "boolean", "null", "object", "array")


def closed_schema(schema: object) -> Json:
    """The schema with every object closed, and what is not known there said in its description, as Anthropic's own
    library does it."""
    if not isinstance(schema, Mapping):
        return {}
    kinds = schema.get("type")
    if isinstance(kinds, list):  # it takes one type, not a list of them; each once, or a small schema grows without end
        kinds = [kind for kind in TYPES if kind in kinds]
        shared = {name: schema[name] for name in ("title", "description", *DEFINITIONS) if name in schema}
        each = {name: value for name, value in schema.items() if name not in shared}
        return {**_definitions(shared), "anyOf": [closed_schema({**each, "type": kind}) for kind in kinds]}
    out: Json = {name: schema[name] for name in KEPT if name in schema} | _definitions(schema)
    if "$ref" in schema:
        return {name: out[name] for name in ("$ref", *DEFINITIONS) if name in out}
    rest = {name: value for name, value in schema.items() if name not in out and name not in SILENT}
    for name, there in CHOICES.items():
        if isinstance(rest.get(name), list):
            out[there] = [closed_schema(one) for one in rest.pop(name)]
    if "type" in rest:
        out["type"] = rest.pop("type")
    _close(out, rest, kinds)
    if rest:
        surplus = ", ".join(f"{name}: {orjson.dumps(value).decode()}" for name, value in rest.items())
        out["description"] = "\n\n".join(filter(None, (str(out.get("description") or ""), f"{{{surplus}}}")))
    return out


def _definitions(schema: Mapping[str, Any]) -> Json:
    return {
        name: {key: closed_schema(one) for key, one in value.items()}
        if name in DEFINITIONS and isinstance(value, Mapping)
        else value
        for name, value in schema.items()
        if name in (*DEFINITIONS, "title", "description")
    }


def _close(out: Json, rest: Json, kind: object) -> None:
    """What one type may say beside the words of all."""
    if kind == "object":
        properties = rest.pop("properties", None)
        known = properties if isinstance(properties, Mapping) else {}
        out["properties"] = {name: closed_schema(one) for name, one in known.items()}
        out["additionalProperties"] = False
    elif kind == "array":
        if "items" in rest:
            out["items"] = closed_schema(rest.pop("items"))
        if rest.get("minItems") in (0, 1):
            out["minItems"] = rest.pop("minItems")
    elif kind == "string" and rest.get("format") in STRING_FORMATS:
        out["format"] = rest.pop("format")
