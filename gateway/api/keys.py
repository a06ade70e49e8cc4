"""`/v1/key`, a caller's own limits and what it has used; `/v1/admin/keys`, all keys, for those with the admin scope."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gateway.access.admin import require_admin
from gateway.access.keys import KeyInfo, Wanted, change_key, create_key, list_keys, revoke_key, rotate_key
from gateway.api.body import read_body
from gateway.api.entrance import key_of
from gateway.api.openai import parse_json
from gateway.chat import Json
from gateway.errors import InvalidRequest, NotFound
from gateway.live import Live
from gateway.runtime import Runtime
from gateway.store.database import Database

FIELDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "tenant": (str, "a string"),
    "expires": ((int, float), "unix seconds"),
    "admin": (bool, "true or false"),
}


def keys(live: Live, runtime: Runtime) -> APIRouter:
    router = APIRouter(prefix="/v1")

    def database(request: Request) -> Database:
        require_admin(request.scope["gateway"])
        if runtime.database is None:
            raise NotFound("this server keeps no keys")
        return runtime.database

    async def body_of(request: Request) -> Json:
        return parse_json(await read_body(request.scope, request.receive, live.body_limit_bytes) or b"{}")

    async def told(key: KeyInfo) -> Json:
        return key.as_json() | (await runtime.ledger.told(key) if runtime.ledger is not None else {})

    @router.get("/key")
    async def own(request: Request) -> JSONResponse:
        key = key_of(request.scope["gateway"])
        if key is None:
            raise NotFound("this server asks for no keys")
        return JSONResponse({"object": "key", **await told(key)})

    @router.get("/admin/keys")
    async def listed(request: Request) -> JSONResponse:
        found = await list_keys(database(request))
        return JSONResponse({"object": "list", "data": [await told(key) for key in found]})

    @router.post("/admin/keys")
    async def create(request: Request) -> JSONResponse:
        """`{"name", "tenant"?, "expires"?, "admin"?, "limits"?}`; the token is told this once."""
        store, body = database(request), await body_of(request)
        name = body.pop("name", None)
        if not isinstance(name, str):
            raise InvalidRequest("'name' must be a string", param="name")
        key, token = await create_key(store, name, _wanted(body))
        return await answered({"key": token, **await told(key)})

    @router.patch("/admin/keys/{name:path}")
    async def change(request: Request, name: str) -> JSONResponse:
        """What is not named stays; null lifts a limit."""
        key = await change_key(database(request), name, _wanted(await body_of(request)))
        return await answered(await told(key))

    @router.post("/admin/keys/{name:path}/rotate")
    async def rotate(request: Request, name: str) -> JSONResponse:
        store, body = database(request), await body_of(request)
        grace_s = body.get("grace_s", 0)
        if isinstance(grace_s, bool) or not isinstance(grace_s, int | float):
            raise InvalidRequest("'grace_s' must be a number", param="grace_s")
        key, token = await rotate_key(store, name, float(grace_s))
        return await answered({"key": token, **await told(key)})

    @router.delete("/admin/keys/{name:path}")
    async def revoke(request: Request, name: str) -> JSONResponse:
        return await answered(await told(await revoke_key(database(request), name)))

    async def answered(body: Json) -> JSONResponse:
        if runtime.keys is not None:
            await runtime.keys.refresh()  # here it counts at once
        runtime.tell("keys")
        return JSONResponse(body)

    return router


def _wanted(body: Json) -> Wanted:
    """Raises: InvalidRequest."""
    limits = body.pop("limits", {})
    if not isinstance(limits, dict):
        raise InvalidRequest("'limits' must be an object", param="limits")
    said: dict[str, Any] = {}
    for name, value in body.items():
        if name not in FIELDS:
            known = ", ".join(["limits", *FIELDS])
            raise InvalidRequest(f"a key has no '{name[:64]}'; it has {known}", param=name[:64])
        wanted, words = FIELDS[name]
        is_none = value is None and name != "admin"
        if not is_none and (not isinstance(value, wanted) or (isinstance(value, bool) and name != "admin")):
            raise InvalidRequest(f"'{name}' must be {words}", param=name)
        said["is_admin" if name == "admin" else name] = value
    return Wanted(limits=limits, **said)
