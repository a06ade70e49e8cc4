"""A model that says it needs help, or calls the tool for it."""

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.checks import CHECKS
from gateway.checks.asks_for_help import AsksForHelp
from tests.checks.drafts import asking, calls, judged, passes, prefix, whole
from tests.conftest import Serve
from tests.upstream import pointing_at, upstream

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
OWN_HELP = {"type": "function", "function": {"name": "help_me", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    "text",
    ["I need help.", "Hm. I  need\nhelp with this.", "**I need help**", "Well: i need more help", "\nI need help"],
)
def test_a_sentence_that_begins_with_a_phrase_fails(text: str) -> None:
    assert not passes(AsksForHelp(), whole(text))


@pytest.mark.parametrize(
    "text", ["If you think I need help, say so.", 'She said "I need help".', "I need helpers.", "Paris", ""]
)
def test_other_sentences_pass(text: str) -> None:
    assert passes(AsksForHelp(), whole(text))


def test_what_the_user_said_may_be_said_again() -> None:
    assert passes(AsksForHelp(), whole("I need help."), asking("Translate: Ich brauche Hilfe. Is it 'I need help'?"))


def test_the_policy_says_which_phrases() -> None:
    check = AsksForHelp(phrases=["[[outward]]", "Ich weiß nicht"])
    assert not passes(check, whole("[[OUTWARD]]"))
    assert not passes(check, whole("ich weiß nicht, was das ist"))
    assert passes(check, whole("I need help."))


def test_it_fails_a_prefix_once_the_phrase_is_whole() -> None:
    assert CHECKS["asks_for_help"].can_fail_prefix and CHECKS["asks_for_help"].prefix_words is None
    assert passes(AsksForHelp(), prefix("I need help"))
    assert not passes(AsksForHelp(), prefix("I need help with"))


def test_a_call_of_the_tool_fails_and_other_calls_pass() -> None:
    check = AsksForHelp(tool="help_me")
    assert judged(check, whole(calls(("help_me", "{}")))).reason == "calls help_me"
    assert passes(check, whole(calls(("look_up", "{}"))))
    assert passes(AsksForHelp(), whole(calls(("help_me", "{}"))))
    assert passes(check, whole(calls(("help_me", "{}"))), asking("?", tools=[OWN_HELP])), "it is the client's own"


def test_every_choice_is_judged() -> None:
    assert judged(AsksForHelp(), whole("Paris", "I need help")).reason == "choice 1: asks for help"


@pytest.mark.parametrize("fields", [{"phrases": []}, {"phrases": ["..."]}, {"tool": "no spaces"}, {"phrases": "help"}])
def test_parameters_have_bounds(fields: Any) -> None:
    with pytest.raises(ValidationError):
        AsksForHelp(**fields)


def config(first: str, second: str = "{text: from the second}") -> str:
    return f"models:\n  m1: {{engine: scripted, replies: [{first}]}}\n  m2: {{engine: scripted, replies: [{second}]}}\n"


def policy(first: str = "{asks_for_help: {tool: help_me}}", more: str = "", second: str = "") -> str:
    tiers = f"[{{model: m1, checks: [{first}]{more}}}, {{model: m2{second}}}]"
    return f"policy: default\nroutes: [{{name: a, answer: {{cascade: {tiers}}}}}]\n"


CALLS = "{tool_calls: [{name: help_me, arguments: {}}]}"
BOTH = "{text: It is, tool_calls: [{name: help_me, arguments: {}}, {name: look_up, arguments: {city: Paris}}]}"


async def asked_of(client: Any, model: str) -> Any:
    return client.gateway.models[model].responder.client.script.requests[-1]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_model_is_offered_the_tool_and_the_client_never_sees_its_call(serve: Serve, stream: bool) -> None:
    client = await serve(config(CALLS), default=policy())
    reply = await client.chat(stream=stream, tools=[TOOL])
    assert (reply.text, reply.gateway["path"]) == ("from the second", "m1!asks_for_help,m2")
    assert b"help_me" not in reply.body
    offered = (await asked_of(client, "m1"))["tools"]
    assert [tool["function"]["name"] for tool in offered] == ["look_up", "help_me"]
    assert (await asked_of(client, "m2"))["tools"] == [TOOL], "nobody else could be asked: it is not offered"


@pytest.mark.parametrize("stream", [False, True])
async def test_it_is_hidden_also_where_that_draft_is_the_best(serve: Serve, stream: bool) -> None:
    client = await serve(config(BOTH, "{error: {status: 503}}"), default=policy())
    reply = await client.chat(stream=stream, tools=[TOOL])
    assert reply.text == "It is"
    assert reply.gateway["checks_failed"] == ["asks_for_help"]
    assert b"help_me" not in reply.body and b"look_up" in reply.body
    if stream:
        calls = [c for e in reply.events[:-1] for ch in e["choices"] for c in ch["delta"].get("tool_calls", ())]
        assert {call["index"] for call in calls} == {0}
    else:
        assert reply.json["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_draft_that_only_asks_for_help_is_no_answer(serve: Serve) -> None:
    failing = ", checks: [{regex: never}, {length: {min_words: 9}}]"
    client = await serve(config(CALLS), default=policy(second=failing))
    assert (await client.chat()).text == "from the second", "though it fails two checks, and the first only one"
    client = await serve(config(CALLS, "{error: {status: 503}}"), default=policy())
    for stream in (False, True):
        reply = await client.chat(stream=stream)
        assert reply.status == 503 and b"help_me" not in reply.body


async def test_a_call_after_the_beginning_was_let_through_is_hidden_too(serve: Serve) -> None:
    words = " ".join(f"word{i}" for i in range(30))
    reply_ = f"{{text: {words}, tool_calls: [{{name: help_me, arguments: {{}}}}]}}"
    client = await serve(config(reply_), default=policy(more=", hold: 8"))
    reply = await client.chat(stream=True)
    assert reply.text == words and b"help_me" not in reply.body
    assert [c["finish_reason"] for e in reply.events[:-1] for c in e["choices"] if c["finish_reason"]] == ["stop"]


@pytest.mark.parametrize(
    "fields", [{"tool_choice": "none"}, {"response_format": {"type": "json_object"}}, {"tools": [OWN_HELP]}]
)
async def test_it_is_not_offered_where_it_would_be_in_the_way(serve: Serve, fields: Any) -> None:
    client = await serve(config("{text: fine}"), default=policy())
    assert (await client.chat(**fields)).text == "fine"
    assert (await asked_of(client, "m1")).get("tools") == fields.get("tools")


async def test_the_client_is_told_of_its_own_tools_only(serve: Serve) -> None:
    async with upstream({"text": "fine"}) as first, upstream({"text": "second"}) as second:
        models = pointing_at(first, second, extra="drop: [tools]")
        client = await serve(models, default=policy())
        assert "x-gateway-dropped" not in (await client.chat()).headers
        assert (await client.chat(tools=[TOOL])).headers["x-gateway-dropped"] == "tools"
