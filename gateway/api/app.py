"""The application: what asks models and tells how it runs as plain ASGI, FastAPI for the rest, the door around both."""

from __future__ import annotations

from collections.abc import Awaitable

from gateway.api.asgi import App, Receive, Scope, Send
from gateway.api.chat import ChatEndpoint
from gateway.api.completions import CompletionsDialect, FimDialect
from gateway.api.deferred import Deferred
from gateway.api.dialect import Dialect
from gateway.api.door import Door, Front
from gateway.api.embeddings import EmbeddingsDialect
from gateway.api.messages import MessagesDialect
from gateway.api.ollama_endpoints import ollama_endpoints
from gateway.api.openai import ChatDialect
from gateway.api.operations import operations
from gateway.api.rerank import RerankDialect
from gateway.api.responses import ResponsesDialect
from gateway.api.vectors import VectorEndpoint
from gateway.live import Live
from gateway.runtime import Runtime


def build_app(
    live: Live, runtime: Runtime, *, rest: App | None = None, open_to_all: bool = False, front: Front | None = None
) -> App:
    """The ASGI application of a started runtime. `rest`: what `deferred_rest` gives, where the caller sees to when it
    is built."""
    if runtime.keys is None:
        raise ValueError("the runtime has not been started")
    endpoints = plain_endpoints(live, runtime)
    others = rest or deferred_rest(live, runtime)

    def dispatch(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        endpoint = endpoints.get(scope["path"]) if scope["type"] == "http" else None
        return (endpoint or others)(scope, receive, send)

    return Door(dispatch, runtime.keys, live, runtime.telemetry.sampling, open_to_all=open_to_all, front=front)


def plain_endpoints(live: Live, runtime: Runtime) -> dict[str, App]:
    """What does without FastAPI, by path: what asks models, and what tells how the server is."""
    if runtime.responses is None:
        raise ValueError("the runtime has not been started")
    dialects: dict[str, Dialect] = {"/v1/chat/completions": ChatDialect(live)}
    dialects["/v1/responses"] = ResponsesDialect(runtime.responses)
    dialects["/v1/messages"] = MessagesDialect()
    dialects |= {"/v1/completions": CompletionsDialect(live), "/v1/fim/completions": FimDialect(live)}
    endpoints: dict[str, App] = {p: ChatEndpoint(live, runtime, dialect) for p, dialect in dialects.items()}
    endpoints |= ollama_endpoints(live, runtime)
    endpoints["/v1/embeddings"] = VectorEndpoint(live, runtime, EmbeddingsDialect())
    endpoints["/v1/rerank"] = VectorEndpoint(live, runtime, RerankDialect())
    return endpoints | operations(live, runtime)


def deferred_rest(live: Live, runtime: Runtime) -> Deferred:
    """All other routes. FastAPI takes a third of a second to import."""

    def build() -> App:
        from gateway.api.fastapi_app import fastapi_app

        return fastapi_app(live, runtime)

    return Deferred(build)
