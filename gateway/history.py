"""A conversation as one model can be shown it, where others of ours have answered before: with every tool call closed,
and without reasoning that only its maker can read.

Nothing here changes a message in place, and what is in order stays the very object that it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from gateway import past as pasts
from gateway.chat import ChatRequest, Json
from gateway.past import OF_WIRES, REASONING_FIELDS, SIGNED_FIELDS, Past
from gateway.roles import BRIDGE, SYSTEM_ROLES, begun, in_turns
from gateway.tool_loops import closed, fit, renamed, survey, text_in, unless_same
from gateway.tools import name_of, objects_in, part_of

GO_ON = "Go on."  # where an answer may not be the last word
BLANK = " "  # reasoning that nobody has
VENDOR_FIELDS = frozenset({"extra_content", "provider_specific_fields"})
NOT_IN_CALLS = VENDOR_FIELDS | {"index"}  # of a stream: some clients send it back
LOOKED_AT = REASONING_FIELDS | VENDOR_FIELDS
IN_PIECES = frozenset({"reasoning_details"})  # a list that means nothing without any of its parts
SIGNATURES = ("signature", "data", "encrypted_content")
ADAPTIVE = re.compile(r"claude-[a-z]+-(4[-.][6-9](?!\d)|([5-9]|\d\d)(?!\d)|preview)")
"""Claude, as it has been since 4.6: it thinks as it sees fit, and goes on with no answer that was begun for it."""

MakerOf = Callable[[int], str | None]
"""The model of ours that made what has this mark; None where nobody knows."""


# -- who made it ---------------------------------------------------------------------------------------------------


def mark_of_call(call: Mapping[str, Any]) -> int:
    """What a tool call is known by: id, name and arguments, for some models number their calls from 0 in each
    conversation. Marks hold for as long as the process."""
    part = part_of(call)
    arguments = part.get("arguments", part.get("input"))
    try:
        arguments = orjson.loads(arguments) if isinstance(arguments, str) else arguments
        written = orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        written = repr(arguments).encode()
    return hash(("call", text_in(call.get("id")), name_of(call), written))


def mark_of_block(block: Mapping[str, Any]) -> int | None:
    """What a block of reasoning is known by: its signature or what it holds encrypted, else its id as an item of the
    Responses API; None where it has nothing of this."""
    for name in SIGNATURES:
        if block.get(name) and isinstance(block[name], str):
            return hash((name, block[name]))
    return hash(("id", block["id"])) if block.get("type") == "reasoning" and text_in(block.get("id")) else None


def marks_of(message: Mapping[str, Any]) -> Iterator[int]:
    """Of all in an answer that ties the conversation to who gave it."""
    for call in objects_in(message.get("tool_calls")):
        yield mark_of_call(call)
    for field in SIGNED_FIELDS:
        for block in objects_in(message.get(field)):
            mark = mark_of_block(block)
            if mark is not None:
                yield mark


def may_keep(model: str, block: Mapping[str, Any], maker_of: MakerOf | None) -> bool:
    """May this block of reasoning be shown to the model that models.yaml calls so?

    Not where another of our models made it: providers refuse signatures and encrypted content that are not theirs. It
    may where nobody knows who did, for it is old or came from elsewhere. Anthropic's `thinking` without a signature may
    not: nobody takes it.

    For wires that send a client's own blocks. The leaf has asked this already of all that messages carry in
    `thinking_blocks`, `reasoning_items` and `reasoning_details`, before it calls `Wire.ask`: a message that has lost a
    block is a new object, which `Extra.pieces` does not know, so that it is translated anew.

    Args:
        block: Anthropic's `thinking` or `redacted_thinking`, a `reasoning` item of the Responses API, or one of
            OpenRouter's `reasoning_details`.
        maker_of: the request's.
    """
    mark = mark_of_block(block)
    if mark is None:
        return block.get("type") != "thinking"
    maker = maker_of(mark) if maker_of is not None else None
    return maker is None or maker == model


def open_calls(request: ChatRequest) -> list[Json]:
    """The calls whose results end the conversation: their maker waits to go on. None where it ends otherwise."""
    messages = request.messages
    if request.is_plain:
        return []
    end = len(messages)
    while end and messages[end - 1]["role"] in SYSTEM_ROLES:  # a reminder, as Claude Code writes them
        end -= 1
    if end and messages[end - 1]["role"] == "user" and _ends_in_results(request):
        end -= 1
    start = end
    while start and messages[start - 1].get("role") == "tool":
        start -= 1
    if not 0 < start < end:
        return []
    answered = {text_in(message.get("tool_call_id")) for message in messages[start:end]}
    return [call for call in objects_in(messages[start - 1].get("tool_calls")) if text_in(call.get("id")) in answered]


def _ends_in_results(request: ChatRequest) -> bool:
    """Anthropic's clients put reminders behind the results, into the same message."""
    if request.extra is None or request.extra.dialect != "messages":
        return False
    said = (turn for turn in objects_in(request.extra.body.get("messages")) if turn.get("role") not in SYSTEM_ROLES)
    last = list(said)[-1:]
    return any(block.get("type") == "tool_result" for turn in last for block in objects_in(turn.get("content")))


