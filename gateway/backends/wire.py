"""The protocols that upstreams speak: how a chat is asked in one, and what comes back read as chat chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from gateway.backends.replies import read_completion, read_event
from gateway.chat import ChatRequest, Json

DONE = b"[DONE]"
Secrets = tuple[str, ...]


class Reader(Protocol):
    """Reads one stream, event by event."""

    is_done: bool
    """The upstream has said that nothing more comes."""
    is_plain: bool
    """Every event stands for itself, so one that looks like an earlier one means the same."""

    def read(self, payload: bytes) -> list[Json]:
        """The `chat.completion.chunk` objects that an event's data come to, tidied as by `read_event`.

        Raises: BadBackendReply, UpstreamRefused, BackendTimeout.
        """


class Wire(Protocol):
    path: str
    """Behind the upstream's address."""

    def ask(self, body: Mapping[str, Any], request: ChatRequest) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        """What is sent for a chat body that fits the provider, and the fields that were left out of it."""

    def headers(self, request: ChatRequest) -> Mapping[str, str]:
        """Sent beside the usual ones."""

    def whole(self, name: str, raw: bytes, secrets: Secrets) -> Json:
        """A reply that is not streamed, as a tidied `chat.completion`.

        Raises: BadBackendReply, UpstreamRefused, BackendTimeout.
        """

    def reader(self, name: str, secrets: Secrets) -> Reader:
        """For one stream of the model called `name`."""


class ChatWire:
    """OpenAI's `/chat/completions`, which is what requests and chunks look like inside."""

    path = "/chat/completions"

    def ask(self, body: Mapping[str, Any], request: ChatRequest) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        return body, request.extra.lost if request.extra else ()

    def headers(self, request: ChatRequest) -> Mapping[str, str]:
        return {}

    def whole(self, name: str, raw: bytes, secrets: Secrets) -> Json:
        return read_completion(name, raw, secrets)

    def reader(self, name: str, secrets: Secrets) -> Reader:
        return _ChatReader(name, secrets)


class _ChatReader:
    is_plain = True

    def __init__(self, name: str, secrets: Secrets) -> None:
        self._name, self._secrets = name, secrets
        self.is_done = False

    def read(self, payload: bytes) -> list[Json]:
        if payload == DONE:
            self.is_done = True
            return []
        return [read_event(self._name, payload, self._secrets)]


CHAT = ChatWire()
