from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import past as pasts
from gateway.chat import ChatRequest, Extra, Json
from gateway.history import BLANK, GO_ON, mark_of_block, mark_of_call, may_keep, mended, open_calls
from gateway.past import CallIds, Past, behind_litellm
from gateway.roles import CUT_OFF
from gateway.tool_loops import NO_RESULT, closed, renamed

CHAT = "/chat/completions"
USER = {"role": "user", "content": "hello"}
ANSWER = {"role": "assistant", "content": "hi"}


def call(id: Any, name: str = "f", arguments: str = "{}", **more: Any) -> Json:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def calls(*ids: Any, **more: Any) -> Json:
    return {"role": "assistant", "content": None, "tool_calls": [call(id) for id in ids], **more}


def result(id: Any, content: Any = "done") -> Json:
    return {"role": "tool", "tool_call_id": id, "content": content}


def said(message: Json) -> Json:
    return {"role": "user", "content": message["content"]}


def sent(
    messages: list[Json], past: Past, name: str = "m", model: str = "up", path: str = CHAT, **more: Any
) -> tuple[Json, tuple[str, ...], ChatRequest]:
    maker_of = more.pop("maker_of", None)
    extra = more.pop("extra", None)
    body = {"messages": messages, **more}
    request = ChatRequest(dict(body), maker_of=maker_of, extra=extra)
    request, left_out = mended(request, body, name, model, past, path)
    assert request.messages is body["messages"]
    return body, left_out, request


# -- calls and results ---------------------------------------------------------------------------------------------


def test_what_is_in_order_stays_the_very_same_list() -> None:
    for messages in (
        [USER],
        [USER, ANSWER, USER],
        [USER, calls("a", "b"), result("b"), result("a"), ANSWER, USER],
        [USER, calls("a"), result("a"), calls("a"), result("a")],
        [USER, {"role": "assistant", "content": None, "refusal": "no"}, USER],
        [USER, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}}],
    ):
        assert closed(messages) is messages
        assert sent(messages, pasts.UNMINDING)[0]["messages"] is messages
        assert sent(messages, pasts.OPENAI)[0]["messages"] is messages


def test_a_call_without_result_is_given_one() -> None:
    made_up = {"role": "tool", "tool_call_id": "b", "content": NO_RESULT}
    first = calls("a", "b")
    assert closed([USER, first, result("a"), USER]) == [USER, first, result("a"), made_up, USER]
    assert closed([USER, calls("b")]) == [USER, calls("b"), made_up]
    assert closed([USER, first, result("a"), USER])[1] is first


def test_a_result_is_moved_to_its_call() -> None:
    late = result("a")
    assert closed([calls("a"), USER, late, ANSWER]) == [calls("a"), late, USER, ANSWER]
    assert closed([calls("a"), USER, late, ANSWER])[1] is late


def test_a_result_of_no_call_is_said_by_the_user() -> None:
    assert closed([result("x", "12 degrees"), ANSWER, USER]) == [said(result("x", "12 degrees")), ANSWER, USER]
    assert closed([calls("a"), result("x", "odd"), result("a")]) == [calls("a"), result("a"), said(result("x", "odd"))]
    assert closed([USER, result("x", "")]) == [USER]
    assert closed([USER, {"role": "tool", "content": "no id"}]) == [USER, {"role": "user", "content": "no id"}]


def test_of_two_results_the_first_counts() -> None:
    assert closed([calls("a"), result("a", "1"), result("a", "2")]) == [calls("a"), result("a", "1")]


def test_an_id_that_comes_again_means_the_last_turn() -> None:
    messages = [calls("a"), USER, calls("a"), result("a", "2")]
    assert closed(messages) == [calls("a"), result("a", NO_RESULT), USER, calls("a"), result("a", "2")]


def test_calls_that_share_an_id_or_have_none_are_told_apart() -> None:
    for id in ("a", None, ""):
        out = closed([calls(id, id), result(id, "1"), result(id, "2")])
        ids = [call["id"] for call in out[0]["tool_calls"]]
        assert len(set(ids)) == 2 and all(ids)
        assert out[1:] == [result(ids[0], "1"), result(ids[1], "2")]


