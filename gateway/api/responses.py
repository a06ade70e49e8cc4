"""OpenAI's Responses API, read: a body as a chat request, with the conversation that it goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.api.asgi import Scope
from gateway.api.openai import check_fields, hops_of, parse_json
from gateway.api.responses_chat import Chat, as_chat
from gateway.api.responses_input import items_of
from gateway.api.responses_items import response_of
from gateway.api.responses_reply import Asked, ResponsesWriter
from gateway.chat import ChatRequest, Json
from gateway.errors import InvalidRequest
from gateway.store.responses import ResponseStore, Stored
from gateway.trace import RequestTrace


class UnknownResponse(InvalidRequest):
    code = "previous_response_not_found"


@dataclass(frozen=True)
class Understood:
    """A request, as a chat and as it was asked. `items`: the input, without what went before it."""

    request: ChatRequest
    chat: Chat
    items: list[Json]


class ResponsesDialect:
    """`POST /v1/responses`"""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store

    async def read(self, raw: bytes, scope: Scope, trace: RequestTrace) -> tuple[ChatRequest, ResponsesWriter]:
        caller = scope["gateway"]
        body = parse_json(raw)
        if caller["model"] is not None:
            body["model"] = caller["model"]
        found = await self.understand(body, caller)
        keeps = body.get("store") is not False
        asked = Asked(body, found.items, found.chat.tools, self._store if keeps else None)
        return found.request, ResponsesWriter(trace, asked)

    async def understand(self, body: Json, caller: Mapping[str, Any]) -> Understood:
        """Raises: InvalidRequest, with `param` naming the field at fault."""
        items = items_of(body.get("input"))
        before = await self._before(body.get("previous_response_id"), caller["key"])
        items = [await self._followed(item, f"input[{i}]", caller["key"]) for i, item in enumerate(items)]
        chat = as_chat(body, items, before)
        check_fields(chat.body)
        headers = caller["headers"]
        request = ChatRequest(chat.body, headers=headers, key=caller["key"], hops=hops_of(headers), extra=chat.extra)
        return Understood(request, chat, items)

    async def _before(self, previous: Any, key: str | None) -> list[Json]:
        """All items of the conversation so far."""
        if previous is None:
            return []
        if not isinstance(previous, str):
            raise InvalidRequest("'previous_response_id' must be a string", param="previous_response_id")
        chain = await self._store.chain(previous, key)
        if chain is None:
            message = f"no response is called '{previous[:100]}': it was not stored, has been deleted, or is too old"
            raise UnknownResponse(message, param="previous_response_id")
        return [item for stored in chain for item in stored.items]

    async def _followed(self, item: Json, where: str, key: str | None) -> Json:
        """What an `item_reference` stands for; any other item as it is."""
        if item["type"] != "item_reference":
            return item
        wanted = item.get("id")
        if not isinstance(wanted, str):
            raise InvalidRequest("an item reference needs a string in 'id'", param=f"{where}.id")
        response = response_of(wanted)
        stored: Stored | None = await self._store.get(response, key) if response else None
        for one in stored.items if stored else ():
            if one.get("id") == wanted:
                return one
        raise InvalidRequest(
            f"no item is called '{wanted[:100]}': its response was not stored, has been deleted, or is too old",
            param=f"{where}.id",
        )
