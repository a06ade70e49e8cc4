"""Which tools a chat request offers, and which calls it wants."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]
MAX_NAME = 64  # characters of a function's name, for OpenAI and most others


def part_of(tool: Mapping[str, Any]) -> Json:
    """The object that names a tool or a call, under the key that its type says."""
    part = tool.get("custom" if tool.get("type") == "custom" else "function")
    return part if isinstance(part, dict) else {}


def name_of(call: Mapping[str, Any]) -> str:
    return str(part_of(call).get("name") or "")


def flat_name(name: str, namespace: str | None) -> str:
    """A tool's name in a chat, which knows no namespaces. The same for the same tool in every turn."""
    if not namespace:
        return name
    flat = f"{namespace}{name}" if namespace.endswith("__") else f"{namespace}__{name}"
    if len(flat) <= MAX_NAME:
        return flat
    return f"{flat[: MAX_NAME - 9]}_{hashlib.sha256(flat.encode()).hexdigest()[:8]}"


def tools_of(body: Mapping[str, Any]) -> dict[str, Json]:
    """The request's tools by name, those of the legacy `functions` too."""
    tools = objects_in(body.get("tools"))
    tools += [{"type": "function", "function": function} for function in objects_in(body.get("functions"))]
    return {name_of(tool): tool for tool in tools}


def objects_in(items: object) -> list[Json]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def wanted_calls(body: Mapping[str, Any]) -> frozenset[str] | None:
    """Names one of which must be called; empty where any will do, None where no call is needed."""
    choice = body.get("tool_choice") or body.get("function_call")
    if choice == "required":
        return frozenset()
    if not isinstance(choice, dict):
        return None
    if choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        if not isinstance(allowed, dict) or allowed.get("mode") != "required":
            return None
        return frozenset(map(name_of, objects_in(allowed.get("tools"))))
    return frozenset({name_of(choice) or str(choice.get("name"))})
