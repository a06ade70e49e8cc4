"""The application: FastAPI for everything, the chat route in front of it, the door around both."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from gateway import __version__
from gateway.api.asgi import App, Receive, Scope, Send, error_headers
from gateway.api.body import ClientGone
from gateway.api.chat import CLIENT_CLOSED, ChatEndpoint
from gateway.api.dialect import Dialect
from gateway.api.door import Door
from gateway.api.envelopes import envelope_of
from gateway.api.openai import ChatDialect
from gateway.api.operations import operations
from gateway.api.v1 import v1
from gateway.errors import GatewayError, InvalidRequest, MethodNotAllowed, NotFound
from gateway.live import Live
from gateway.runtime import Runtime


def build_app(live: Live, runtime: Runtime, *, open_to_all: bool = False) -> App:
    """The ASGI application of a started runtime."""
    if runtime.keys is None:
        raise ValueError("the runtime has not been started")
    dialects: dict[str, Dialect] = {"/v1/chat/completions": ChatDialect()}
    endpoints = {path: ChatEndpoint(live, runtime.metrics, dialect) for path, dialect in dialects.items()}
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
    _answer_errors(api)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = endpoints.get(scope["path"]) if scope["type"] == "http" else None
        await (endpoint or api)(scope, receive, send)

    return Door(dispatch, runtime.keys, open_to_all=open_to_all)


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
