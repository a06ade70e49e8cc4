"""`gateway serve` with scripted models, as the Python clients' scripts expect them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from gateway import cli
from tests.test_serve import Served, start_serving

LOOPS = (
    "chat",
    "chat stream",
    "chat helper",
    "async chat",
    "responses",
    "responses stream",
    "langchain",
    "langchain stream",
    "langchain responses",
    "agents",
    "agents stream",
    "agents chat",
    "agents chat stream",
    "llama-index",
    "llama-index stream",
    "litellm",
    "litellm stream",
    "litellm anthropic",
    "llm",
    "llm whole",
    "llm responses",
    "pydantic-ai",
    "pydantic-ai stream",
    "pydantic-ai responses",
    "pydantic-ai responses stream",
    "anthropic",
)
"""Who asks for `the weather for NAME`, gets a call of `weather` the first time, and then words."""

PLACE = {"city": "Paris", "population": 2100000}
WEATHER = [{"name": "weather", "arguments": {"city": "Paris"}}]
POLICY: dict[str, Any] = {
    "policy": "default",
    "serves": ["auto", "claude-sonnet-5-5", "gpt-4o"],
    "routes": [
        {
            "name": "all",
            "answer": {
                "cascade": [
                    {"model": "small", "checks": ["not_refusal", "json_schema", "tool_arguments"]},
                    {"model": "large"},
                ]
            },
        }
    ],
}


def _when(heard: str, /, **reply: Any) -> dict[str, Any]:
    return {"when": {"contains": heard}, **reply}


def _error(status: int, message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"status": status, "message": message, **more}}


TOO_LONG = _error(
    400,
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    type="invalid_request_error",
    code="context_length_exceeded",
    param="messages",
)
BUSY = _error(429, "slow down", code="rate_limit_exceeded", headers={"retry-after": "0", "retry-after-ms": "10"})
DOWN = _error(503, "try later", headers={"x-should-retry": "false"})
MODELS: dict[str, list[dict[str, Any]]] = {
    "small": [
        *(_when(f"weather for {name}!", times=1, tool_calls=WEATHER) for name in LOOPS),
        _when("weather for", text="It is sunny in Paris."),
        _when("a place by a tool", tool_calls=[{"name": "Place", "arguments": PLACE}]),
        _when("a part of it", tool_calls=[{"name": "PartialPlace", "arguments": PLACE}]),
        _when("a final result", tool_calls=[{"name": "final_result", "arguments": PLACE}]),
        _when("a place", text=json.dumps(PLACE)),
        _when("hand me over", times=1, tool_calls=[{"name": "transfer_to_expert", "arguments": {}}]),
        _when("hand me over", text="Expert here"),
        _when("two at once", tool_calls=[*WEATHER, {"name": "weather", "arguments": {"city": "Rome"}}]),
        _when("think hard", times=1, reasoning="let me see", tool_calls=WEATHER),
        _when("think", reasoning="let me see", text="So it is"),
        _when("a story", text="Once upon a", finish_reason="length"),
        _when("something hard", text="I'm sorry, but I can't help with that."),
        {
            "text": "Hello from small",
            "logprobs": -0.1,
            "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
        },
    ],
    "large": [_when("a place", text=json.dumps(PLACE)), {"text": "the hard answer"}],
    "once-busy": [{"times": 1, **BUSY}, {"text": "at last"}],
    "busy": [BUSY],
    "down": [DOWN],
    "once-down": [{"times": 1, **DOWN}, {"text": "at last"}],
    "too-long": [TOO_LONG],
    "no-key": [_error(401, "bad key sk-secret", code="invalid_api_key")],
    "breaking": [_when("error", text="one two three", error_after=3), {"text": "one two three", "cut_after": 3}],
    "corrected": [
        {"times": 1, "tool_calls": [{"name": "Place", "arguments": {"city": "Paris", "population": "many"}}]},
        {"tool_calls": [{"name": "Place", "arguments": PLACE}]},
    ],
    "silent": [{"silent": True}],
    "slow": [{"text": "one two three four five six seven eight nine ten", "between_ms": 100}],
}


def start(folder: Path, models_home: Path) -> tuple[Served, str]:
    """It and a key, which it asks for. `models_home` has the files of the built-in embedding model."""
    home = folder / "home"
    home.mkdir()
    (home / "models").symlink_to(models_home / "models")
    models = {name: {"engine": "scripted", "replies": replies} for name, replies in MODELS.items()}
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": models}))
    (folder / "policies").mkdir()
    (folder / "policies" / "default.yaml").write_text(yaml.safe_dump(POLICY))
    made = CliRunner().invoke(cli.app, ["keys", "create", "--name", "me", "--json"], env={"GATEWAY_HOME": str(home)})
    return start_serving(folder, home), json.loads(made.stdout)["key"]
