"""What asks models in Ollama's API, with requests that only load one.

Source: ollama `docs/api.md` and `server/routes.go`.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

from gateway.access.keys import KeyInfo
from gateway.api.asgi import App, Receive, Scope, Send, send_whole
from gateway.api.body import ClientGone, read_body
from gateway.api.chat import ChatEndpoint
from gateway.api.entrance import key_of
from gateway.api.ollama import OllamaDialect, asks_nothing, model_of
from gateway.api.ollama_embed import EmbedDialect
from gateway.api.ollama_names import known_name
from gateway.api.ollama_reply import LineWriter
from gateway.api.openai import parse_json
from gateway.api.vectors import VectorEndpoint
from gateway.chat import Json
from gateway.errors import InvalidRequest
from gateway.live import Live
from gateway.runtime import Runtime
from gateway.trace import RequestTrace

NOT_AT_ALL = re.compile(r"0+(\.0*)?(ns|us|µs|ms|s|m|h)?")


def ollama_endpoints(live: Live, runtime: Runtime) -> dict[str, App]:
    """What asks models, by path."""

    def chat(*, generates: bool) -> App:
        endpoint = ChatEndpoint(live, runtime, OllamaDialect(live, generates=generates))
        return Loading(live, endpoint, generates=generates)

    def embed(*, is_old: bool) -> App:
        return VectorEndpoint(live, runtime, EmbedDialect(is_old=is_old))

    return {
        "/api/chat": chat(generates=False),
        "/api/generate": chat(generates=True),
        "/api/embed": embed(is_old=False),
        "/api/embeddings": embed(is_old=True),
    }


class Loading:
    """In front of a chat: a request without a word in it asks for a model to be loaded or unloaded, and is answered
    here, for the gateway loads models by its own rules."""

    def __init__(self, live: Live, inner: App, *, generates: bool) -> None:
        self._live, self._inner, self._generates = live, inner, generates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self._inner(scope, receive, send)
            return
        try:
            raw = await read_body(scope, receive, self._live.body_limit_bytes)
        except ClientGone:
            return  # nobody waits for an answer to half a request
        try:
            body = parse_json(raw)
        except InvalidRequest:
            body = None  # it is refused, and journalled, where chats are read
        if body is not None and asks_nothing(body, generates=self._generates):
            await send_whole(send, 200, [], self._loaded(body, key_of(scope["gateway"])))
        else:
            await self._inner(scope, _again(raw, receive), send)

    def _loaded(self, body: Json, key: KeyInfo | None) -> bytes:
        """Raises: InvalidRequest, UnknownModel."""
        name = model_of(body)
        gateway = self._live.seen_by(self._live.gateway, key)
        if (meant := known_name(gateway, name)) not in gateway.policies:
            gateway.model(meant)
        reason = "unload" if _is_none(body.get("keep_alive")) else "load"
        return LineWriter(RequestTrace(), name, generates=self._generates, shows_thinking=False).loaded(reason)


def _again(raw: bytes, receive: Receive) -> Receive:
    """A body that has been read, to be read once more."""
    messages = [{"type": "http.request", "body": raw, "more_body": False}]

    async def receive_again() -> MutableMapping[str, Any]:
        return messages.pop() if messages else await receive()

    return receive_again


def _is_none(keep_alive: object) -> bool:
    if isinstance(keep_alive, str):
        return NOT_AT_ALL.fullmatch(keep_alive) is not None
    return keep_alive is not None and keep_alive is not False and keep_alive == 0
