"""Other models stand in for one that fails, by what it failed for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.config.files import read_config
from gateway.errors import ConfigError
from tests.conftest import Serve, build_from, write_config

POLICY = "policy: default\nroutes: [{name: all, answer: {model: m}}]\n"
LISTS = "{context: [long], content_filter: [free], modality: [eyes], rate: [idle], down: [up], any: [last]}"
NAMES = ("long", "free", "eyes", "idle", "up", "last")


def models(reply: dict[str, Any], fallbacks: str = LISTS, extra: str = "", **others: dict[str, Any]) -> str:
    lines = [f"  m: {{engine: scripted, replies: [{orjson.dumps(reply).decode()}], fallbacks: {fallbacks}{extra}}}"]
    for name in NAMES:
        said = orjson.dumps(others.get(name, {"text": f"from {name}"})).decode()
        lines.append(f"  {name}: {{engine: scripted, replies: [{said}]}}")
    return "models:\n" + "\n".join(lines) + "\n"


def error(status: int, **more: Any) -> dict[str, Any]:
    return {"error": {"status": status, **more}}


FILTERED = {"text": "", "finish_reason": "content_filter"}
MODERATED = '{"error": {"code": 403, "message": "no", "metadata": {"reasons": ["x"], "flagged_input": "y"}}}'


@pytest.mark.parametrize(
    ("reply", "by", "why"),
    [
        (error(400, code="context_length_exceeded"), "long", "http_400"),
        (error(400, code="content_filter"), "free", "content_filter"),
        (error(400, code="content_policy_violation"), "free", "content_filter"),
        (error(403, body=MODERATED), "free", "content_filter"),
        (FILTERED, "free", "content_filter"),
        (error(429), "idle", "http_429"),
        (error(500), "up", "http_500"),
        (error(503), "up", "http_503"),
        (error(401), "up", "bad_reply"),
        ({"text": "x", "cut_after": 0}, "up", "bad_reply"),
        (error(404, code="model_not_found"), "last", "http_404"),
    ],
)
async def test_each_cause_has_its_own_list(serve: Serve, reply: dict[str, Any], by: str, why: str) -> None:
    client = await serve(models(reply), default=POLICY)
    for name, stream in (("auto", False), ("m", False), ("auto", True), ("m", True)):
        answer = await client.chat(model=name, stream=stream)
        assert (answer.status, answer.text) == (200, f"from {by}")
        assert answer.gateway["path"] == f"m!{why},{by}"
        head = answer.events[0] if stream else answer.json
        assert head["model"] == by
        assert not stream or sum(event != "[DONE]" for event in answer.events) == 4, "nothing of the first is heard"


async def test_what_it_cannot_look_at_goes_to_who_can(serve: Serve) -> None:
    client = await serve(models({"text": "blind"}, extra=", accepts: [text]"), default=POLICY)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    answer = await client.chat(messages=[{"role": "user", "content": [picture]}])
    assert (answer.text, answer.gateway["path"]) == ("from eyes", "m!modality,eyes")


async def test_a_list_is_for_any_failure_and_kept_in_order(serve: Serve) -> None:
    text = models(error(418), "[up, idle, last]", up=error(500), idle=FILTERED)
    answer = await (await serve(text, default=POLICY)).chat()
    assert (answer.text, answer.gateway["path"]) == ("from last", "m!http_418,up!http_500,idle!content_filter,last")


async def test_what_has_no_list_is_the_clients(serve: Serve) -> None:
    client = await serve(models(error(404, message="gone"), "{rate: [idle]}"), default=POLICY)
    answer = await client.chat()
    assert (answer.status, answer.headers["x-gateway-path"]) == (404, "m!http_404")


async def test_where_all_fail_the_client_hears_of_the_first_or_the_last_of_the_same_sort(serve: Serve) -> None:
    text = models(error(429, message="first"), "[up, idle]", up=error(400), idle=error(429, message="second"))
    answer = await (await serve(text, default=POLICY)).chat()
    assert (answer.status, answer.error["message"]) == (429, "model 'idle': second")
    text = models(error(429, message="first"), "[up]", up=error(400))
    answer = await (await serve(text, default=POLICY)).chat()
    assert (answer.status, answer.error["message"]) == (429, "model 'm': first")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_filtered_answer_stands_where_nobody_has_another(serve: Serve, stream: bool) -> None:
    client = await serve(models(FILTERED, "[free]", free=FILTERED), default=POLICY)
    answer = await client.chat(stream=stream)
    chunks = [event for event in answer.events if event != "[DONE]"] if stream else [answer.json]
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]
    assert answer.status == 200 and reasons == ["content_filter"] and chunks[0]["model"] == "m"


async def test_after_a_word_nobody_takes_over(serve: Serve) -> None:
    client = await serve(models({"text": "one two three", "cut_after": 3}, "[up]"), default=POLICY)
    answer = await client.chat(stream=True)
    assert answer.text == "one two" and "error" in answer.events[-1]
    assert (await client.chat()).text == "from up", "of a whole answer nothing was heard"


async def test_a_stream_that_has_only_named_its_role_may_be_taken_over(serve: Serve) -> None:
    client = await serve(models({"text": "one two", "cut_after": 1}, "[up]"), default=POLICY)
    answer = await client.chat(stream=True)
    assert (answer.text, answer.gateway["path"]) == ("from up", "m!bad_reply,up")


async def test_fallbacks_have_their_own_and_come_before_the_next_tier(serve: Serve) -> None:
    text = models(error(500), "[up]", up=error(500)).replace(
        "  up: {engine: scripted", "  up: {fallbacks: [last], engine: scripted"
    )
    policy = "policy: default\nroutes: [{name: all, answer: {cascade: [{model: m}, {model: idle}]}}]\n"
    assert (await (await serve(text, default=policy)).chat()).gateway["path"] == "m!http_500,up!http_500,last"
    gone = models(error(500), "[up]", up=error(500))
    assert (await (await serve(gone, default=policy)).chat()).gateway["path"] == "m!http_500,up!http_500,idle"


async def test_a_tool_loop_stays_with_the_stand_in_that_has_begun_it(serve: Serve) -> None:
    call = {"tool_calls": [{"name": "look", "arguments": {}}]}
    text = models(error(500), "[up]", up=call)
    client = await serve(text, default=POLICY)
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    first = await client.chat(tools=tools)
    message = first.json["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "seen"}
    second = await client.chat(messages=[{"role": "user", "content": "hello"}, message, result], tools=tools)
    assert (first.gateway["path"], second.gateway["path"]) == ("m!http_500,up", "up")


async def test_what_a_stand_in_answers_says_nothing_of_the_model(serve: Serve) -> None:
    tiers = "{cascade: [{model: m, checks: [not_empty]}, {model: idle}]}"
    policy = f"policy: default\nroutes: [{{name: all, answer: {tiers}}}]\n"
    for reply, facts in ((error(500), {"stand_in": "up"}), ({"text": "fine"}, None)):
        client = await serve(models(reply, "[up]"), default=policy)
        answer = await client.chat()
        assert client.runtime.journal is not None
        await client.runtime.journal.flush()
        row = await client.runtime.journal.find(answer.gateway["trace"])
        assert row is not None
        hop = orjson.loads(row.trace)["children"][0]["children"][0]
        assert (hop["kind"], hop.get("facts")) == ("fallbacks", facts)


async def test_what_is_inactive_is_left_out(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    text = models(error(500), "[away, up]")
    text += "  away: {engine: openai, base_url: 'http://x/v1', api_key: '${NO_SUCH_KEY}', model: y}\n"
    assert (await (await serve(text, default=POLICY)).chat()).gateway["path"] == "m!http_500,up"
    alone = text.replace("[away, up]", "[away]")
    assert (await (await serve(alone, default=POLICY)).chat()).status == 500


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("fallbacks: [nobody]", "models.m.fallbacks[0]: no model is called 'nobody'"),
        ("fallbacks: {rate: [up, nobody]}", "models.m.fallbacks.rate[1]: no model is called 'nobody'"),
        ("fallbacks: [m]", "models.m.fallbacks[0]: 'm' cannot stand in for itself"),
        ("fallbacks: [back]", "models.m.fallbacks: 'm' would stand in for itself, by way of 'back'"),
        ("fallbacks: {rates: [up]}", "models.m.fallbacks.rates: is not one of 'context'"),
        ("fallbacks: [up, up]", "models.m.fallbacks: has the same twice"),
        ("hedge: p95", "models.m.hedge: there is nobody to ask beside it"),
        ("hedge: p95, fallbacks: {rate: [up]}", "models.m.hedge: there is nobody to ask beside it"),
        ("hedge: p10, fallbacks: [up]", "models.m.hedge: wants 'off', seconds, or a percentile from p50 to p99"),
        ("hedge: -1, fallbacks: [up]", "models.m.hedge: wants 'off', seconds"),
        ("balance: latency", "'balance' is for a model with several addresses or keys"),
        ("retries: 11", "models.m.retries: Input should be less than or equal to 10"),
    ],
)
def test_what_the_configuration_may_not_say(tmp_path: Path, entry: str, said: str) -> None:
    text = f"""\
