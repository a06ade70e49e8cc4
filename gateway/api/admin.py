"""/v1/admin: how the server runs, for those who run it."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from gateway.access.admin import require_admin
from gateway.api.body import read_body
from gateway.api.openai import parse_json
from gateway.errors import InvalidRequest
from gateway.telemetry.logs import LEVELS, Log

MAX_BODY = 4096


async def _only_admins(request: Request) -> None:
    require_admin(request.scope["gateway"])


def admin(log: Log) -> APIRouter:
    router = APIRouter(prefix="/v1/admin", dependencies=[Depends(_only_admins)])

    @router.get("/log-level")
    async def level() -> JSONResponse:
        """The level, and those loggers that have one of their own."""
        return JSONResponse(log.shown())

    @router.put("/log-level")
    async def set_level(request: Request) -> JSONResponse:
        """`{"level": "debug", "logger"?: "gateway.api"}`; null gives a logger the level of the one above it."""
        body = parse_json(await read_body(request.scope, request.receive, MAX_BODY))
        level, logger = body.get("level"), body.get("logger")
        if "level" not in body or not (level is None or level in tuple(LEVELS)):
            raise InvalidRequest(f"'level' must be one of {', '.join(LEVELS)}", param="level")
        if not (logger is None or isinstance(logger, str)):
            raise InvalidRequest("'logger' must be the name of a logger", param="logger")
        log.set(level, logger)
        return JSONResponse(log.shown())

    return router