def test_answers_with_nothing_in_them_are_left_out() -> None:
    for empty in ({"role": "assistant", "content": ""}, {"role": "assistant"}, calls(), calls(reasoning_content="hm")):
        assert closed([USER, empty, USER]) == [USER, USER]
    assert closed([{"role": "assistant", "content": ""}]) == [{"role": "assistant", "content": ""}]  # nothing else is


@pytest.mark.parametrize("odd", [1, "x", {}, [1, None], {"id": "a"}, [[]], [{"id": ["a"]}], [{"id": {}}], [{"id": 7}]])
def test_calls_of_any_shape_do_no_harm(odd: Any) -> None:
    out = closed([USER, {"role": "assistant", "content": "x", "tool_calls": odd}, result("a"), result(["a"]), USER])
    assert closed(out) is out


def test_results_are_put_into_the_order_of_their_calls_where_it_counts() -> None:
    messages = [USER, calls("a", "b"), result("b"), result("a"), ANSWER]
    assert closed(messages, in_order=True) == [USER, calls("a", "b"), result("a"), result("b"), ANSWER]


MESSAGES = st.lists(
    st.one_of(
        st.just(USER),
        st.just(ANSWER),
        st.just({"role": "assistant", "content": ""}),
        st.just({"role": "system", "content": "s"}),
        st.lists(st.sampled_from(["a", "b", "c", "", None, "x" * 70, "é.1"]), max_size=3).map(lambda ids: calls(*ids)),
        st.sampled_from(["a", "b", "c", "", None, "x" * 70, "é.1"]).map(result),
    ),
    min_size=1,
    max_size=12,
)
RULES = [past.call_ids for past in (pasts.OPENAI, pasts.MISTRAL, pasts.CLAUDE)]


def is_paired(messages: list[Json]) -> bool:
    due: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if message["tool_call_id"] not in due:
                return False
            due.remove(message["tool_call_id"])
        elif due:
            return False
        else:
            due = [call["id"] for call in message.get("tool_calls") or ()]
    return not due


@given(MESSAGES, st.sampled_from(RULES))
def test_whatever_comes_is_closed_and_fits(messages: list[Json], rule: CallIds) -> None:
    before = repr(messages)
    out = closed(messages)
    if not all(m == {"role": "assistant", "content": ""} or m.get("content") is None for m in messages):
        assert is_paired(out)
        assert closed(out) is out
        new = renamed(out, rule)
        assert is_paired(new)
        ids = [call["id"] for message in new for call in message.get("tool_calls") or ()]
        assert all(map(rule.allow, ids))
        assert not rule.are_unique or len(set(ids)) == len(ids)
        assert renamed(new, rule) is new
        assert [m["content"] for m in new] == [m["content"] for m in out]
    assert repr(messages) == before


# -- ids -----------------------------------------------------------------------------------------------------------


def test_ids_that_fit_stay_and_others_are_always_given_the_same_new_one() -> None:
    rule = pasts.MISTRAL.call_ids
    assert rule is not None
    out = renamed([calls("abcdefghi", "call_1"), result("abcdefghi"), result("call_1")], rule)
    new = out[0]["tool_calls"][1]["id"]
    assert rule.allow(new)
    assert out == [calls("abcdefghi", new), result("abcdefghi"), result(new)]
    again = renamed([USER, calls("call_1"), result("call_1"), calls("call_1"), result("call_1")], rule)
    assert [m["tool_call_id"] for m in again if m["role"] == "tool"] == [new, new]


def test_claude_sees_no_id_twice() -> None:
    messages = [
        calls("f:0"),
        result("f:0"),
        calls("f:0"),
        result("f:0"),
        calls("ok"),
        result("ok"),
        calls("ok"),
        result("ok"),
    ]
    body, _, _ = sent(messages, pasts.CLAUDE)
    ids = [m["tool_call_id"] for m in body["messages"] if m["role"] == "tool"]
    assert len(set(ids)) == 4 and ids[2] == "ok"
    longer, _, _ = sent([*messages, USER, calls("ok"), result("ok")], pasts.CLAUDE)
    assert longer["messages"][: len(body["messages"])] == body["messages"]  # a prompt cache goes on to fit


