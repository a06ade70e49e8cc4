from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.chat import ChatRequest, Json
from gateway.providers import SERVERS
from gateway.roles import BRIDGE, CUT_OFF, in_turns
from tests.conftest import Serve
from tests.servers import Double, polite, serving

PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {}}]}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "12 degrees"}


def says(role: str, content: Any = "x", **more: Any) -> Json:
    return {"role": role, "content": content, **more}


def user(content: Any = "x") -> Json:
    return says("user", content)


def answer(content: Any = "y") -> Json:
    return says("assistant", content)


def marked(text: str) -> str:
    return f"<system>\n{text}\n</system>"


@pytest.mark.parametrize("strictly", [False, True])
def test_what_is_in_order_stays_the_very_same_list(strictly: bool) -> None:
    for messages in (
        [user()],
        [says("system"), user(), answer(), user()],
        [says("system"), user([PICTURE]), CALLS, RESULT, RESULT, answer(), user()],
        [user(), answer(), CALLS, RESULT, answer()],
        [says("system")],
    ):
        assert in_turns(messages, strictly=strictly) is messages


def test_a_later_system_message_is_said_by_the_user_who_is_next_to_it() -> None:
    late = says("system", "be brief")
    for messages, out in (
        ([user("hi"), late, answer()], [user(f"hi\n\n{marked('be brief')}"), answer()]),
        ([user(), answer(), late, user("hi")], [user(), answer(), user(f"{marked('be brief')}\n\nhi")]),
        ([user(), answer(), {**late, "role": "developer"}], [user(), answer(), user(marked("be brief"))]),
        ([user(), CALLS, RESULT, late], [user(), CALLS, RESULT, user(marked("be brief"))]),
        ([says("system", "a"), user(), late], [says("system", "a"), user(f"x\n\n{marked('be brief')}")]),
    ):
        before = repr(messages)
        assert in_turns(messages, strictly=False) == out
        assert repr(messages) == before


def test_system_messages_at_the_beginning_are_one() -> None:
    developer = says("developer", "b")
    assert in_turns([says("system", "a"), developer, user()], strictly=False) == [says("system", "a\n\nb"), user()]
    assert in_turns([developer, user()], strictly=False) == [says("system", "b"), user()]


def test_what_the_user_says_twice_in_a_row_is_one_message() -> None:
    assert in_turns([user("a"), user("b"), user("c")], strictly=False) == [user("a\n\nb\n\nc")]
    told = {"type": "text", "text": "what is it?"}
    assert in_turns([user([PICTURE]), user("what is it?")], strictly=False) == [user([PICTURE, told])]


def test_strict_templates_alternate() -> None:
    assert in_turns([user(), CALLS, RESULT, user()], strictly=True) == [user(), CALLS, RESULT, answer(BRIDGE), user()]
    assert in_turns([user(), answer("a"), answer("b")], strictly=True) == [user(), answer("a\n\nb")]
    begun = [says("system"), user(CUT_OFF), answer(), user()]
    assert in_turns([says("system"), answer(), user()], strictly=True) == begun
    for messages in ([user(), CALLS, RESULT, user()], [says("system"), answer(), user()], [user(), answer(), answer()]):
        assert in_turns(messages, strictly=False) is messages


MESSAGES = st.lists(
    st.sampled_from([user(), user([PICTURE]), answer(), says("system"), says("developer"), CALLS, RESULT]), min_size=1
)


@given(MESSAGES, st.booleans())
def test_whatever_comes_is_in_turns(messages: list[Json], strictly: bool) -> None:
    before = repr(messages)
    out = in_turns(messages, strictly=strictly)
    roles = [message["role"] for message in out]
    assert "developer" not in roles and "system" not in roles[1:]
    assert ("user", "user") not in zip(roles, roles[1:], strict=False)
    assert not strictly or ("tool", "user") not in zip(roles, roles[1:], strict=False)
    assert in_turns(out, strictly=strictly) is out
    assert repr(messages) == before


@given(MESSAGES)
def test_plain_conversations_need_no_care(messages: list[Json]) -> None:
    if ChatRequest({"messages": messages}).is_plain:
        assert in_turns(messages, strictly=True) is messages
        assert messages[-1]["role"] == "user" and CALLS not in messages and RESULT not in messages


@pytest.mark.parametrize("kind", [name for name in SERVERS if name != "onion-gateway"])
async def test_servers_with_templates_are_sent_turns(serve: Serve, kind: str) -> None:
    messages = [says("system", "a"), user("hi"), says("system", "b"), user("there")]
    async with serving(Double(say=polite)) as server:
        entry = f"engine: openai, provider: {kind}, base_url: '{server.url}/v1', model: gemma-3-27b-it"
        client = await serve(f"models:\n  m: {{{entry}}}\n")
        reply = await client.call("POST", "/v1/chat/completions", {"model": "m", "messages": messages, "stream": False})
    assert reply.status == 200
    sent = server.bodies[-1]["messages"]
    assert sent == [says("system", "a"), user(f"hi\n\n{marked('b')}\n\nthere")]
