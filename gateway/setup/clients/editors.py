"""Editors, their plugins, and chat applications: most are told in a settings window."""

from __future__ import annotations

import orjson

from gateway.setup.clients import Server, Snippet
from gateway.setup.clients.settings import Settings, key_of

CHAT = ("models", "chat stream", "chat with tools")


def _json(value: object) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n"


def _window(where: str, *lines: tuple[str, str]) -> Snippet:
    width = max(len(name) for name, _ in lines)
    return Snippet(where, "".join(f"{name:<{width}}  {value}\n" for name, value in lines))


def _cline(server: Server) -> list[Snippet]:
    """Source: cline, `src/core/api/providers/openai.ts`."""
    return [
        _window(
            "Cline: settings, API Configuration",
            ("API Provider", "OpenAI Compatible"),
            ("Base URL", server.base_url),
            ("API Key", key_of(server)),
            ("Model ID", server.model),
        )
    ]


def _roo(server: Server) -> list[Snippet]:
    """Source: Roo Code, `src/api/providers/openai.ts`."""
    return [
        _window(
            "Roo Code: settings, Providers",
            ("API Provider", "OpenAI Compatible"),
            ("Base URL", server.base_url),
            ("API Key", key_of(server)),
            ("Model", server.model),
            ("Include max output tokens", "off"),
        )
    ]


def _copilot(server: Server) -> list[Snippet]:
    """Source: VS Code's documentation of language models, "Add a custom endpoint model" (it replaces the setting
    customOAIModels); Ollama's `ollama launch vscode` for the setting of its extension."""
    model = {
        "id": server.model,
        "name": f"{server.model} (Onion Gateway)",
        "url": f"{server.base_url}/chat/completions",
        "toolCalling": True,
        "vision": False,
        "maxInputTokens": 8192,
        "maxOutputTokens": 4096,
    }
    provider = {
        "name": "Onion Gateway",
        "vendor": "customendpoint",
        "apiType": "chat-completions",
        "apiKey": "${input:onionGatewayKey}" if server.wants_key else "unused",
        "models": [model],
    }
    asks = "; VS Code then asks for the API key" if server.wants_key else ""
    where = f"VS Code, Chat: Manage Language Models, Add Models, Custom Endpoint: chatLanguageModels.json{asks}"
    snippets = [Snippet(where, _json([provider]))]
    if not server.wants_key:
        snippets.append(Snippet("or, with Ollama's extension, settings.json", _json({"ollama.endpoint": server.root})))
    return snippets


def _zed(server: Server) -> list[Snippet]:
    """Source: Zed's documentation of OpenAI-compatible providers; it takes the key from a window or a variable."""
    model = {
        "name": server.model,
        "display_name": f"{server.model} (Onion Gateway)",
        "max_tokens": 8192,
        "capabilities": {"tools": True, "images": False, "parallel_tool_calls": True, "prompt_cache_key": False},
    }
    provider = {"api_url": server.base_url, "available_models": [model]}
    settings = {"language_models": {"openai_compatible": {"Onion Gateway": provider}}}
    return [
        Snippet("Zed, settings.json", _json(settings)),
        Snippet("shell, before Zed is started", f"export ONION_GATEWAY_API_KEY={server.shell_key}\n"),
    ]


def _jetbrains(server: Server) -> list[Snippet]:
    """Source: JetBrains' documentation of AI Assistant 2026.1, "Bring your own key"."""
    return [
        _window(
            "Settings, Tools, AI Assistant, Providers & API keys (Models & API keys before 2026)",
            ("Provider", "OpenAI-compatible"),
            ("URL", server.base_url),
            ("API key", key_of(server)),
            ("Model", server.model),
        ),
        _window("or, where no key is asked for", ("Provider", "Ollama"), ("URL", server.root)),
    ]


def _cursor(server: Server) -> list[Snippet]:
    """Source: Cursor's documentation of API keys; it asks from its own servers, so the address must be public."""
    return [
        _window(
            "Cursor Settings, Models: the gateway must be reachable over public HTTPS, and have keys",
            ("Override OpenAI Base URL", server.base_url),
            ("OpenAI API Key", "the key in $GATEWAY_KEY"),
            ("Add model", f"{server.model} (Cursor has an 'auto' of its own: add an alias to the policy's `serves:`)"),
        )
    ]


def _open_webui(server: Server) -> list[Snippet]:
    """Source: Open WebUI's documentation of environment variables."""
    key = server.shell_key
    text = (
        f"export OPENAI_API_BASE_URL={server.base_url}\nexport OPENAI_API_KEY={key}\n"
        f"export RAG_EMBEDDING_ENGINE=openai RAG_EMBEDDING_MODEL=auto\n"
        f"export RAG_OPENAI_API_BASE_URL={server.base_url} RAG_OPENAI_API_KEY={key}\nopen-webui serve\n"
    )
    return [Snippet("shell; in a container, put the host's name (host.docker.internal) for 127.0.0.1", text)]


EDITORS = (
    Settings("cline", CHAT, _cline),
    Settings("roo", CHAT, _roo),
    Settings("copilot", (*CHAT, "responses stream", "ollama version", "ollama tags", "ollama show"), _copilot),
    Settings("zed", ("chat stream", "chat with tools"), _zed),
    Settings("jetbrains", (*CHAT, "ollama tags", "ollama show", "ollama chat stream"), _jetbrains),
    Settings("cursor", CHAT, _cursor),
    Settings("open-webui", (*CHAT, "embeddings", "ollama version", "ollama tags", "ollama chat stream"), _open_webui),
)
