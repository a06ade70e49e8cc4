"""What Ollama's and LM Studio's clients ask before they chat: who is there, what it can do, what is loaded."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.access.keys import create_key
from gateway.api.model_facts import ModelFacts, file_facts
from tests.asgi import Client
from tests.conftest import Serve

MODELS = """
models:
  core: {engine: scripted, context: 8192, accepts: [text], replies: [{text: hi}]}
  seer: {engine: scripted, context: 32768, accepts: [text, image], replies: [{text: hi}]}
  team/big:7b: {engine: scripted, replies: [{text: hi}]}
  asleep: {engine: openai, base_url: "https://example.com/v1", model: up, api_key: "${NOT_SET_HERE}"}
"""
POLICY = """
policy: default
routes:
  - {name: pictures, when: {has: image}, answer: {model: seer}}
  - {name: rest, answer: {cascade: [{model: core, checks: [not_empty]}, {model: asleep}]}}
"""
SMALL = "policy: small\nserves: [mini/one]\nroutes: [{name: all, answer: {model: core}}]\n"


@pytest.fixture
async def client(serve: Serve) -> Client:
    return await serve(MODELS, default=POLICY, small=SMALL)


async def show(client: Client, **body: Any) -> Any:
    reply = await client.call("POST", "/api/show", body)
    assert reply.status == 200, reply.body
    return reply.json


async def test_the_root_says_what_clients_look_for(client: Client) -> None:
    for method in ("GET", "HEAD"):
        reply = await client.call(method, "/")
        assert reply.status == 200
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert (await client.call("GET", "/")).body == b"Ollama is running"


async def test_the_root_needs_no_key_and_the_rest_does(client: Client) -> None:
    assert client.runtime.database is not None and client.runtime.keys is not None
    _, key = await create_key(client.runtime.database, "me")
    await client.runtime.keys.refresh()
    assert (await client.call("GET", "/")).status == 200
    for method, path in (("GET", "/api/tags"), ("GET", "/api/version"), ("POST", "/api/chat"), ("GET", "/api/ps")):
        reply = await client.call(method, path)
        assert reply.status == 401 and isinstance(reply.json["error"], str)
        assert (await client.call(method, path, {}, {"authorization": f"Bearer {key}"})).status != 401


async def test_the_version_is_new_enough_for_all(client: Client) -> None:
    version = (await client.call("GET", "/api/version")).json["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)
    assert (await client.call("HEAD", "/api/version")).status == 200


async def test_tags_list_policies_and_active_models(client: Client) -> None:
    models = (await client.call("GET", "/api/tags")).json["models"]
    names = [model["model"] for model in models]
    assert names == [
        "default:latest",
        "small:latest",
        "mini/one:latest",
        "auto:latest",
        "core:latest",
        "seer:latest",
        "team/big:7b",
    ]
    for model in models:
        assert model["name"] == model["model"]
        assert len(model["digest"]) == 64 and int(model["digest"], 16)
        assert datetime.fromisoformat(model["modified_at"]).tzinfo is not None
        assert isinstance(model["size"], int)
        assert set(model["details"]) == {
            "parent_model",
            "format",
            "family",
            "families",
            "parameter_size",
            "quantization_level",
        }
        assert (await show(client, model=model["model"]))["capabilities"]


async def test_show_tells_what_a_model_can_and_how_much_it_reads(client: Client) -> None:
    shown = await show(client, model="seer")
    info = shown["model_info"]
    assert info[info["general.architecture"] + ".context_length"] == 32768
    assert shown["capabilities"] == ["completion", "tools", "vision"]
    assert shown["parameters"] == "num_ctx 32768"
    assert all(isinstance(shown[name], str) for name in ("license", "modelfile", "template"))
    core = await show(client, name="core:latest")
    assert core["capabilities"] == ["completion", "tools"]
    unknown = await show(client, model="team/big:7b")
    assert list(unknown["model_info"]) == ["general.architecture", "general.basename"]
    assert unknown["parameters"] == ""


async def test_a_policy_can_what_the_best_of_its_active_models_can(client: Client) -> None:
    shown = await show(client, model="auto:latest")
    assert shown["capabilities"] == ["completion", "tools", "vision"]
    assert shown["model_info"]["onion.context_length"] == 32768
    small = await show(client, model="mini/one")
    assert small["capabilities"] == ["completion", "tools"]
    assert small["model_info"]["onion.context_length"] == 8192


@pytest.mark.parametrize("path", ["/api/show", "/api/pull"])
async def test_who_is_not_named_is_400(client: Client, path: str) -> None:
    reply = await client.call("POST", path, {})
    assert reply.status == 400 and reply.json["error"].startswith("model: ")


@pytest.mark.parametrize("name", ["nobody", "asleep", "core:7b"])
async def test_who_cannot_be_asked_cannot_be_shown(client: Client, name: str) -> None:
    for reply in (
        await client.call("POST", "/api/show", {"model": name}),
        await client.call("GET", f"/api/v0/models/{name}"),
    ):
        assert reply.status == 404 and list(reply.json) == ["error"]


async def test_models_are_managed_elsewhere(client: Client) -> None:
    for method, verb in (("POST", "create"), ("POST", "copy"), ("POST", "push"), ("DELETE", "delete")):
        reply = await client.call(method, f"/api/{verb}", {"model": "core"})
        assert reply.status == 405
        assert reply.json == {"error": f"cannot {verb} models here: they are managed by the server's models.yaml"}


async def test_what_is_there_has_been_pulled(client: Client) -> None:
    for name in ("core", "auto:latest", "mini/one"):
        reply = await client.call("POST", "/api/pull", {"model": name})
        assert reply.status == 200 and reply.body == b'{"status":"success"}\n'
    for name in ("nobody", "asleep"):
        reply = await client.call("POST", "/api/pull", {"model": name})
        assert reply.status == 405 and "models.yaml" in reply.json["error"]


async def test_lm_studios_list(client: Client) -> None:
    listed = (await client.call("GET", "/api/v0/models")).json
    assert listed["object"] == "list"
    by_name = {entry["id"]: entry for entry in listed["data"]}
    assert list(by_name) == ["default", "small", "mini/one", "auto", "core", "seer", "team/big:7b"]
    assert by_name["seer"]["type"] == "vlm" and by_name["core"]["type"] == "llm"
    assert by_name["core"]["max_context_length"] == 8192 and by_name["core"]["state"] == "loaded"
    assert by_name["core"]["capabilities"] == ["tool_use"]
    assert "max_context_length" not in by_name["team/big:7b"]
    assert (await client.call("GET", "/api/v0/models/mini/one")).json == by_name["mini/one"]


async def test_loaded_models_are_those_of_servers_that_have_them_in_memory(serve: Serve) -> None:
    loaded = {"models": [{"name": "qwen:7b", "model": "qwen:7b", "context_length": 16384}]}
    tags = {"models": [{"name": name, "model": name, "size": 4_000} for name in ("qwen:7b", "other:1b")]}
    said = {
        "/api/tags": tags,
        "/api/ps": loaded,
        "/api/version": {"version": "0.9.0"},
        "/api/show": {"capabilities": ["completion"], "model_info": {}},
    }

    async def answer(request: web.Request) -> web.Response:
        found = said.get(request.path)
        return web.json_response(found if found is not None else {}, status=200 if found is not None else 404)

    server = web.AppRunner(web.Application())
    server.app.router.add_route("*", "/{tail:.*}", answer)
    await server.setup()
    site = web.TCPSite(server, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{server.addresses[0][1]}"
    models = "models:\n" + "".join(
        f"  {name}: {{engine: attach, url: '{url}', model: '{model}'}}\n"
        for name, model in (("there", "qwen:7b"), ("dormant", "other:1b"))
    )
    try:
        client = await serve(models)
        await client.runtime.pool.settled(client.gateway.engines, 10)
        (model,) = (await client.call("GET", "/api/ps")).json["models"]
        assert (model["model"], model["size"], model["size_vram"]) == ("there:latest", 4_000, 0)
        assert model["context_length"] == 16384
        assert datetime.fromisoformat(model["expires_at"]).year > 2100
        shown = await show(client, model="there")
        assert shown["capabilities"] == ["completion"], "its template has no place for tools"
        states = {e["id"]: e["state"] for e in (await client.call("GET", "/api/v0/models")).json["data"]}
        assert states == {"there": "loaded", "dormant": "not-loaded"}
    finally:
        await server.cleanup()


async def test_nothing_is_loaded_where_nothing_is_local(client: Client) -> None:
    assert (await client.call("GET", "/api/ps")).json == {"models": []}


@pytest.mark.parametrize(
    "file, size, quantization",
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "135M", "Q4_1"),
        ("Mixtral-8x7B-v0.1-Q8_0.gguf", "8X7B", "Q8_0"),
        ("Qwen2.5-Coder-1.5B-Instruct-Q4_K_M.gguf", "1.5B", "Q4_K_M"),
        ("gpt-oss-20b-mxfp4.gguf", "20B", "MXFP4"),
        ("Grok-100B-v1.0-IQ2_XXS-00001-of-00003.gguf", "100B", "IQ2_XXS"),
        ("model.gguf", "", ""),
        ("model-7B-Q4_0.bin", "", ""),
    ],
)
def test_names_of_gguf_files_tell_size_and_encoding(file: str, size: str, quantization: str) -> None:
    facts = ModelFacts("m", path=Path("/models") / file)
    assert (facts.parameter_size, facts.quantization) == (size, quantization)


def test_the_size_of_a_split_model_is_that_of_all_its_parts(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (tmp_path / f"m-{number:05}-of-00003.gguf").write_bytes(b"x" * number)
    first = tmp_path / "m-00001-of-00003.gguf"
    assert file_facts(first)[0] == 6
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    assert file_facts(first) == (0, None)
