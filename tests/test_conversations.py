from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.config.build import build
from gateway.config.files import read_config
from gateway.conversations import Conversations, Maker
from gateway.history import mark_of_block, mark_of_call
from gateway.trace import RequestTrace
from tests.asgi import Client, Response
from tests.conftest import Serve, write_config

TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]
USER = {"role": "user", "content": "where is it?"}
CALLS = "tool_calls: [{name: look_up, arguments: {city: Paris}}]"
DONE = "{text: there it is}"


# -- the memory ----------------------------------------------------------------------------------------------------


def answer_with(**message: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": None, **message}}]}


def call(id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_each_key_has_its_own_memory() -> None:
    memory, maker = Conversations(), Maker("a", "default", "rest")
    memory.note("team", answer_with(tool_calls=[call("1")]), maker)
    assert memory.find("team", mark_of_call(call("1"))) == maker
    assert memory.maker_of("team")(mark_of_call(call("1"))) == "a"
    for key in ("other", None):
        assert memory.find(key, mark_of_call(call("1"))) is None
    assert memory.find("team", mark_of_call(call("2"))) is None


def test_signatures_are_remembered() -> None:
    memory = Conversations()
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "redacted_thinking", "data": "d"}]
    item = {"type": "reasoning", "id": "rs_1", "encrypted_content": "e"}
    memory.note(None, answer_with(thinking_blocks=blocks, reasoning_items=[item]), Maker("a", None, None))
    for block in (*blocks, item):
        mark = mark_of_block(block)
        assert mark is not None and memory.maker_of(None)(mark) == "a"


def test_what_was_not_used_for_longest_is_forgotten() -> None:
    memory, maker = Conversations(limit=3), Maker("a", None, None)
    for id in ("1", "2", "3"):
        memory.note(None, answer_with(tool_calls=[call(id)]), maker)
    assert memory.find(None, mark_of_call(call("1"))) == maker  # used
    memory.note(None, answer_with(tool_calls=[call("4")]), maker)
    assert len(memory) == 3
    assert [id for id in "1234" if memory.find(None, mark_of_call(call(id)))] == ["1", "3", "4"]


def test_answers_of_any_shape_are_taken() -> None:
    memory = Conversations()
    for odd in (
        {},
        {"choices": None},
        {"choices": [None, {}, {"message": 1}]},
        answer_with(tool_calls=[1, {"id": {}}]),
    ):
        memory.note(None, odd, Maker("a", None, None))
    memory.note(None, answer_with(content="hello"), Maker("a", None, None))
    assert len(memory) <= 1


# -- staying in a tool loop ----------------------------------------------------------------------------------------


class Chat:
    """A client's side of one conversation."""

    def __init__(self, client: Client, model: str = "auto") -> None:
        self.client, self.model = client, model
        self.messages: list[dict[str, Any]] = [USER]
        self.traces: list[RequestTrace] = []
        client.live.gateway = replace(client.gateway, record=self.traces.append)

    async def ask(self, **fields: Any) -> Response:
        body = {"model": self.model, "messages": self.messages, "tools": TOOLS, **fields}
        reply = await self.client.call("POST", "/v1/chat/completions", body, fields.pop("headers", None))
        if reply.status == 200 and not fields.get("stream"):
            self.messages = [*self.messages, reply.json["choices"][0]["message"]]
        return reply

    def carry_out(self) -> None:
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": "in the box"}
            for call in self.messages[-1]["tool_calls"]
        ]
        self.messages = [*self.messages, *results]

    @property
    def facts(self) -> dict[str, Any]:
        return self.traces[-1].facts or {}


POLICY = """
policy: default
routes:
  - name: long
    when: {turns: {above: 1}}
    answer: {model: other}
  - name: rest
    answer:
      cascade:
        - {model: core, checks: [{regex: there}]}
        - {model: expert}
        - {model: last}
"""


def models(core: str = "{text: unsure}", expert: str = f"{{{CALLS}, times: 1}}, {DONE}", **more: str) -> str:
    entries = {"core": core, "expert": expert, "last": "{text: the last word}", "other": "{text: other}", **more}
    lines = [f"  {name}: {{engine: scripted, replies: [{replies}]}}" for name, replies in entries.items()]
    return "models:\n" + "\n".join(lines) + "\n"


async def test_a_tool_loop_stays_with_its_model(serve: Serve) -> None:
    chat = Chat(await serve(models(), default=POLICY))
    first = await chat.ask()
    assert first.headers["x-gateway-path"] == "core!regex,expert"
    assert "stayed" not in chat.facts
    chat.carry_out()
    second = await chat.ask()
    assert (second.text, second.headers["x-gateway-path"]) == ("there it is", "expert")
    assert second.headers["x-gateway-route"] == "rest"
    assert chat.facts == {"stayed": True}


