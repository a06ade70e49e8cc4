"""A gateway with a cache before a scripted model, and how often that was asked."""

from __future__ import annotations

from typing import Any

import orjson

from gateway.backends.openai import OpenAIBackend
from gateway.backends.script import Script
from gateway.backends.scripted import ScriptedClient
from tests.asgi import Client, Response
from tests.conftest import Serve

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
HELLO = {"text": "one two", "usage": USAGE}
POLICY = "policy: default\nroutes: [{name: all, answer: {model: core, cache: true}}]\n"


def scripted(*replies: dict[str, Any], more: str = "") -> str:
    said = orjson.dumps(list(replies)).decode()
    return f"models: {{core: {{engine: scripted, price: {{input_usd_per_mtok: 1}}, replies: {said}}}}}\n{more}"


def policy(answer: str, more: str = "") -> str:
    return f"policy: default\n{more}routes: [{{name: all, answer: {answer}}}]\n"


def caching(options: str) -> str:
    return policy(f"{{model: core, cache: {options}}}")


async def cached(serve: Serve, *replies: dict[str, Any], options: str = "true", more: str = "") -> Client:
    return await serve(scripted(*(replies or (HELLO,)), more=more), default=caching(options))


def leaf_of(client: Client, model: str = "core") -> OpenAIBackend:
    leaf = client.gateway.models[model].responder
    assert isinstance(leaf, OpenAIBackend)
    return leaf


def script_of(client: Client, model: str = "core") -> Script:
    upstream = leaf_of(client, model).client
    assert isinstance(upstream, ScriptedClient)
    return upstream.script


def asked(client: Client, model: str = "core") -> int:
    """How often the model was asked."""
    return sum(script_of(client, model).used)


def said(reply: Response) -> str | None:
    return reply.headers.get("x-gateway-cache")
