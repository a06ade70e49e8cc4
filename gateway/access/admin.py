"""Who may look after the gateway and other people's keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.errors import Forbidden


def require_admin(caller: Mapping[str, Any]) -> None:
    """Args: `caller` is `scope["gateway"]`. Raises: Forbidden."""
    if not may_see_all(caller):
        raise Forbidden("this wants a key with the admin scope: `gateway keys create --admin`, or `gateway keys set`")


def may_see_all(caller: Mapping[str, Any]) -> bool:
    """Or only what is its own? Where no keys are asked for, who asks is at this machine, unless all are let in."""
    key = caller["info"]
    return bool(key.is_admin) if key is not None else not caller["is_open_to_all"]