# -- for one model -------------------------------------------------------------------------------------------------


def mended(
    request: ChatRequest, body: Json, name: str, model: str, past: Past, path: str
) -> tuple[ChatRequest, tuple[str, ...]]:
    """Make the conversation one that this model takes.

    Args:
        body: what is about to be sent, the leaf's own copy. Its `messages` are replaced where they need it, and it
            does not ask for thinking where the model could not.
        name: the model's name here; `model` is its provider's.
        past: what the provider wants, unless the protocol at the wire's `path` decides.
    Returns: the request with the same messages, and the names of what was left out.
    """
    given = messages = body.get("messages") or []
    if not messages or request.is_plain:
        return request, ()
    past, left_out = OF_WIRES.get(path, past), dict[str, None]()
    found = survey(messages, in_order=past.is_ordered)
    if found.has_extras:
        messages = _without_others_reasoning(messages, past, name, request.maker_of, left_out)
    if not found.is_closed or messages is not given:  # an answer may have nothing left in it
        messages = closed(messages, in_order=past.is_ordered)
    if past.thinks_first and _must_not_think(messages, {**_own_words(request, path), **body}, model):
        messages = closed(_without_thinking(messages, body, left_out))
        request = _not_told_to_think(request, path, left_out)
    if past.call_ids is not None and (not found.is_closed or not fit(found.ids, past.call_ids)):
        messages = renamed(messages, past.call_ids)
    if past.wants_reasoning is not None and found.ids and past.wants_reasoning.search(model):
        messages = unless_same([_reasoned(message) for message in messages], messages)
    if past.is_ordered:
        messages = _bridged(messages)
    if past.starts_with_user:
        messages = begun(messages)
    if past.uses_templates:
        is_strict = pasts.STRICT_TEMPLATES.search(model) or pasts.STRICT_TEMPLATES.search(name)
        messages = in_turns(messages, strictly=is_strict is not None)
    if past.thinks_first and messages[-1]["role"] == "assistant" and ADAPTIVE.search(model):
        messages = [*messages, {"role": "user", "content": GO_ON}]
    if messages is given:
        return request, tuple(left_out)
    body["messages"] = messages
    return request.with_body(messages=messages), tuple(left_out)


def _without_others_reasoning(
    messages: list[Json], past: Past, name: str, maker_of: MakerOf | None, left_out: dict[str, None]
) -> list[Json]:
    out = []
    for message in messages:
        for field in sorted(LOOKED_AT & message.keys()):
            value = message[field]
            kept = _kept(field, value, past, name, maker_of)
            if kept is not value or kept is None:
                message = {**message, field: kept} if kept else _without(field, message)
                if value:
                    left_out[f"messages[].{field}"] = None
        out.append(_with_plain_calls(message, left_out) if past.reasoning is not None else message)
    return unless_same(out, messages)


