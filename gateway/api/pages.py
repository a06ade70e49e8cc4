"""Lists in pages, as OpenAI's clients walk them."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.chat import Json
from gateway.errors import InvalidRequest


def page_of(items: Sequence[Json], after: str | None, limit: int, most: int) -> Json:
    """Those that follow the one called `after`. Raises: InvalidRequest."""
    if not 1 <= limit <= most:
        raise InvalidRequest(f"'limit' must be from 1 to {most}", param="limit")
    start = 0
    if after is not None:
        start = next((n + 1 for n, item in enumerate(items) if item["id"] == after), -1)
        if start < 0:
            raise InvalidRequest(f"'after' names nothing in this list: '{after[:64]}'", param="after")
    page = list(items[start : start + limit])
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return {"object": "list", "data": page, "has_more": start + limit < len(items), **ends}
