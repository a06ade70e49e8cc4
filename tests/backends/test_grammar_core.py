"""JSON that a request asks for, on the real core model: llama.cpp holds it to the schema, token by token."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
import pytest_asyncio

from tests.asgi import Client
from tests.conftest import running
from tests.upstream import SINGLE

pytestmark = [pytest.mark.model, pytest.mark.asyncio(loop_scope="module")]
MODELS = "models:\n  core: {{engine: llama.cpp, source: 'file:{path}', context: 1024, slots: 2, threads: 1}}\n"
TEXT = {"type": "string", "maxLength": 12}
SCHEMAS: tuple[dict[str, Any], ...] = (
    {
        "properties": {"city": TEXT, "days": {"type": "integer", "minimum": 0, "maximum": 30}},
        "required": ["city", "days"],
    },
    {"properties": {"kind": {"enum": ["open", "closed"]}, "sure": {"type": "boolean"}}, "required": ["kind", "sure"]},
    {"properties": {"names": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 2}}, "required": ["names"]},
    {
        "properties": {"at": {"$ref": "#/$defs/Place"}},
        "required": ["at"],
        "$defs": {"Place": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}},
    },
    {"properties": {"day": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}}, "required": ["day"]},
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def core(
    tmp_path_factory: pytest.TempPathFactory, core_model_path: Path, empty_database: Path
) -> AsyncIterator[Client]:
    folder = tmp_path_factory.mktemp("core")
    (folder / "home").mkdir()
    shutil.copy(empty_database, folder / "home")
    async with running(folder, MODELS.format(path=core_model_path), default=SINGLE.replace("m1", "core")) as client:
        yield client


def wanted(schema: dict[str, Any]) -> dict[str, Any]:
    whole = {"type": "object", "additionalProperties": False, **schema}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": whole, "strict": True}}


NAMES = ["scalars", "enum", "list", "reference", "pattern"]
SOME = ("enum", "pattern")  # the others take longer


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(schema, id=name, marks=() if name in SOME else pytest.mark.slow)
        for name, schema in zip(NAMES, SCHEMAS, strict=True)
    ],
)
async def test_a_schema_holds_at_any_temperature(core: Client, schema: dict[str, Any]) -> None:
    format = wanted(schema)
    reply = await core.chat("Tell me of Paris.", response_format=format, temperature=1.2, seed=1, max_tokens=80)
    assert reply.status == 200
    [choice] = reply.json["choices"]
    if choice["finish_reason"] == "stop":
        jsonschema_rs.validate(format["json_schema"]["schema"], orjson.loads(choice["message"]["content"]))
    else:
        assert choice["finish_reason"] == "length"


async def test_any_json_is_an_object(core: Client) -> None:
    reply = await core.chat('Write {"a": 1}.', response_format={"type": "json_object"}, temperature=0, max_tokens=120)
    [choice] = reply.json["choices"]
    if choice["finish_reason"] == "stop":
        assert isinstance(orjson.loads(choice["message"]["content"]), dict)
    else:
        assert choice["finish_reason"] == "length" and choice["message"]["content"].lstrip().startswith("{")


async def test_what_is_cut_says_so(core: Client) -> None:
    reply = await core.chat("Tell me of Paris.", response_format=wanted(SCHEMAS[0]), temperature=0, max_tokens=3)
    assert reply.json["choices"][0]["finish_reason"] == "length"
