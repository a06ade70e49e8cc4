"""The FastAPI application: every route that does not ask a model."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from gateway import __version__
from gateway.api.admin import admin
from gateway.api.asgi import error_headers
from gateway.api.body import ClientGone
from gateway.api.envelopes import envelope_of
from gateway.api.files import files
from gateway.api.fine_tuning import fine_tuning
from gateway.api.keys import keys
from gateway.api.lm_studio import lm_studio
from gateway.api.messages_routes import messages
from gateway.api.ollama_routes import ollama
from gateway.api.openapi import document
from gateway.api.reply import CLIENT_CLOSED
from gateway.api.responses import ResponsesDialect
from gateway.api.responses_routes import responses
from gateway.api.shard_feed import shard_feed
from gateway.api.shards import shards
from gateway.api.unexpected import unexpected
from gateway.api.usage import usage_routes
from gateway.api.v1 import v1
from gateway.errors import GatewayError, InvalidRequest, MethodNotAllowed, NotFound
from gateway.live import Live
from gateway.runtime import Runtime
from gateway.shards.sharing.feed import Feed


def fastapi_app(live: Live, runtime: Runtime) -> FastAPI:
    if runtime.responses is None:
        raise ValueError("the runtime has not been started")
    api = FastAPI(
        title="Onion Gateway",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        # newer ones export spans of their own, to wherever OTEL_EXPORTER_OTLP_ENDPOINT says
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    api.include_router(keys(live, runtime))
    api.include_router(v1(live, runtime))
    api.include_router(usage_routes(live, runtime))
    api.include_router(responses(live, runtime.responses, ResponsesDialect(runtime.responses)))
    if runtime.database is not None and runtime.bookcase.opened is not None:
        sharing = runtime.bookcase
        feeds = {
            again: Feed(runtime.database, runtime.bookcase.opened.store, runtime.home, republish=again)
            for again in (False, True)
        }

        def feed() -> Feed | None:
            said = sharing.orders.sharing
            return feeds[said.republishes] if said.publishes else None

        api.include_router(shard_feed(feed))
    api.include_router(shards(live, runtime))
    api.include_router(files(live, runtime))
    api.include_router(fine_tuning(live, runtime))
    api.include_router(messages(live))
    api.include_router(ollama(live, runtime))
    api.include_router(lm_studio(live, runtime))
    api.include_router(admin(runtime.log))

    @api.get("/openapi.json")
    async def openapi() -> JSONResponse:
        return JSONResponse(document())

    _answer_errors(api)
    return api


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

    @api.exception_handler(OperationalError)
    @api.exception_handler(OSError)
    async def of_the_disk(request: Request, error: Exception) -> Response:
        return reply(request, unexpected(error, request.scope["gateway"]["id"]))

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
