"""What a server tells of itself and its models."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.trace import Price


class ProbeFailed(Exception):
    """Nothing there that can be used. `reason` is for people and holds no key."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ProbeTimeout(ProbeFailed):
    """It may be there, and busy."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """One model of a server, as far as the server tells; None where it does not.

    Args:
        id: what a request's `model` must say.
        context: tokens of one request, prompt and answer together, as it is served now.
        accepts: kinds of content, of text, image, audio, file.
        tools: it is shown the tools that a request offers; False where its template has no place for them.
        chats: False for models that only embed, rank or transcribe.
        size_bytes: of its weights on disk.
        is_loaded: in memory now.
        price: what the server's own list says it costs.
    """

    id: str
    context: int | None = None
    accepts: frozenset[str] | None = None
    tools: bool | None = None
    chats: bool = True
    size_bytes: int | None = None
    is_loaded: bool | None = None
    price: Price | None = None


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A server that speaks OpenAI's chat API.

    Args:
        kind: ollama, lm-studio, llama-server, vllm, onion-gateway, or the name of a provider (`openrouter`, `groq`, …);
            `openai` for any other.
        base_url: where `/chat/completions` hangs, such as `http://127.0.0.1:11434/v1`.
        slots: requests that it works on at the same time; None where it does not tell.
    """

    kind: str
    base_url: str
    models: tuple[FoundModel, ...]
    version: str | None = None
    slots: int | None = None

    def model(self, id: str) -> FoundModel | None:
        return next((model for model in self.models if model.id == id), None)
