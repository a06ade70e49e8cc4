"""Coding agents on the command line: Codex, Claude Code, opencode."""

from __future__ import annotations

import orjson

from gateway.setup.clients import KEY_VARIABLE, Server, Snippet
from gateway.setup.clients.settings import Settings


def _codex(server: Server) -> list[Snippet]:
    """Source: codex-cli 0.169, `config.toml`; it speaks the Responses API only."""
    key = f'env_key = "{KEY_VARIABLE}"\n' if server.wants_key else ""
    text = (
        f'model = "{server.model}"\nmodel_provider = "onion"\n\n[model_providers.onion]\nname = "Onion Gateway"\n'
        f'base_url = "{server.base_url}"\nwire_api = "responses"\n{key}'
    )
    return [Snippet("~/.codex/config.toml", text)]


def _claude_code(server: Server) -> list[Snippet]:
    """Source: Claude Code's documentation of LLM gateways and of models: a second one is asked for titles, and agents
    within it may ask for any of the three."""
    text = (
        f"export ANTHROPIC_BASE_URL={server.root}\n"
        f"export ANTHROPIC_AUTH_TOKEN={server.shell_key}\n"
        f"export ANTHROPIC_MODEL={server.model}\n"
        + "".join(f"export ANTHROPIC_DEFAULT_{name}_MODEL={server.model}\n" for name in ("OPUS", "SONNET", "HAIKU"))
        + "claude\n"
    )
    return [Snippet("shell", text)]


def _opencode(server: Server) -> list[Snippet]:
    """Source: opencode's documentation of providers."""
    options = {"baseURL": server.base_url}
    if server.wants_key:
        options["apiKey"] = f"{{env:{KEY_VARIABLE}}}"
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Onion Gateway",
        "options": options,
        "models": {server.model: {"name": server.model}},
    }
    config = {
        "$schema": "https://opencode.ai/config.json",
        "model": f"onion/{server.model}",
        "provider": {"onion": provider},
    }
    return [Snippet("opencode.json, in the project", orjson.dumps(config, option=orjson.OPT_INDENT_2).decode() + "\n")]


AGENTS = (
    Settings("codex", ("responses stream", "responses"), _codex),
    Settings("claude-code", ("messages stream", "messages", "count tokens", "models"), _claude_code),
    Settings("opencode", ("chat stream", "chat with tools"), _opencode),
)
