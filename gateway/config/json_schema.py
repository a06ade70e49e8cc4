"""JSON Schema (draft 7, which editors know best) of models.yaml and of a policy, made from what reads them.

    # yaml-language-server: $schema=schemas/models.json

as a file's first line lets editors complete and check it. A schema knows shapes and names; whether a model that a
policy names exists, only `gateway check` can tell.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from gateway.checks import CHECKS
from gateway.config import plugins
from gateway.config.conditions import COMBINED, OPERATORS
from gateway.config.lines import VARIABLE
from gateway.config.model_specs import MODEL_SPECS
from gateway.config.spec import ModelsFileSpec, PolicySpec
from gateway.routing.signals import SIGNALS, Signal

Schema = dict[str, Any]
DRAFT = "http://json-schema.org/draft-07/schema#"
FROM_ENVIRONMENT: Schema = {"type": "string", "pattern": VARIABLE.pattern}
OF_OURS = " of Onion Gateway"  # ends the title of each
SCALARS = ("integer", "number", "boolean")
_LIMIT: Schema = {
    "anyOf": [
        {"type": "number"},
        {"type": "string", "pattern": "^learned\\..+$"},
        {
            "type": "object",
            "required": ["learned"],
            "additionalProperties": False,
            "properties": {"learned": {"type": "string"}, "default": {"type": "number"}},
        },
    ]
}


def schemas() -> dict[str, Schema]:
    """`models`: the schema of models.yaml; `policy`: of each policy."""
    plugins.load()
    return {"models": models_schema(), "policy": policy_schema()}


def schema_files() -> dict[str, str]:
    """The text of each by its file's name."""
    return {f"{name}.json": json.dumps(schema, indent=1) + "\n" for name, schema in schemas().items()}


def write_schemas(folder: Path) -> list[Path]:
    """Into a folder, which is made. Raises: OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in schema_files().items():
        (folder / name).write_text(text)
        written.append(folder / name)
    return written


def models_schema() -> Schema:
    schema = _of(ModelsFileSpec)
    kinds = {engine: _of(kind) for engine, kind in MODEL_SPECS.items()}
    definitions = schema.setdefault("definitions", {})
    for kind in kinds.values():
        definitions.update(kind.pop("definitions", {}))
    definitions["model"] = {
        "type": "object",
        "required": ["engine"],
        "properties": {"engine": {"enum": list(kinds)}},
        "allOf": [
            {"if": {"properties": {"engine": {"const": engine}}, "required": ["engine"]}, "then": kind}
            for engine, kind in kinds.items()
        ],
    }
    models = schema["properties"]["models"]
    (pattern,) = models["patternProperties"]
    models["patternProperties"] = {pattern: {"$ref": "#/definitions/model"}}
    models["additionalProperties"] = False
    return _finished(schema, f"models.yaml{OF_OURS}")


def policy_schema() -> Schema:
    schema = _of(PolicySpec)
    definitions = schema["definitions"]
    definitions["condition"] = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": {name: _comparison(signal) for name, signal in sorted(SIGNALS.items())}
        | {name: _combined(name) for name in COMBINED},
    }
    definitions["check"] = {"anyOf": [{"enum": sorted(CHECKS)}, _checks_with_parameters()]}
    _is_null_or(definitions["RouteSpec"]["properties"]["when"], "#/definitions/condition")
    for spec in ("NodeSpec", "SemanticSpec"):
        definitions[spec]["properties"]["checks"]["items"] = {"$ref": "#/definitions/check"}
    definitions["NodeSpec"]["oneOf"] = [{"required": [kind]} for kind in ("model", "cascade", "choose")]
    return _finished(schema, f"a policy{OF_OURS}")


def _is_null_or(schema: Schema, reference: str) -> None:
    schema.clear()
    schema["$ref"] = reference


def _comparison(signal: Signal) -> Schema:
    if signal.kind == "flag":
        return {"type": "boolean"}
    if signal.schema is not None:
        return signal.schema
    if signal.kind == "match":
        return _one_or_more({"type": "string", "minLength": 1})
    value: Schema = {"type": "number"} if signal.kind == "number" else {"type": "string"}
    if signal.kind == "named":
        value = {"type": ["string", "number"]}
    elif signal.values:
        value = {"enum": list(signal.values)}
    operators = OPERATORS if signal.kind == "number" else ("is", "in")
    operations = {name: _LIMIT if name in ("above", "below") else _one_or_more(value) for name in operators}
    compared: Schema = {
        "anyOf": [
            *_one_or_more(value)["anyOf"],
            {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": operations},
        ]
    }
    if signal.kind == "named":
        if signal.names:
            named = {name: compared for name in signal.names}
            by_name = {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": named}
            return {"anyOf": [*compared["anyOf"], by_name]}
        return {"type": "object", "minProperties": 1, "additionalProperties": compared}
    return compared


def _combined(name: str) -> Schema:
    condition = {"$ref": "#/definitions/condition"}
    return condition if name == "not" else {"type": "array", "minItems": 1, "items": condition}


def _one_or_more(value: Schema) -> Schema:
    return {"anyOf": [value, {"type": "array", "minItems": 1, "items": value}]}


def _checks_with_parameters() -> Schema:
    """`{name: parameters}`; a value alone stands for the first parameter."""
    properties = {}
    for name, kind in sorted(CHECKS.items()):
        whole = _inlined(TypeAdapter(kind).json_schema())
        fields = list(whole.get("properties", {}))
        short = [whole["properties"][fields[0]]] if fields else []
        properties[name] = {"anyOf": [whole, *short]} if name != "json_schema" else {}
    return {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": properties,
    }


def _inlined(schema: Schema) -> Schema:
    """Without `$defs`, which a check's few parameters do not need."""
    if "$defs" in schema:
        raise ValueError(f"the parameters of check {schema.get('title')} must be plain types")
    return schema


def _of(kind: type[BaseModel]) -> Schema:
    schema = kind.model_json_schema(ref_template="#/definitions/{model}")
    definitions = schema.pop("$defs", {})
    if "$ref" in schema:  # a model that contains itself stands among the definitions
        schema = dict(definitions[schema["$ref"].rpartition("/")[2]])
    if definitions:
        schema["definitions"] = definitions
    return schema


def _finished(schema: Schema, title: str) -> Schema:
    """With variables allowed where a scalar is wanted, and without what only Python cares for."""
    finished: Schema = _walk(schema)
    finished.pop("description", None)
    return {"$schema": DRAFT, **finished, "title": title}


def _walk(node: Any) -> Any:
    if isinstance(node, list):
        return [_walk(item) for item in node]
    if not isinstance(node, dict):
        return node
    walked = {
        key: {name: _walk(inner) for name, inner in value.items()} if _holds_names(key, value) else _walk(value)
        for key, value in node.items()
        if key != "title" or isinstance(value, dict)
    }
    if (walked.get("type") in SCALARS or "pattern" in walked) and "const" not in walked:
        default = {"default": walked.pop("default")} if "default" in walked else {}
        return {"anyOf": [walked, FROM_ENVIRONMENT], **default}
    return walked


def _holds_names(key: str, value: Any) -> bool:
    return key in ("properties", "patternProperties", "definitions") and isinstance(value, dict)