async def test_streamed_calls_are_remembered_too(serve: Serve) -> None:
    chat = Chat(await serve(models(), default=POLICY))
    reply = await chat.ask(stream=True)
    deltas = [event["choices"][0]["delta"] for event in reply.events if event != "[DONE]" and event["choices"]]
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls") or ()]
    whole = {**pieces[0], "function": {"name": "look_up", "arguments": '{"city": "Paris"}'}}
    chat.messages = [USER, {"role": "assistant", "content": None, "tool_calls": [whole]}]
    chat.carry_out()
    again = await chat.ask(stream=True)
    assert again.gateway["path"] == "expert"


async def test_rules_are_not_asked_again(serve: Serve) -> None:
    chat = Chat(await serve(models(), default=POLICY))
    await chat.ask()
    chat.carry_out()
    call, results = chat.messages[-2], chat.messages[-1:]
    chat.messages = [USER, USER, call, *results]  # `long` would hold now
    assert (await chat.ask()).headers["x-gateway-route"] == "rest"
    chat.messages = [USER, USER]
    assert (await chat.ask()).headers["x-gateway-route"] == "long"


async def test_the_users_next_word_is_for_the_policy_again(serve: Serve) -> None:
    chat = Chat(await serve(models(), default=POLICY))
    await chat.ask()
    chat.carry_out()
    await chat.ask()
    chat.messages = [*chat.messages, USER]
    assert (await chat.ask()).headers["x-gateway-route"] == "long"
    assert "signals" in chat.facts


async def test_a_failed_check_leads_outward_never_inward(serve: Serve) -> None:
    policy = POLICY.replace("{model: expert}", "{model: expert, checks: [{one_of: [there]}]}")
    expert = f"{{{CALLS}, times: 1}}, {{text: wrong}}"
    chat = Chat(await serve(models(expert=expert), default=POLICY, strict=policy.replace("default", "strict", 1)))
    await chat.ask()
    chat.carry_out()
    # the same conversation, under a policy whose check the expert's next answer fails
    maker = Maker("expert", "strict", "rest")
    chat.client.gateway.conversations.note(None, {"choices": [{"message": chat.messages[-2]}]}, maker)
    reply = await chat.ask(model="strict")
    assert (reply.text, reply.headers["x-gateway-path"]) == ("the last word", "expert!one_of,last")


async def test_another_policy_decides_for_itself(serve: Serve) -> None:
    chat = Chat(await serve(models(), default=POLICY, second=POLICY.replace("default", "second", 1)))
    await chat.ask()
    chat.carry_out()
    reply = await chat.ask(model="second")
    assert reply.headers["x-gateway-path"] == "core!regex,expert"


async def test_a_model_named_directly_is_asked_directly(serve: Serve) -> None:
    chat = Chat(await serve(models(), default=POLICY))
    await chat.ask()
    chat.carry_out()
    assert (await chat.ask(model="last")).headers["x-gateway-path"] == "last"


async def test_what_began_without_a_policy_is_new_to_it(serve: Serve) -> None:
    chat = Chat(await serve(models(), default=POLICY), "expert")
    await chat.ask()
    chat.carry_out()
    assert (await chat.ask(model="auto")).headers["x-gateway-path"] == "core!regex,expert"


async def test_where_the_model_fails_the_policy_decides_afresh(serve: Serve) -> None:
    expert = f"{{{CALLS}, times: 1}}, {{error: {{status: 503}}}}"
    policy = POLICY.replace("        - {model: last}\n", "")
    chat = Chat(await serve(models(core="{text: unsure, times: 1}, {text: there}", expert=expert), default=policy))
    await chat.ask()
    chat.carry_out()
    reply = await chat.ask()
    assert (reply.text, reply.headers["x-gateway-path"]) == ("there", "expert!http_503,core")
    assert chat.facts["stayed"] is False and "signals" in chat.facts


async def test_where_the_policy_would_decide_the_same_it_is_not_asked_twice(serve: Serve) -> None:
    policy = "policy: default\nroutes: [{name: all, answer: {model: expert}}]\n"
    expert = f"{{{CALLS}, times: 1}}, {{error: {{status: 503}}}}"
    chat = Chat(await serve(models(expert=expert), default=policy))
    await chat.ask()
    chat.carry_out()
    reply = await chat.ask()
    assert (reply.status, reply.headers["x-gateway-path"]) == (503, "expert!http_503")


async def test_a_stream_that_has_begun_is_not_begun_again(serve: Serve) -> None:
    expert = f"{{{CALLS}, times: 1}}, {{text: one two three four, cut_after: 3}}"
    policy = POLICY.replace("        - {model: last}\n", "")
    chat = Chat(await serve(models(core="{text: unsure, times: 1}, {text: there}", expert=expert), default=policy))
    await chat.ask()
    chat.carry_out()
    reply = await chat.ask(stream=True)
    assert "there" not in reply.text and "error" in reply.events[-1]


