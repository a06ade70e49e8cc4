"""What Anthropic's clients ask beside messages: how many tokens, and which models."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gateway.api.body import read_body
from gateway.api.counting import count_input
from gateway.api.entrance import key_of
from gateway.api.messages import parse_messages
from gateway.chat import Json
from gateway.live import Live


def messages(live: Live) -> APIRouter:
    router = APIRouter(prefix="/v1/messages")

    @router.post("/count_tokens")
    async def count_tokens(request: Request) -> JSONResponse:
        """Tokens of a request, as the model counts them that would be asked first. Nothing is generated."""
        caller = request.scope["gateway"]
        raw = await read_body(request.scope, request.receive, live.body_limit_bytes)
        chat = parse_messages(raw, caller["headers"], caller["key"], only_counts=True)
        with live.use(key_of(caller)) as gateway:
            count = await count_input(gateway, chat)
        return JSONResponse({"input_tokens": count.tokens, "gateway": {"estimated": count.estimated}})

    return router


def anthropic_model(entry: Json) -> Json:
    """An entry of `/v1/models` in Anthropic's words."""
    created_at = datetime.fromtimestamp(entry["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": entry["id"],
        "created_at": created_at,
        "lifecycle": "active",
        "max_input_tokens": entry["gateway"].get("context"),
        "gateway": entry["gateway"],
    }


def anthropic_models(entries: Sequence[Json]) -> Json:
    """All of them, in one page."""
    data = [anthropic_model(entry) for entry in entries]
    first_id, last_id = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "has_more": False, "first_id": first_id, "last_id": last_id}
