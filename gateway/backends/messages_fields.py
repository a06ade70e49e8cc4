"""What a chat asks for beside its messages, in the words of Anthropic's Messages API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.backends.dialects import CHAT_FIELDS, Lost, is_missed, objects, text_in
from gateway.backends.messages_schema import closed_schema
from gateway.chat import Json
from gateway.errors import InvalidRequest
from gateway.tools import name_of

SAME = frozenset({"temperature", "top_p"})
ITS_OWN = frozenset(  # of its own fields those that chat clients send it too, as litellm takes them
    "cache_control container context_management inference_geo mcp_servers output_config speed thinking top_k".split()
)
TRANSLATED = frozenset(
    "max_completion_tokens max_tokens metadata parallel_tool_calls reasoning_effort response_format safety_identifier "
    "service_tier stop temperature tool_choice tools top_p user".split()
)
EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}
BUDGETS = {"low": 1024, "medium": 4096, "high": 16384, "xhigh": 32000, "max": 32000}  # tokens of thinking
LEAST_BUDGET = 1024
MAX_SCHEMA_BYTES = 256 * 1024  # a megabyte takes seconds
ADAPTIVE = re.compile(r"claude-(?:[a-z]+-4-[6-9](?!\d)|[a-z]+-(?:[5-9]|\d\d)(?!\d)|[a-z]+-preview)")
SERVICE_TIERS = {"auto": "auto", "default": "standard_only"}
WORDS_OF_CHOICE = {"auto": "auto", "none": "none", "required": "any"}


def fields_of(body: Mapping[str, Any], own: frozenset[str], lost: Lost) -> Json:
    """All but the messages, the limit and how much is to be thought.

    Args: `own`: fields that the model's entry set: what is no chat's is sent as it stands there.
    """
    out: Json = {}
    for name, value in body.items():
        if value is None or name in TRANSLATED:
            continue
        if name in ITS_OWN or (name in own and name not in CHAT_FIELDS):
            out[name] = value
        elif is_missed(name, value):
            lost.add(name)
    _add_sampling(body, out, lost)
    _add_tools(body, out, lost)
    _add_format(body, out, lost)
    _add_user(body, out, lost)
    return out


def _add_sampling(body: Mapping[str, Any], out: Json, lost: Lost) -> None:
    temperature, top_p = body.get("temperature"), body.get("top_p")
    if isinstance(temperature, int | float):
        out["temperature"] = min(temperature, 1)  # OpenAI's goes up to 2
    if top_p is not None and temperature is None:
        out["top_p"] = top_p
    elif is_missed("top_p", top_p):
        lost.add("top_p")  # its models take one of the two
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    visible = [text for text in stops if isinstance(text, str) and text.strip()]
    if visible:
        out["stop_sequences"] = visible
    if len(visible) < len(stops):
        lost.add("stop")  # white space alone is refused
    tier = body.get("service_tier")
    if tier in SERVICE_TIERS:
        out["service_tier"] = SERVICE_TIERS[tier]
    elif tier is not None:
        lost.add("service_tier")


def _add_user(body: Mapping[str, Any], out: Json, lost: Lost) -> None:
    metadata = body.get("metadata")
    said = metadata if isinstance(metadata, Mapping) else {}
    user = text_in(said.get("user_id")) or text_in(body.get("user")) or text_in(body.get("safety_identifier"))
    if user:
        out["metadata"] = {"user_id": user}
    if any(name != "user_id" for name in said):
        lost.add("metadata")


# -- tools ---------------------------------------------------------------------------------------------------------


def _add_tools(body: Mapping[str, Any], out: Json, lost: Lost) -> None:
    tools, choice = objects(body.get("tools")), body.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        said = allowed if isinstance(allowed, Mapping) else {}
        names = set(map(name_of, objects(said.get("tools"))))
        tools = [tool for tool in tools if name_of(tool) in names]
        choice = said.get("mode")
    taken = [there for tool in tools if (there := _tool(tool, lost)) is not None]
    if not taken:
        return
    out["tools"] = taken
    chosen = _choice(choice, {tool["name"] for tool in taken})
    if chosen is None and choice is not None:
        lost.add("tool_choice")
    if body.get("parallel_tool_calls") is False and (chosen or {}).get("type") != "none":
        chosen = {**(chosen or {"type": "auto"}), "disable_parallel_tool_use": True}
    if chosen is not None and chosen != {"type": "auto"}:
        out["tool_choice"] = chosen


def _tool(tool: Json, lost: Lost) -> Json | None:
    if text_in(tool.get("name")) and (tool.get("type") != "function" or "input_schema" in tool):
        return tool  # Anthropic's own, and what its provider runs
    function = tool.get("function")
    if not isinstance(function, Mapping) or not text_in(function.get("name")):
        lost.add(f"tools[].{text_in(tool.get('type')) or 'type'}")
        return None
    parameters = function.get("parameters")
    schema = parameters if isinstance(parameters, Mapping) else {"properties": {}}
    out: Json = {"name": function["name"], "input_schema": {"type": "object", **schema}}
    if text_in(function.get("description")):
        out["description"] = function["description"]
    if function.get("strict"):  # it takes so few of them that agents' lists would be refused
        lost.add("tools[].strict")
    cached = tool.get("cache_control") or function.get("cache_control")
    return {**out, "cache_control": cached} if cached else out


def _choice(choice: object, names: set[str]) -> Json | None:
    if isinstance(choice, str):
        word = WORDS_OF_CHOICE.get(choice)
        return {"type": word} if word else None
    if not isinstance(choice, dict):
        return None
    name = name_of(choice) or text_in(choice.get("name"))
    return {"type": "tool", "name": name} if name in names else None


# -- the answer's form and length ----------------------------------------------------------------------------------


def _add_format(body: Mapping[str, Any], out: Json, lost: Lost) -> None:
    wanted = body.get("response_format")
    said = wanted if isinstance(wanted, Mapping) else {}
    spec = said.get("json_schema")
    schema = spec.get("schema") if isinstance(spec, Mapping) else None
    if said.get("type") == "json_schema" and isinstance(schema, Mapping):
        if len(orjson.dumps(schema)) > MAX_SCHEMA_BYTES:
            message = f"a schema of more than {MAX_SCHEMA_BYTES >> 10} KiB is not translated for this model"
            raise InvalidRequest(message, param="response_format.json_schema.schema")
        form = {"type": "json_schema", "schema": closed_schema(schema)}
        out["output_config"] = {"format": form, **(out.get("output_config") or {})}
    elif is_missed("response_format", wanted):
        lost.add("response_format")


def add_thinking(out: Json, effort: object, model: str, lost: Lost) -> None:
    """How much is to be thought, unless that is said already. `out` has its messages and its limit.

    Models up to 4.5 take a number of tokens, below the limit; none may think while it must call a tool, and those may
    not in the midst of calls that were made without a thought. Later ones find their own measure.
    """
    if effort is None:
        return
    if effort == "none":
        out.setdefault("thinking", {"type": "disabled"})
        return
    word = EFFORTS.get(effort) if isinstance(effort, str) else None
    if word is None:
        lost.add("reasoning_effort")
        return
    must_call = (out.get("tool_choice") or {}).get("type") in ("any", "tool")
    if ADAPTIVE.search(model):
        word = "high" if word == "xhigh" and "-4-6" in model else word  # the one that has max and not this
        out["output_config"] = {"effort": word, **(out.get("output_config") or {})}
        if not must_call:
            out.setdefault("thinking", {"type": "adaptive"})
        return
    if "thinking" in out:
        return
    budget = min(BUDGETS[word], out["max_tokens"] // 2)
    if budget < LEAST_BUDGET or must_call or _calls_without_thought(out["messages"]):
        lost.add("reasoning_effort")
        return
    out["thinking"] = {"type": "enabled", "budget_tokens": budget}


def drop_what_thinking_forbids(out: Json, lost: Lost) -> None:
    if (out.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
        for name in ("temperature", "top_k", "top_p"):
            if out.pop(name, 1) != 1:
                lost.add(name)


def _calls_without_thought(turns: Sequence[Json]) -> bool:
    last = next((turn for turn in reversed(turns) if turn.get("role") == "assistant"), {})
    blocks = objects(last.get("content"))
    calls = any(block.get("type") == "tool_use" for block in blocks)
    return calls and blocks[0].get("type") not in ("thinking", "redacted_thinking")
