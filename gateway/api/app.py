"""The application: FastAPI for everything, the chat route in front of it, the door around both."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gateway import __version__
from gateway.api.asgi import App, Receive, Scope, Send, error_headers
from gateway.api.body import ClientGone
from gateway.api.chat import ChatEndpoint
from gateway.api.completions import CompletionsDialect, FimDialect
from gateway.api.dialect import Dialect
from gateway.api.door import Door, Front
from gateway.api.embeddings import EmbeddingsDialect
from gateway.api.envelopes import envelope_of
from gateway.api.lm_studio import lm_studio
from gateway.api.messages import MessagesDialect
from gateway.api.messages_routes import messages
from gateway.api.ollama_routes import ollama, ollama_endpoints
from gateway.api.openai import ChatDialect
from gateway.api.operations import operations
from gateway.api.reply import CLIENT_CLOSED
from gateway.api.rerank import RerankDialect
from gateway.api.responses import ResponsesDialect
from gateway.api.responses_routes import responses
from gateway.api.v1 import v1
from gateway.api.vectors import VectorEndpoint
from gateway.errors import GatewayError, InvalidRequest, MethodNotAllowed, NotFound
from gateway.live import Live
from gateway.runtime import Runtime


def build_app(live: Live, runtime: Runtime, *, open_to_all: bool = False, front: Front | None = None) -> App:
    """The ASGI application of a started runtime."""
    if runtime.keys is None or runtime.responses is None:
        raise ValueError("the runtime has not been started")
    of_responses = ResponsesDialect(runtime.responses)
    dialects: dict[str, Dialect] = {"/v1/chat/completions": ChatDialect(live), "/v1/responses": of_responses}
    dialects["/v1/messages"] = MessagesDialect()
    dialects |= {"/v1/completions": CompletionsDialect(live), "/v1/fim/completions": FimDialect(live)}
    endpoints: dict[str, App] = {p: ChatEndpoint(live, runtime.metrics, dialect) for p, dialect in dialects.items()}
    endpoints |= ollama_endpoints(live, runtime)
    endpoints["/v1/embeddings"] = VectorEndpoint(live, runtime.metrics, EmbeddingsDialect())
    endpoints["/v1/rerank"] = VectorEndpoint(live, runtime.metrics, RerankDialect())
    api = FastAPI(
        title="Onion Gateway",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    api.include_router(operations(live, runtime))
    api.include_router(v1(live, runtime))
    api.include_router(responses(live, runtime.responses, of_responses))
    api.include_router(messages(live))
    api.include_router(ollama(live, runtime))
    api.include_router(lm_studio(live, runtime))
    _answer_errors(api)

    def dispatch(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        endpoint = endpoints.get(scope["path"]) if scope["type"] == "http" else None
        return (endpoint or api)(scope, receive, send)

    return Door(dispatch, runtime.keys, live, open_to_all=open_to_all, front=front)


def _answer_errors(api: FastAPI) -> None:
    def reply(request: Request, error: GatewayError) -> Response:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in error_headers(error)}
        return Response(envelope_of(request.url.path)(error), error.status, headers, "application/json")

    @api.exception_handler(GatewayError)
    async def ours(request: Request, error: GatewayError) -> Response:
        return reply(request, error)

    @api.exception_handler(Exception)
    async def nobodys(request: Request, error: Exception) -> Response:
        return reply(request, GatewayError("internal error"))

    @api.exception_handler(ClientGone)
    async def of_nobody(request: Request, error: ClientGone) -> Response:
        return Response(status_code=CLIENT_CLOSED)

    @api.exception_handler(HTTPException)
    async def of_the_router(request: Request, error: HTTPException) -> Response:
        where = f"{request.method} {request.url.path}"
        if error.status_code == 405:
            return reply(request, MethodNotAllowed(f"{where}: this path takes another method", headers=error.headers))
        return reply(request, NotFound(f"there is no {where}"))

    @api.exception_handler(RequestValidationError)
    async def of_a_field(request: Request, error: RequestValidationError) -> Response:
        first: dict[str, Any] = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
        return reply(request, InvalidRequest(str(first["msg"]), param=param or None))