async def reloaded(chat: Chat, folder: Path, models_text: str, policy: str) -> None:
    config = read_config(*write_config(folder, models_text, default=policy))
    gateway = build(config, chat.client.runtime)
    chat.client.live.swap(replace(gateway, record=chat.traces.append))


async def test_conversations_outlive_a_reload(serve: Serve, tmp_path: Path) -> None:
    chat = Chat(await serve(models(), default=POLICY))
    await chat.ask()
    chat.carry_out()
    await reloaded(chat, tmp_path / "new", models(expert=DONE), POLICY)
    assert (await chat.ask()).headers["x-gateway-path"] == "expert"


async def test_a_model_or_route_that_is_gone_is_not_waited_for(serve: Serve, tmp_path: Path) -> None:
    chat = Chat(await serve(models(), default=POLICY))
    await chat.ask()
    chat.carry_out()
    for number, policy in enumerate(
        (
            POLICY.replace("        - {model: expert}\n", ""),
            POLICY.replace("name: rest", "name: renamed"),
        )
    ):
        await reloaded(chat, tmp_path / str(number), models(expert=DONE), policy)
        messages = chat.messages
        reply = await chat.ask()
        assert reply.headers["x-gateway-path"].startswith("core!regex,")
        chat.messages = messages
    inactive = models(expert=DONE) + "\n"
    inactive = inactive.replace(
        f"  expert: {{engine: scripted, replies: [{DONE}]}}",
        "  expert: {engine: openai, base_url: 'http://127.0.0.1:9/v1', model: x, api_key: '${ONION_NO_SUCH_KEY}'}",
    )
    await reloaded(chat, tmp_path / "inactive", inactive, POLICY)
    assert (await chat.ask()).headers["x-gateway-path"] == "core!regex,last"


async def test_nested_cascades_begin_where_the_model_is(serve: Serve) -> None:
    policy = """
    policy: default
    routes:
      - name: rest
        answer:
          cascade:
            - {model: core, checks: [{regex: there}]}
            - cascade:
                - {model: last, checks: [{regex: there}]}
                - {model: expert, slots: 2}
            - {model: other}
    """
    chat = Chat(await serve(models(), default=policy))
    assert (await chat.ask()).headers["x-gateway-path"] == "core!regex,last!regex,expert"
    chat.carry_out()
    assert (await chat.ask()).headers["x-gateway-path"] == "expert"


async def test_a_refusal_leads_outward_from_the_model_that_called(serve: Serve) -> None:
    text = models().replace("expert: {engine: scripted,", "expert: {engine: scripted, accepts: [text],")
    chat = Chat(await serve(text, default=POLICY))
    await chat.ask()
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    chat.carry_out()
    chat.messages[-1] = {**chat.messages[-1], "content": [picture]}
    reply = await chat.ask()
    assert reply.headers["x-gateway-path"] == "expert!modality,last"


async def test_limits_hold_for_the_model_that_called_too(serve: Serve) -> None:
    free, dear = "price: {usd_per_hour: 0}", "price: {input_usd_per_mtok: 1000000}"
    text = (
        models()
        .replace("scripted,", f"scripted, {free},")
        .replace(f"expert: {{engine: scripted, {free}", f"expert: {{engine: scripted, {dear}")
    )
    chat = Chat(await serve(text, default=POLICY))
    await chat.ask()
    chat.carry_out()
    capped = await chat.client.call(
        "POST",
        "/v1/chat/completions",
        {"model": "auto", "messages": chat.messages, "tools": TOOLS},
        {"x-gateway-max-cost-usd": "0.001"},
    )
    assert capped.headers["x-gateway-path"] == "expert!max_cost,last"
    late = {"x-gateway-deadline-s": "0"}
    body = {"model": "auto", "messages": chat.messages, "tools": TOOLS}
    assert (await chat.client.call("POST", "/v1/chat/completions", body, late)).status == 504


async def test_within_limits_it_is_found_too(serve: Serve) -> None:
    inner = "{cascade: [{model: core, checks: [{regex: there}]}, {model: expert}], timeout_s: 20}"
    policy = f"policy: default\nroutes: [{{name: all, answer: {{cascade: [{inner}, {{model: last}}], slots: 2}}}}]\n"
    chat = Chat(await serve(models(), default=policy))
    assert (await chat.ask()).headers["x-gateway-path"] == "core!regex,expert"
    chat.carry_out()
    assert (await chat.ask()).headers["x-gateway-path"] == "expert" and chat.facts["stayed"] is True
