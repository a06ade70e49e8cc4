"""A chat as OpenAI's Responses API takes it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from gateway.backends.dialects import CHAT_FIELDS, Lost, is_missed, limit_of, objects, text_in
from gateway.chat import Json
from gateway.providers import DO_NOT_REASON
from gateway.tools import name_of, part_of

SAME = frozenset(
    "metadata parallel_tool_calls prompt_cache_key prompt_cache_retention safety_identifier service_tier temperature "
    "top_logprobs top_p user".split()
)
ITS_OWN = frozenset(  # of its own fields those that chat clients may send it too
    "context_management include max_tool_calls moderation prompt_cache_options reasoning text truncation".split()
)
TRANSLATED = frozenset(
    "logprobs max_completion_tokens max_tokens reasoning_effort response_format store tool_choice tools "
    "verbosity".split()
)
SEALED_REASONING, LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"
DOES_NOT_REASON = re.compile(rf"(?:.*/)?(?:ft:)?{DO_NOT_REASON}")
LEAST_ANSWER = 16  # tokens: fewer are refused
NO_PARAMETERS: Json = {"type": "object", "properties": {}}

Pieces = Callable[[Json], Sequence[Json] | None]
"""The items that a message was made of; None where it is to be translated."""


def nothing_known(message: Json) -> None:
    return None


# -- messages ------------------------------------------------------------------------------------------------------


def items_of(messages: Sequence[Json], lost: Lost, pieces: Pieces = nothing_known) -> list[Json]:
    items: list[Json] = []
    for message in messages:
        known = pieces(message)
        items += _items(message, lost) if known is None else map(_as_new, filter(is_replayable, known))
    return items


def is_replayable(item: Json) -> bool:
    """Reasoning is taken back in its seal only: nothing of it is kept at the upstream."""
    return item.get("type") != "reasoning" or bool(text_in(item.get("encrypted_content")))


def _as_new(item: Json) -> Json:
    """Ids name what an upstream keeps. Reasoning has to have the one that it came with."""
    if item.get("type") == "reasoning" or "id" not in item:
        return item
    return {name: value for name, value in item.items() if name != "id"}


def _items(message: Json, lost: Lost) -> list[Json]:
    for name in ("name", "function_call", "audio"):
        if message.get(name):
            lost.add(f"messages[].{name}")
    role, content = message.get("role"), message.get("content")
    if role == "tool":
        output = content if isinstance(content, str) else _parts(content) or ""
        return [{"type": "function_call_output", "call_id": str(message.get("tool_call_id") or ""), "output": output}]
    if role == "assistant":
        thoughts = [item for item in objects(message.get("reasoning_items")) if is_replayable(item)]
        return [*thoughts, *_said(message), *map(_call, objects(message.get("tool_calls")))]
    role = role if role in ("developer", "system") else "user"
    return [{"type": "message", "role": role, "content": content if isinstance(content, str) else _parts(content)}]


def _said(message: Json) -> list[Json]:
    content = message.get("content")
    parts = [content] if isinstance(content, str) else [_text_of(part) for part in objects(content)]
    text = "\n".join(filter(None, (*parts, text_in(message.get("refusal")))))
    return [{"type": "message", "role": "assistant", "content": text}] if text else []


def _text_of(part: Json) -> str:
    return text_in(part.get("refusal" if part.get("type") == "refusal" else "text"))


def _call(call: Json) -> Json:
    """A custom tool's input, too, as the arguments of a function: a chat's results do not say which they answer."""
    part = part_of(call)
    arguments = text_in(part.get("arguments")) or "{}"
    if call.get("type") == "custom":
        arguments = orjson.dumps({"input": text_in(part.get("input"))}).decode()
    id = str(call.get("id") or "")
    return {"type": "function_call", "call_id": id, "name": name_of(call), "arguments": arguments}


def _parts(content: object) -> list[Json]:
    return [_part(part) for part in objects(content)]


def _part(part: Json) -> Json:
    kind = part.get("type")
    if kind in ("text", "refusal"):
        return {"type": "input_text", "text": _text_of(part)}
    if kind == "image_url":
        image = part.get("image_url")
        said = image if isinstance(image, Mapping) else {"url": image}
        return {"type": "input_image", "image_url": said.get("url"), "detail": said.get("detail") or "auto"}
    if kind == "file" and isinstance(part.get("file"), Mapping):
        return {"type": "input_file", **part["file"]}
    return part


# -- the rest ------------------------------------------------------------------------------------------------------


def fields_of(body: Mapping[str, Any], own: frozenset[str], lost: Lost) -> Json:
    """All but the messages.

    Args: `own`: fields that the model's entry set: what is no chat's is sent as it stands there.
    """
    out: Json = {}
    for name, value in body.items():
        if value is None or name in TRANSLATED:
            continue
        if name in SAME or name in ITS_OWN or (name in own and name not in CHAT_FIELDS):
            out[name] = value
        elif is_missed(name, value):
            lost.add(name)
    limit = limit_of(body)
    if limit is not None:
        out["max_output_tokens"] = max(limit, LEAST_ANSWER)
    if body.get("logprobs"):
        add_to_include(out, LOGPROBS)
    if body.get("reasoning_effort") is not None:
        out["reasoning"] = {"effort": body["reasoning_effort"], **_object(out.get("reasoning"))}
    text = {"verbosity": body["verbosity"]} if body.get("verbosity") is not None else {}
    text |= {"format": form} if (form := _format(body.get("response_format"))) else {}
    if text:
        out["text"] = {**text, **_object(out.get("text"))}
    _add_tools(body, out, lost)
    return out


def add_to_include(out: Json, what: str) -> None:
    included = out.get("include")
    said = included if isinstance(included, list) else []
    if what not in said:
        out["include"] = [*said, what]


def reasons(model: str) -> bool:
    """Perhaps. Models that never do refuse to be asked for what they thought."""
    return not DOES_NOT_REASON.match(model)


def _format(wanted: object) -> Json | None:
    if not isinstance(wanted, Mapping):
        return None
    spec = wanted.get("json_schema")
    if wanted.get("type") == "json_schema" and isinstance(spec, Mapping):
        return {"name": "answer", **spec, "type": "json_schema"}
    return dict(wanted)


def _add_tools(body: Mapping[str, Any], out: Json, lost: Lost) -> None:
    tools = [there for tool in objects(body.get("tools")) if (there := _tool(tool, lost)) is not None]
    if not tools:
        out.pop("parallel_tool_calls", None)
        return
    out["tools"] = tools
    choice = body.get("tool_choice")
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        allowed = _object(choice.get("allowed_tools"))
        named = [{"type": "function", "name": name_of(tool)} for tool in objects(allowed.get("tools"))]
        out["tool_choice"] = {"type": "allowed_tools", "mode": allowed.get("mode") or "auto", "tools": named}
    elif isinstance(choice, dict) and choice.get("type") == "function" and name_of(choice):
        out["tool_choice"] = {"type": "function", "name": name_of(choice)}
    elif choice is not None:
        out["tool_choice"] = choice


def _tool(tool: Json, lost: Lost) -> Json | None:
    function = tool.get("function")
    if tool.get("type") == "function" and isinstance(function, Mapping):
        strict = {"strict": function.get("strict") or False}  # unsaid, it would be true there
        return {"type": "function", **function, "parameters": function.get("parameters") or NO_PARAMETERS, **strict}
    if isinstance(tool.get("custom"), Mapping):
        lost.add("tools[].custom")
        return None
    return tool  # its own, such as a search


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