models:
  m: {{engine: openai, base_url: 'http://x/v1', model: y, {entry}}}
  up: {{engine: scripted, replies: [{{text: x}}]}}
  back: {{engine: scripted, replies: [{{text: x}}], fallbacks: [m]}}
"""
    with pytest.raises(ConfigError) as caught:
        build_from(tmp_path, text, default=POLICY)
    assert any(f"models.yaml:2: {said}" in str(one) or said in one.message for one in caught.value.problems)


def test_hedge_off_is_what_yaml_makes_of_it(tmp_path: Path) -> None:
    build_from(tmp_path, "models:\n  m: {engine: scripted, replies: [{text: x}], hedge: off}\n", default=POLICY)


@pytest.mark.parametrize(("written", "told"), [('["${ONE}", "${TWO}"]', 0), ('["${ONE}", written-out]', 1)])
def test_a_key_of_a_list_that_is_written_out_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, told: int
) -> None:
    monkeypatch.setenv("ONE", "key-one")
    monkeypatch.setenv("TWO", "key-one")
    text = f"models:\n  m: {{engine: openai, base_url: 'https://x/v1', model: y, api_key: {written}}}\n"
    config = read_config(*write_config(tmp_path, text, default=POLICY))
    assert [problem.key for problem in config.warnings] == ["models.m.api_key"] * told
