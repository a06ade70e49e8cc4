"""`tool_arguments`: calls are of the request's tools, with arguments that fit, and are there where they must be."""

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, ChoiceDraft, Draft, Json, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import calls_of, judge
from gateway.checks.schema import SchemaError, client_schema
from gateway.trace import Trace


@check("tool_arguments")
@dataclass(frozen=True, config=STRICT)
class ToolArguments:
    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        if not draft.complete:
            return PASSED
        tools, wanted = tools_of(request.body), wanted_calls(request.body)

        def fault(choice: ChoiceDraft) -> str | None:
            calls = calls_of(choice)
            if wanted is not None and not any(not wanted or name_of(call) in wanted for call in calls):
                return f"no call to {' or '.join(sorted(wanted))}" if wanted else "no tool call, though one is required"
            return next((reason for call in calls if (reason := fault_of(call, tools)) is not None), None)

        return judge(draft, fault)


def part_of(tool: Mapping[str, Any]) -> Json:
    """The object that names a tool or a call, under the key that its type says."""
    part = tool.get("custom" if tool.get("type") == "custom" else "function")
    return part if isinstance(part, dict) else {}


def name_of(call: Mapping[str, Any]) -> str:
    return str(part_of(call).get("name") or "")


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


def fault_of(call: Json, tools: Mapping[str, Json]) -> str | None:
    name = name_of(call)
    tool = tools.get(name)
    if tool is None:
        return "a call of a tool that the request does not have"
    if call.get("type") == "custom":
        return None  # its input is free text
    try:
        arguments = orjson.loads(part_of(call).get("arguments") or "")
    except orjson.JSONDecodeError as exc:
        return f"arguments of {name} are not JSON: {exc.msg} at character {exc.pos}"
    if not isinstance(arguments, dict):
        return f"arguments of {name} are not a JSON object"
    parameters = part_of(tool).get("parameters")
    if not isinstance(parameters, (dict, bool)):
        return None
    try:
        reason = client_schema(parameters).fault(arguments, len(part_of(call)["arguments"]))
    except SchemaError as exc:
        return f"{name}: {exc}"
    return reason and f"arguments of {name}: {reason}"
