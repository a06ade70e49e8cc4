"""`GET /v1/shards/feed`: what this node publishes, for gateways that subscribe to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from gateway.api.entrance import key_of
from gateway.errors import InvalidRequest, NotFound
from gateway.shards import OPERATOR
from gateway.shards.sharing.feed import LIMIT, MAX_LIMIT, MAX_NONCE, PATH, Feed

MAX_REVISION = 2**63 - 1


def shard_feed(feed_now: Callable[[], Feed | None]) -> APIRouter:
    """To be included before any route of `/v1/shards/{id}`. `feed_now`: None while nothing is published."""
    router = APIRouter()

    @router.api_route(PATH, methods=["GET", "HEAD"])
    async def pages(
        request: Request,
        after: Annotated[int, Query(ge=0, le=MAX_REVISION)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = LIMIT,
    ) -> Response:
        """`?after=REVISION&limit=N`. `x-gateway-nonce` is signed with the page; `If-None-Match` is heeded."""
        feed = feed_now()
        if feed is None:
            raise NotFound("this gateway publishes no shards: its models.yaml says so with `shards: {publish: true}`")
        caller = request.scope["gateway"]
        nonce = caller["headers"].get("x-gateway-nonce", "")
        if len(nonce) > MAX_NONCE or not nonce.isascii() or not nonce.isprintable():
            raise InvalidRequest(f"a nonce is at most {MAX_NONCE} printable characters", param="x-gateway-nonce")
        key = key_of(caller)
        tenant = key.tenant if key is not None else OPERATOR
        page = await feed.page(tenant, after, limit, nonce)
        headers = {"etag": page.etag, "cache-control": "private, no-cache", "vary": "authorization, x-api-key, api-key"}
        known = {tag.strip() for tag in caller["headers"].get("if-none-match", "").split(",")}
        if page.etag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        headers["x-gateway-signature"] = page.signature
        return Response(page.body, headers=headers, media_type="application/json")

    return router
