"""An upstream that says one thing, and what the gateway makes of it."""

from __future__ import annotations

from typing import Any

from tests.asgi import Response
from tests.conftest import Serve
from tests.servers import Double, Reply, plain, serving

SINGLE = "policy: default\nroutes: [{name: all, answer: {model: m}}]\n"
CASCADE = """
policy: default
routes: [{name: all, answer: {cascade: [{model: m, checks: [not_empty]}, {model: n}]}}]
"""


def models(server: Double) -> str:
    entry = f"engine: openai, base_url: '{server.url}/v1', model: up, api_key: secret-1, retries: 0"
    return f"models:\n  m: {{{entry}}}\n  n: {{engine: scripted, replies: [{{text: from n}}]}}\n"


async def ask(serve: Serve, reply: Reply, policy: str = SINGLE, **fields: Any) -> Response:
    async with serving(plain(say=lambda body: reply)) as server:
        client = await serve(models(server), default=policy)
        return await client.chat(**fields)
