"""A scripted upstream on a real socket, for tests of what crosses one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.backends.script import Script, ScriptSpec
from gateway.backends.scripted_server import serve_script


class Upstream:
    def __init__(self, script: Script, port: int) -> None:
        self.script = script
        self.port = port
        self.url = f"http://127.0.0.1:{port}/v1"


@asynccontextmanager
async def upstream(*replies: dict[str, Any], port: int = 0, key: str | None = None) -> AsyncIterator[Upstream]:
    script = Script(ScriptSpec.model_validate({"replies": list(replies)}))
    runner = await serve_script(script, "127.0.0.1", port, key=key)
    try:
        yield Upstream(script, runner.addresses[0][1])
    finally:
        await runner.cleanup()


def pointing_at(*upstreams: Upstream, extra: str = "") -> str:
    """models.yaml with the models m1, m2, …, one for each upstream."""
    lines = ["models:"]
    for number, server in enumerate(upstreams, 1):
        at = f"base_url: '{server.url}', model: up, api_key: k{number}"
        lines.append(f"  m{number}: {{engine: openai, {at}, retries: 0, {extra}}}")
    return "\n".join(lines) + "\n"


CASCADE = """
policy: default
routes:
  - name: all
    answer: {cascade: [{model: m1, checks: [not_empty]}, {model: m2}]}
"""
SINGLE = "policy: default\nroutes: [{name: all, answer: {model: m1}}]\n"
"""A policy of one model, and one of two."""
