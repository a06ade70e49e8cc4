"""Clients for Node, unmodified, against `gateway serve`: each file of `tests/clients/node` is a `node:test` of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import node
from tests.clients.gateway_process import Served, serving

pytestmark = pytest.mark.slow  # to install
WORDS = {"text": "Paris is lovely; so is Málaga ✓ 🌍."}
PLACE = {"text": '{"city": "Paris", "people": 2}'}
CALL = {"tool_calls": [{"name": "weather", "arguments": {"city": "Paris"}}]}
TWO_CALLS = {"tool_calls": [*CALL["tool_calls"], {"name": "time", "arguments": {}}]}
FIRST = {"times": 1, "reasoning": "It is asked for.", "text": "Let me look."}
ENDLESS = {"text": "word " * 500, "between_ms": 50}
REPLIES: dict[str, list[dict[str, Any]]] = {
    "words": [WORDS],
    "call": [CALL],
    "thinker": [{**WORDS, "reasoning": "I have been there."}],
    "place": [PLACE],
    "short": [{"text": '{"city": "Pa', "finish_reason": "length"}],
    "busy": [{"error": {"status": 429, "message": "later", "headers": {"retry-after": "7"}}}],
    "busy-once": [{"times": 1, "error": {"status": 429, "message": "later", "headers": {"retry-after": "0"}}}, WORDS],
    "broken": [{"error": {"status": 500, "message": "broken"}}],
    "cut": [{**WORDS, "cut_after": 3}],
    "failing": [{**WORDS, "error_after": 3}],
    "silent": [{"silent": True}],
    **{
        f"{name}endless": [ENDLESS]
        for name in ("", "ai-compatible-", "ai-openai-", "messages-", "ollama-", "continue-")
    },
    **{name: [WORDS] for name in ("next", "ai-next", "messages-fields", "messages-thread", "ollama-fields")},
    **{
        name: [{**FIRST, **CALL}, WORDS]
        for name in (
            "openai-run-tools",
            "openai-run-tools-streamed",
            "openai-responses-tools",
            "openai-runner",
            "openai-runner-streamed",
            "ai-compatible-tools",
            "ai-openai-tools",
            "messages-tools",
            "messages-runner",
            "messages-runner-streamed",
            "ollama-tools",
        )
    },
    **{name: [{**FIRST, **TWO_CALLS}, WORDS] for name in ("ai-compatible-two-tools", "ai-openai-two-tools")},
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, minilm_home: Path) -> Iterator[Served]:
    node.clients()
    with serving(tmp_path_factory.mktemp("served"), REPLIES, models_home=minilm_home) as served:
        yield served


@pytest.mark.parametrize("name", ["openai", "anthropic", "ollama", "ai_sdk", "continue"])
def test_clients(name: str, served: Served, tmp_path: Path) -> None:
    environment = {"GATEWAY_URL": served.url, "UPSTREAM_URL": served.upstream_url}
    node.run_script(f"{name}.mjs", tmp_path, environment)