def test_a_gemini_signature_in_an_id_is_no_id_for_others() -> None:
    id = "call_" + "0" * 28 + "__thought__" + "CkAB+/=" * 60
    for past in (pasts.OPENAI, pasts.CLAUDE, pasts.MISTRAL):
        body, _, _ = sent([USER, calls(id), result(id)], past)
        assert past.call_ids is not None and past.call_ids.allow(body["messages"][1]["tool_calls"][0]["id"])
    assert sent([USER, calls(id), result(id)], pasts.GEMINI)[0]["messages"][1] == calls(id)


# -- reasoning -----------------------------------------------------------------------------------------------------

THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "sig-a"}
SEALED = {"type": "redacted_thinking", "data": "xyz"}
ITEM = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
DETAIL = {"type": "reasoning.text", "text": "hm", "signature": "sig-a", "index": 0}
MADE_BY_A = {mark_of_block(block): "a" for block in (THOUGHT, SEALED, ITEM, DETAIL)}


def test_others_signatures_are_left_out() -> None:
    message = {**ANSWER, "thinking_blocks": [THOUGHT, SEALED]}
    for name, maker_of, is_kept in (
        ("a", MADE_BY_A.get, True),
        ("b", MADE_BY_A.get, False),
        ("b", None, True),  # nobody knows
        ("b", {}.get, True),
    ):
        messages = [USER, message]
        body, left_out, _ = sent(messages, pasts.CLAUDE, name=name, maker_of=maker_of)
        assert body["messages"] == (messages if is_kept else [USER, ANSWER])
        assert left_out == (() if is_kept else ("messages[].thinking_blocks",))
        assert (body["messages"] is messages) == is_kept


@pytest.mark.parametrize("block", [THOUGHT, SEALED, ITEM, DETAIL])
def test_who_may_see_a_block(block: Json) -> None:
    assert may_keep("a", block, MADE_BY_A.get)
    assert not may_keep("b", block, MADE_BY_A.get)
    assert may_keep("b", block, None)


def test_thinking_without_a_signature_is_nobodys() -> None:
    unsigned = {"type": "thinking", "thinking": "hm", "signature": ""}
    assert not may_keep("a", unsigned, None)
    body, _, _ = sent([USER, {**ANSWER, "thinking_blocks": [unsigned, THOUGHT]}], pasts.CLAUDE)
    assert body["messages"][1]["thinking_blocks"] == [THOUGHT]
    assert may_keep("a", {"type": "reasoning.summary", "summary": "hm"}, None)


def test_openrouters_details_go_as_a_whole() -> None:
    messages = [{**ANSWER, "reasoning_details": [{"type": "reasoning.text", "text": "h"}, DETAIL]}]
    assert sent(messages, pasts.OPENROUTER, name="a", maker_of=MADE_BY_A.get)[0]["messages"] is messages
    assert sent(messages, pasts.OPENROUTER, name="b", maker_of=MADE_BY_A.get)[0]["messages"] == [ANSWER]


def test_reasoning_goes_to_those_who_take_it() -> None:
    messages = [USER, {**ANSWER, "reasoning_content": "hm", "reasoning": "hm", "reasoning_items": [ITEM]}]
    for past, fields in (
        (pasts.OPENAI, set()),
        (pasts.DEEPSEEK, {"reasoning_content"}),
        (pasts.ONLY_REASONING, {"reasoning"}),
        (pasts.THINKS_ALOUD, {"reasoning", "reasoning_content"}),
        (pasts.UNMINDING, {"reasoning", "reasoning_content", "reasoning_items"}),
    ):
        body, left_out, _ = sent(messages, past)
        assert body["messages"][1].keys() - ANSWER.keys() == fields
        assert {name.removeprefix("messages[].") for name in left_out} == messages[1].keys() - ANSWER.keys() - fields


def test_null_reasoning_is_not_missed() -> None:
    body, left_out, _ = sent([USER, {**ANSWER, "reasoning_content": None}], pasts.OPENAI)
    assert (body["messages"], left_out) == ([USER, ANSWER], ())


