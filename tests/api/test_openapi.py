"""The OpenAPI document says what there is, and requests made from it are answered as it says."""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from typer.testing import CliRunner

from gateway import cli
from gateway.api import completions, openai
from gateway.api.app import plain_endpoints
from gateway.api.fastapi_app import fastapi_app
from gateway.api.openapi import document, operations
from gateway.chat import Json
from tests.asgi import Client
from tests.conftest import Serve
from tests.http.sockets import listening, request

MODELS = """
models:
  core: {engine: scripted, replies: [{text: "hi"}, {text: '{"a": 1}'}, {text: "one two"}]}
  expert: {engine: scripted, replies: [{text: hello}]}
shards: {publish: true}
"""
POLICY = """
policy: default
serves: [auto]
routes:
  - {name: all, answer: {cascade: [{model: core, checks: [not_empty, json], shards: true}, {model: expert}]}}
"""
NAMES = ["auto", "core", "expert", "nobody"]
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]  # 500 is no status of any
KINDS = {str: "string", bool: "boolean", list: "array", dict: "object", int: "integer"}
UNIONS = ("stop", "response_format")  # which are said in more words
VECTORS = ("/v1/embeddings", "/v1/rerank", "/api/embed", "/api/embeddings")  # fetch the built-in model at first
READS = ("/healthz", "/readyz", "/metrics")


def routes_of(client: Client) -> Iterator[tuple[str, str]]:
    """Path and method of all that is served, but for HEAD."""
    for path in plain_endpoints(client.live, client.runtime):
        yield path, "get" if path in READS else "post"
    with warnings.catch_warnings(action="ignore"):  # GET and HEAD of a path are one function
        paths = fastapi_app(client.live, client.runtime).openapi()["paths"]
    for path, item in paths.items():
        for method in item.keys() - {"head"}:
            yield path, method


async def test_the_document_has_all_routes_and_no_others(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    assert sorted(routes_of(client)) == sorted((path, method) for path, method, _ in operations(document()))
    assert (await client.call("GET", "/openapi.json")).json == document()


def test_the_command_prints_it() -> None:
    assert json.loads(CliRunner().invoke(cli.app, ["openapi"]).stdout) == document()


def ranges(numbers: Mapping[str, tuple[str, float, float]]) -> dict[str, Json]:
    return {
        name: {"type": ["integer" if kind == openai.INTEGER else "number", "null"], "minimum": low, "maximum": high}
        for name, (kind, low, high) in numbers.items()
    }


@pytest.mark.parametrize(("dialect", "name"), [(openai, "ChatRequest"), (completions, "CompletionRequest")])
def test_fields_and_their_ranges_are_those_that_are_checked(dialect: Any, name: str) -> None:
    said = document()["components"]["schemas"][name]["properties"]
    assert {field: said[field] for field in dialect.NUMBERS} == ranges(dialect.NUMBERS)
    for field, (kinds, _) in dialect.KINDS.items():
        known = {KINDS[kind] for kind in (kinds if isinstance(kinds, tuple) else (kinds,))}
        assert field in UNIONS or set(said[field]["type"]) == known | {"null"}, field
    assert set(said) - set(dialect.NUMBERS) - set(dialect.KINDS) <= {"model", "messages", "prompt"}


class Known:
    """The document with names of what there is where a request has to name something, else all would be 404."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.key = ""
        self.document = copy.deepcopy(document())

    async def prepare(self) -> None:
        """Some of each, under a key that may do everything."""
        made = await self._client.call("POST", "/v1/admin/keys", {"name": "examiner", "admin": True})
        self.key = made.json["key"]
        self.document["components"]["schemas"]["ModelName"] = {"enum": NAMES}
        shard = {"kind": "content", "fact": "The harbour opens at six.", "questions": ["When does it open?"]}
        asked = {"model": "core", "input": "hello"}
        self._may_be("ShardId", [await self._made("/v1/shards", {**shard, "slot": f"{n}"}) for n in range(3)])
        self._may_be("ResponseId", [await self._made("/v1/responses", asked) for _ in range(3)])
        for name in ("pupil", "guest"):
            await self._made("/v1/admin/keys", {"name": name})
        self._may_be("KeyName", ["pupil", "guest"])
        self._may_be("Policy", ["default"])

    async def _made(self, path: str, body: Json) -> str:
        made = await self._client.call("POST", path, body, {"x-api-key": self.key})
        assert made.status in (200, 201), made.body
        return str(made.json.get("id"))

    def _may_be(self, parameter: str, ids: list[str]) -> None:
        self.document["components"]["parameters"][parameter]["schema"] = {"enum": [*ids, "none"]}

    def operations(self) -> list[Any]:
        """What takes something away comes last."""
        schema = schemathesis.openapi.from_dict(self.document)
        found = [one.ok() for one in schema.get_all_operations()]
        return sorted(found, key=lambda one: one.method == "delete" or one.path == "/v1/shards/purge")


def examine(url: str, known: Known, examples: int, mode: GenerationMode) -> Counter[int]:
    """Ask what the document allows, or what it does not, so many times of each operation. Returns: the statuses."""
    statuses: Counter[int] = Counter()
    for operation in known.operations():

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def conforms(case: schemathesis.Case) -> None:
            reply = case.call(base_url=url, headers={"x-api-key": known.key}, timeout=20)
            statuses[reply.status_code] += 1
            case.validate_response(reply, checks=CHECKS)

        try:
            conforms()
        except Unsatisfiable:  # there is no wrong way to ask it
            pass
        except Exception as exc:
            exc.add_note(f"{operation.method.upper()} {operation.path}")
            raise
    return statuses


async def answers_as_it_says(
    serve: Serve, examples: int, mode: GenerationMode, without: tuple[str, ...] = ()
) -> Counter[int]:
    client = await serve(MODELS, default=POLICY)
    known = Known(client)
    await known.prepare()
    for path in without:
        del known.document["paths"][path]
    importlib.import_module("numpy")  # which the gateway would import while Hypothesis, in its thread, looks at it
    async with listening(client) as here:
        # FastAPI is built in a thread, with warnings filtered in a way that is the whole process': before all the rest
        assert (await here.ask(request("GET", "/v1/key", x_api_key=known.key))).status == 200
        return await asyncio.to_thread(examine, f"http://127.0.0.1:{here.port}", known, examples, mode)


async def test_what_it_allows_is_answered_as_it_says(serve: Serve) -> None:
    statuses = await answers_as_it_says(serve, 2, GenerationMode.POSITIVE, without=VECTORS)
    assert statuses[200] > 40 and statuses[404] and statuses[400]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", GenerationMode)
async def test_whatever_comes_is_answered_as_it_says(serve: Serve, mode: GenerationMode) -> None:
    statuses = await answers_as_it_says(serve, 100, mode)
    assert set(statuses) >= ({200, 201, 400, 404} if mode is GenerationMode.POSITIVE else {400, 404})
