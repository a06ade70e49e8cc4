"""`tool_arguments`: the model was shown the request's tools; its calls are of these, with arguments that fit, and are
there where they must be."""

from collections.abc import Mapping

import orjson
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Json, Verdict
from gateway.checks import STRICT, Watch, check
from gateway.checks.choices import calls_of, judge
from gateway.checks.growing_json import GrowingJson, Guide
from gateway.checks.schema import SchemaError, client_schema
from gateway.checks.watches import CallsWatch
from gateway.draft import ChoiceDraft, Draft
from gateway.tools import name_of, part_of, tools_of, wanted_calls
from gateway.trace import Trace


@check("tool_arguments", needs=("tools", "functions"))
@dataclass(frozen=True, config=STRICT)
class ToolArguments:
    def watch(self, request: ChatRequest) -> Watch:
        tools = tools_of(request.body)

        def begin(name: str) -> GrowingJson | str:
            if name not in tools:
                return "a call of a tool that the request does not have"
            parameters = part_of(tools[name]).get("parameters")
            guide = Guide(parameters) if isinstance(parameters, (dict, bool)) else None
            return GrowingJson(guide, only_object=True)

        return CallsWatch(begin)

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        asked = list(trace.models())
        if asked and "tools" in asked[-1].dropped:
            return Verdict(False, "the model cannot call tools")
        if not draft.complete:
            return PASSED
        tools, wanted = tools_of(request.body), wanted_calls(request.body)

        def fault(choice: ChoiceDraft) -> str | None:
            calls = calls_of(choice)
            if wanted is not None and not any(not wanted or name_of(call) in wanted for call in calls):
                return f"no call to {' or '.join(sorted(wanted))}" if wanted else "no tool call, though one is required"
            return next((reason for call in calls if (reason := fault_of(call, tools)) is not None), None)

        return judge(draft, fault)


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