def test_an_answer_of_nothing_but_others_thoughts_is_left_out() -> None:
    body, _, _ = sent([USER, {"role": "assistant", "content": None, "thinking_blocks": [THOUGHT]}, USER], pasts.OPENAI)
    assert body["messages"] == [USER, USER]


def test_what_vendors_add_to_calls_stays_with_those_who_know_it() -> None:
    signed = call("a", extra_content={"google": {"thought_signature": "s"}}, index=0)
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [signed]}, result("a")]
    body, left_out, _ = sent(messages, pasts.OPENAI)
    assert body["messages"] == [USER, calls("a"), result("a")]
    assert left_out == ("messages[].tool_calls[].extra_content",)
    assert sent(messages, pasts.UNKNOWN)[0]["messages"] is messages


def test_deepseek_and_kimi_are_given_reasoning_where_there_was_none() -> None:
    messages = [USER, calls("a"), result("a"), {**ANSWER, "reasoning_content": "hm"}, USER]
    filled = [USER, {**calls("a"), "reasoning_content": BLANK}, *messages[2:]]
    assert sent(messages, pasts.DEEPSEEK, model="deepseek-chat")[0]["messages"] == filled
    assert sent(messages, pasts.UNKNOWN, model="moonshotai/kimi-k2.5")[0]["messages"] == filled
    assert sent(messages, pasts.UNKNOWN, model="qwen")[0]["messages"] is messages
    without_calls = [USER, ANSWER, USER]
    assert sent(without_calls, pasts.DEEPSEEK)[0]["messages"] is without_calls


# -- order of roles ------------------------------------------------------------------------------------------------


def test_mistrals_order() -> None:
    messages = [USER, calls("abcdefghi"), result("abcdefghi"), USER, ANSWER, {"role": "system", "content": "s"}, USER]
    body, _, _ = sent(messages, pasts.MISTRAL)
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant", "user", "user"]
    assert sent([USER, ANSWER], pasts.MISTRAL)[0]["messages"] == [USER, {**ANSWER, "prefix": True}]


def test_a_conversation_without_its_beginning_is_given_one() -> None:
    begun = {"role": "user", "content": CUT_OFF}
    for past in (pasts.CLAUDE, pasts.GEMINI, pasts.MISTRAL):
        assert sent([ANSWER, USER], past)[0]["messages"] == [begun, ANSWER, USER]
        system = {"role": "system", "content": "s"}
        assert sent([system, ANSWER, USER], past)[0]["messages"] == [system, begun, ANSWER, USER]
    assert sent([result("x"), ANSWER, USER], pasts.CLAUDE)[0]["messages"] == [said(result("x")), ANSWER, USER]


# -- thinking ------------------------------------------------------------------------------------------------------


def test_claude_does_not_think_in_a_loop_that_began_without() -> None:
    loop = [USER, {**calls("a"), "thinking_blocks": [THOUGHT]}, result("a"), calls("b"), result("b")]
    body, left_out, _ = sent(loop, pasts.CLAUDE, model="anthropic/claude-sonnet-4-5", reasoning_effort="low")
    assert "reasoning_effort" not in body and "thinking_blocks" not in body["messages"][1]
    assert left_out == ("reasoning_effort", "messages[].thinking_blocks")


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("anthropic/claude-sonnet-4-6", {"reasoning_effort": "low"}),
        ("claude-opus-4.7", {"reasoning_effort": "high"}),
        ("claude-sonnet-4-5", {"thinking": {"type": "adaptive"}}),
        ("claude-sonnet-4-5", {"reasoning_effort": "none"}),
    ],
)
def test_models_that_think_as_they_see_fit_may(model: str, fields: Json) -> None:
    messages = [USER, calls("a"), result("a")]
    body, left_out, _ = sent(messages, pasts.CLAUDE, model=model, **fields)
    assert body == {"messages": messages, **fields} and left_out == ()


def test_an_answer_to_go_on_with_is_gone_on_with_unthinking_or_not_at_all() -> None:
    body, left_out, _ = sent([USER, calls("a"), result("a"), ANSWER], pasts.CLAUDE, reasoning_effort="low")
    assert body["messages"][-1] == ANSWER and left_out == ("reasoning_effort",)
    body, left_out, _ = sent([USER, ANSWER], pasts.CLAUDE, model="anthropic/claude-opus-4-6")
    assert body["messages"] == [USER, ANSWER, {"role": "user", "content": GO_ON}] and left_out == ()


