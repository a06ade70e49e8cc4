"""Images, audio and files go only to models that take them; where none does, the client is told which one would."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Serve

PARTS: dict[str, dict[str, Any]] = {
    "image": {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    "audio": {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    "file": {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
}
MODELS = """
models:
  text: {engine: scripted, accepts: [text], replies: [{text: of text}]}
  eyes: {engine: scripted, accepts: [text, image], replies: [{text: of eyes}]}
  ears: {engine: scripted, accepts: [text, audio, file], replies: [{text: of ears}]}
"""
OUTWARD = """
policy: default
routes: [{name: all, answer: {cascade: [{model: text}, {model: eyes}, {model: ears}]}}]
"""
NONE_ACTIVE = """
models:
  text: {engine: scripted, accepts: [text], replies: [{text: of text}]}
  far:
    engine: openai
    base_url: https://api.example.com/v1
    model: x
    api_key: ${NOT_SET_ANYWHERE}
    accepts: [text, image]
"""


def asking(modality: str) -> dict[str, Any]:
    content = [{"type": "text", "text": "What is it?"}, PARTS[modality]]
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("modality", "path"),
    [("image", "text!modality,eyes"), ("audio", "text!modality,eyes!modality,ears")]
    + [("file", "text!modality,eyes!modality,ears")],
)
async def test_a_tier_that_cannot_take_it_is_passed_over(serve: Serve, modality: str, path: str, stream: bool) -> None:
    client = await serve(MODELS, default=OUTWARD)
    reply = await client.chat(stream=stream, **asking(modality))
    assert (reply.status, reply.gateway["path"]) == (200, path)
    assert reply.text == f"of {path.rpartition(',')[2]}"


@pytest.mark.parametrize("modality", PARTS)
async def test_a_model_named_by_the_client_refuses_and_names_who_would(serve: Serve, modality: str) -> None:
    client = await serve(MODELS, default=OUTWARD)
    reply = await client.chat(model="text", **asking(modality))
    other = "eyes" if modality == "image" else "ears"
    assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "unsupported_content", "messages")
    assert reply.error["message"] == (
        f"model 'text' does not take {modality} content; '{other}' can be asked for it by name"
    )


async def test_without_an_active_model_the_inactive_one_is_named(serve: Serve) -> None:
    policy = "policy: default\nroutes: [{name: all, answer: {cascade: [{model: text}, {model: far}]}}]\n"
    client = await serve(NONE_ACTIVE, default=policy)
    reply = await client.chat(**asking("image"))
    assert (reply.status, reply.error["code"]) == (400, "unsupported_content")
    assert reply.error["message"] == (
        "model 'text' does not take image content; no active model does, and 'far' "
        "(set NOT_SET_ANYWHERE in the environment to use it) would but is inactive"
    )
    reply = await client.chat(**asking("audio"))
    assert reply.error["message"] == "model 'text' does not take audio content"
    assert (await client.chat()).status == 200


async def test_a_route_for_images_whose_model_is_off(serve: Serve) -> None:
    policy = """
    policy: default
    routes:
      - {name: images, when: {has: image}, answer: {model: far}}
      - {name: rest, answer: {model: text}}
    """
    client = await serve(NONE_ACTIVE, default=policy)
    reply = await client.chat(**asking("image"))
    assert reply.status == 400
    assert reply.error["message"] == (
        "no model for image content: route 'images' has no active model: "
        "far: set NOT_SET_ANYWHERE in the environment to use it"
    )


async def test_a_request_with_several_kinds_needs_a_model_for_all_of_them(serve: Serve) -> None:
    client = await serve(MODELS, default=OUTWARD)
    both = {"messages": [{"role": "user", "content": [PARTS["image"], PARTS["audio"]]}]}
    reply = await client.chat(**both)
    assert (reply.status, reply.error["code"]) == (400, "unsupported_content")
    reply = await client.chat(messages=[{"role": "user", "content": [PARTS["audio"], PARTS["file"]]}])
    assert (reply.status, reply.gateway["model"]) == (200, "ears")


async def test_inactive_models_say_what_they_would_take(serve: Serve) -> None:
    client = await serve(NONE_ACTIVE)
    assert (await client.call("GET", "/v1/models/far")).json["gateway"]["accepts"] == ["text", "image"]


@pytest.mark.parametrize(
    "engine", ["engine: openai, provider: ollama, base_url: 'http://127.0.0.1:9/v1'", "engine: litellm"]
)
async def test_an_address_that_is_not_fetched_is_no_reason_to_ask_another_model(serve: Serve, engine: str) -> None:
    policy = "policy: default\nroutes: [{name: all, answer: {model: m}}]\n"
    entry = f"m: {{{engine}, model: openai/x, accepts: [text, image]}}"
    client = await serve(f"models:\n  {entry}\n  n: {{engine: scripted, replies: [{{text: hi}}]}}\n", default=policy)
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    reply = await client.chat(messages=[{"role": "user", "content": [image]}])
    assert (reply.status, reply.error["code"]) == (400, "unsupported_content")
    assert "data: URL" in reply.error["message"] and "by name" not in reply.error["message"]
