"""The smaller routes of the Responses API: what was stored, and counting."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response

from gateway.api.body import read_body
from gateway.api.counting import count_input
from gateway.api.entrance import key_of
from gateway.api.openai import parse_json
from gateway.api.responses import ResponsesDialect
from gateway.api.responses_items import without_seal
from gateway.api.responses_reply import SEALED
from gateway.chat import Json
from gateway.errors import InvalidRequest, NotFound
from gateway.live import Live
from gateway.store.responses import ResponseStore, Stored

DEFAULT_LIMIT, MOST = 20, 100
DEFAULT_MODEL = "auto"


def responses(live: Live, store: ResponseStore, dialect: ResponsesDialect) -> APIRouter:
    router = APIRouter(prefix="/v1/responses")

    async def find(request: Request, name: str) -> Stored:
        stored = await store.get(name, request.scope["gateway"]["key"])
        if stored is None:
            raise _unknown(name)
        return stored

    @router.post("/input_tokens")
    async def input_tokens(request: Request) -> Response:
        """The size of a request, which is not answered."""
        body = parse_json(await read_body(request.scope, request.receive, live.body_limit_bytes))
        if body.get("model") is None:
            body["model"] = DEFAULT_MODEL
        found = await dialect.understand(body, request.scope["gateway"])
        with live.use(key_of(request.scope["gateway"])) as gateway:
            count = await count_input(gateway, found.request)
        out: Json = {"object": "response.input_tokens", "input_tokens": count.tokens}
        return _json({**out, "gateway": {"estimated": count.estimated}})

    @router.get("/{name}")
    async def retrieve(request: Request, name: str) -> Response:
        stored = await find(request, name)
        if request.query_params.get("stream", "false").lower() not in ("false", "0", ""):
            raise InvalidRequest("a stored response cannot be streamed again: leave 'stream' out", param="stream")
        response = stored.response
        if SEALED not in _included(request):
            response = {**response, "output": [without_seal(item) for item in response["output"]]}
        return _json(response)

    @router.delete("/{name}")
    async def delete(request: Request, name: str) -> Response:
        if not await store.delete(name, request.scope["gateway"]["key"]):
            raise _unknown(name)
        return _json({"id": name, "object": "response", "deleted": True})

    @router.get("/{name}/input_items")
    async def input_items(request: Request, name: str) -> Response:
        """All that the response was made from: the conversation before it too."""
        stored = await find(request, name)
        key = request.scope["gateway"]["key"]
        before = await store.chain(stored.previous, key) if stored.previous else None
        items = [*(item for one in before or () for item in one.items), *stored.input]
        if SEALED not in _included(request):
            items = [without_seal(item) for item in items]
        return _json(_page(items, request))

    return router


def _json(data: Json) -> Response:
    return Response(orjson.dumps(data), media_type="application/json")


def _unknown(name: str) -> NotFound:
    return NotFound(f"no response is called '{name[:100]}'", param="response_id")


def _included(request: Request) -> list[str]:
    return [*request.query_params.getlist("include"), *request.query_params.getlist("include[]")]


def _page(items: list[Json], request: Request) -> Json:
    """Raises: InvalidRequest."""
    query = request.query_params
    limit, order, after = query.get("limit", str(DEFAULT_LIMIT)), query.get("order", "desc"), query.get("after")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:5]) <= MOST):
        raise InvalidRequest(f"'limit' must be an integer between 1 and {MOST}", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be asc or desc", param="order")
    if order == "desc":
        items = items[::-1]
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise InvalidRequest(f"no item is called '{after[:100]}'", param="after")
        items = items[places[0] + 1 :]
    page = items[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > len(page),
    }