def test_a_word_right_behind_a_result_does_not_end_the_loop() -> None:
    messages = [USER, calls("a"), result("a"), USER]
    assert "reasoning_effort" not in sent(messages, pasts.CLAUDE, reasoning_effort="low")[0]


def test_claude_may_think_once_the_loop_is_over_or_was_its_own() -> None:
    for messages in (
        [USER, calls("a"), result("a"), ANSWER, USER],
        [USER, {**calls("a"), "thinking_blocks": [THOUGHT]}, result("a")],
    ):
        body, left_out, _ = sent(messages, pasts.CLAUDE, thinking={"type": "enabled", "budget_tokens": 2000})
        assert "thinking" in body and left_out == ()


def test_anthropics_own_clients_are_spared_the_refusal_too() -> None:
    extra = Extra("messages", {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 9})
    _, left_out, request = sent([USER, calls("a"), result("a")], pasts.CLAUDE, path="/messages", extra=extra)
    assert request.extra is not None and request.extra.body == {"max_tokens": 9}
    assert left_out == ("thinking",)


# -- where a conversation is ---------------------------------------------------------------------------------------


def test_the_calls_that_wait_for_their_maker() -> None:
    def open_ids(messages: list[Json], extra: Extra | None = None) -> list[str]:
        return [call["id"] for call in open_calls(ChatRequest({"messages": messages}, extra=extra))]

    assert open_ids([USER, calls("a", "b"), result("a"), result("b")]) == ["a", "b"]
    assert open_ids([USER, calls("a", "b"), result("b")]) == ["b"]
    assert open_ids([USER, calls("a"), result("a"), USER]) == []
    assert open_ids([result("a")]) == open_ids([USER]) == open_ids([]) == open_ids([USER, calls("a")]) == []
    reminder = {"role": "system", "content": "be brief"}
    assert open_ids([USER, calls("a"), result("a"), reminder]) == ["a"]
    turn = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}, {"type": "text", "text": "hello"}]}
    assert open_ids([USER, calls("a"), result("a"), USER], Extra("messages", {"messages": [turn]})) == ["a"]
    both = Extra("messages", {"messages": [turn, reminder]})
    assert open_ids([USER, calls("a"), result("a"), USER, reminder], both) == ["a"]
    assert open_ids([USER, calls("a"), result("a"), USER], Extra("messages", {"messages": [USER]})) == []


def test_a_call_is_known_however_its_arguments_are_spaced() -> None:
    assert mark_of_call(call("a", arguments='{"x": 1, "y": 2}')) == mark_of_call(call("a", arguments='{"y":2,"x":1}'))
    assert mark_of_call(call("a", arguments='{"x": 1}')) != mark_of_call(call("a", arguments='{"x": 2}'))
    assert mark_of_call(call("a", arguments="{")) == mark_of_call(call("a", arguments="{"))
    for odd in ({}, {"id": []}, {"function": 1}, {"function": {"name": {}, "arguments": ["x"]}}, {"type": []}):
        assert mark_of_call(odd) == mark_of_call(odd)


def test_what_is_behind_litellm() -> None:
    for model, past in (
        ("anthropic/claude-sonnet-4-5", pasts.CLAUDE),
        ("bedrock/eu.anthropic.claude-3-5-sonnet-v2:0", pasts.CLAUDE),
        ("vertex_ai/claude-opus-4", pasts.CLAUDE),
        ("vertex_ai/gemini-2.5-pro", pasts.GEMINI),
        ("gemini/gemini-3-pro", pasts.GEMINI),
        ("mistral/mistral-large-latest", pasts.MISTRAL),
        ("azure/gpt-5", pasts.OPENAI),
        ("openrouter/anthropic/claude-sonnet-4.5", pasts.OPENROUTER),
        ("cohere/command-r", pasts.UNMINDING),
    ):
        assert behind_litellm(model) is past, model
