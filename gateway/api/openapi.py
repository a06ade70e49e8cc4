"""The OpenAPI document of the public routes: `openapi.yaml`, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from gateway import __version__
from gateway.api.envelopes import Envelope, anthropic_error, envelope_of, ollama_error, openai_error
from gateway.chat import Json

METHODS = frozenset({"get", "put", "post", "delete", "patch"})
SCHEMAS: dict[Envelope, str] = {
    openai_error: "OpenAIError",
    anthropic_error: "AnthropicError",
    ollama_error: "OllamaError",
}
REFUSED, STOPPING = "The request cannot be served as it is", "The server is stopping, or starting"
FAILED = {"502": "A model failed", "504": "A model took too long", "508": "A loop of gateways"}
KEYS: list[dict[str, list[str]]] = [{"bearer": []}, {"x-api-key": []}, {"api-key": []}, {}]
"""Any one of them; none where the server asks for no keys."""


@cache
def document() -> Json:
    """One for all who ask: not to be changed."""
    read: Json = yaml.safe_load(files("gateway.api").joinpath("openapi.yaml").read_text("utf-8"))
    read["info"]["version"] = __version__
    read["security"] = KEYS
    read["paths"] = {path: _completed(path, item) for path, item in read["paths"].items()}
    return read


def operations(doc: Json) -> Iterator[tuple[str, str, Json]]:
    """Path, method and what is said of each."""
    for path, item in doc["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield path, method, operation


def _completed(path: str, item: Json) -> Json:
    return {key: _with_errors(path, value) if key in METHODS else value for key, value in item.items()}


def _with_errors(path: str, operation: Json) -> Json:
    said = dict(operation)
    schema = {"$ref": f"#/components/schemas/{SCHEMAS[envelope_of(path)]}"}

    def error(description: str) -> dict[str, Any]:
        return {"description": description, "content": {"application/json": {"schema": schema}}}

    errors = {"4XX": error(REFUSED), "503": error(STOPPING)}
    if said.pop("x-asks", False):
        errors |= {status: error(why) for status, why in FAILED.items()}
    said["responses"] = errors | said["responses"]
    return said