def _kept(field: str, value: Any, past: Past, name: str, maker_of: MakerOf | None) -> Any:
    """What of a field may be sent; the same object where all of it may."""
    if past.reasoning is not None and field not in past.reasoning:
        return None
    if field not in SIGNED_FIELDS or not isinstance(value, list):
        return value
    kept = [block for block in value if not isinstance(block, Mapping) or may_keep(name, block, maker_of)]
    if len(kept) == len(value):
        return value
    return None if field in IN_PIECES else kept


def _without(field: str, message: Json) -> Json:
    return {key: value for key, value in message.items() if key != field}


def _own_words(request: ChatRequest, path: str) -> Mapping[str, Any]:
    """What a client of Anthropic's says of thinking, which the wire sends as it came."""
    extra = request.extra
    if extra is None or f"/{extra.dialect}" != path or extra.body.get("thinking") is None:
        return {}
    return {"thinking": extra.body["thinking"]}


def _not_told_to_think(request: ChatRequest, path: str, left_out: dict[str, None]) -> ChatRequest:
    if request.extra is None or not _own_words(request, path):
        return request
    left_out["thinking"] = None
    own = {name: value for name, value in request.extra.body.items() if name != "thinking"}
    return replace(request, extra=replace(request.extra, body=own))


def _must_not_think(messages: Sequence[Json], body: Mapping[str, Any], model: str) -> bool:
    """Claude, told to think, takes up a tool loop only where the loop began with thoughts of its own."""
    thinking, effort = body.get("thinking"), body.get("reasoning_effort")
    if isinstance(thinking, Mapping):
        is_told = thinking.get("type") == "enabled"
    else:
        is_told = effort is not None and effort != "none" and not ADAPTIVE.search(model)
    if not is_told:
        return False
    has_results: bool = messages[-1]["role"] == "assistant"  # one to go on with wants thoughts too
    for message in reversed(messages):  # a user who speaks right after a result is still in the loop
        if message["role"] == "tool":
            has_results = True
        elif message["role"] == "assistant":
            if not has_results or not message.get("thinking_blocks"):
                return has_results
            has_results = False
    return False


def _without_thinking(messages: list[Json], body: Json, left_out: dict[str, None]) -> list[Json]:
    for field in ("thinking", "reasoning_effort"):
        if body.pop(field, None) is not None:
            left_out[field] = None
    out = []
    for message in messages:
        if message.get("thinking_blocks"):
            left_out["messages[].thinking_blocks"] = None
            message = _without("thinking_blocks", message)
        out.append(message)
    return unless_same(out, messages)


def _with_plain_calls(message: Json, left_out: dict[str, None]) -> Json:
    """Without what vendors add to calls."""
    calls = objects_in(message.get("tool_calls"))
    odd = NOT_IN_CALLS & set[str]().union(*calls)
    if not odd:
        return message
    left_out.update({f"messages[].tool_calls[].{field}": None for field in sorted(odd & VENDOR_FIELDS)})
    return {**message, "tool_calls": [{key: call[key] for key in call.keys() - odd} for call in calls]}


def _reasoned(message: Json) -> Json:
    """DeepSeek and Kimi refuse a conversation with tool calls whose answers lack reasoning."""
    if message.get("role") != "assistant" or message.get("reasoning_content"):
        return message
    return {**message, "reasoning_content": BLANK}


def _bridged(messages: list[Json]) -> list[Json]:
    """In the order of roles that Mistral wants: an answer after a tool's result, system messages before an answer or
    as the user's word, and an answer at the very end as one to go on with."""
    out: list[Json] = []
    before = None
    for message in messages:
        role = message.get("role")
        if role in SYSTEM_ROLES and before in ("assistant", "tool"):
            message, role = {**message, "role": "user"}, "user"
        if role == "user" and before == "tool":
            out.append({"role": "assistant", "content": BRIDGE})
        out.append(message)
        before = role
    if before == "assistant" and not out[-1].get("prefix"):
        out[-1] = {**out[-1], "prefix": True}
    return unless_same(out, messages)
