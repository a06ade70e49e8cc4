"""OpenAI's published schemas, and whether a reply satisfies them.

`data/openai-schemas.json.xz` is taken from openai/openai-openapi (MIT, licence beside it). Properties that are not
required may be null, as OpenAI's own replies have them; foreign properties may be added.
"""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs

FILE = Path(__file__).parent / "data" / "openai-schemas.json.xz"
CHAT, CHAT_CHUNK = "CreateChatCompletionResponse", "CreateChatCompletionStreamResponse"
COMPLETION, EMBEDDINGS, MODELS, ERROR = "CreateCompletionResponse", "CreateEmbeddingResponse", "ListModelsResponse", ""
RESPONSE, RESPONSE_EVENT = "Response", "ResponseStreamEvent"
ENVELOPE = {  # all four keys, where OpenAI's schema is content with fewer
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "minLength": 1},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def _lenient(schema: Any) -> Any:
    """`nullable` said in JSON Schema's way; what is not required may be null."""
    if isinstance(schema, list):
        return [_lenient(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out = {name: _lenient(value) for name, value in schema.items() if name not in ("nullable", "discriminator")}
    if isinstance(out.get("properties"), dict):
        required = set(schema.get("required", ()))
        out["properties"] = {
            name: value if name in required else {"anyOf": [value, {"type": "null"}]}
            for name, value in out["properties"].items()
        }
    return {"anyOf": [out, {"type": "null"}]} if schema.get("nullable") is True else out


@cache
def _components() -> Any:
    return _lenient(json.loads(lzma.open(FILE).read())["components"])


@cache
def validator(name: str) -> jsonschema_rs.Validator:
    if name == ERROR:
        return jsonschema_rs.validator_for(ENVELOPE)
    schema = {"$ref": f"#/components/schemas/{name}", "components": _components()}
    return jsonschema_rs.Draft202012Validator(schema)


def faults(name: str, data: Any) -> list[str]:
    """Where `data` departs from the schema, in words."""
    return [f"{list(fault.instance_path)}: {fault.message[:300]}" for fault in validator(name).iter_errors(data)]


def assert_valid(name: str, data: Any) -> None:
    assert faults(name, data) == [], data
