"""When words may go out: whole drafts, prefixes, none; and what a check needs is hidden from the client."""

from __future__ import annotations

from tests.conftest import Serve

LONG = " ".join(f"word{i}" for i in range(200))


def models(first: str, second: str = "{text: from the second}") -> str:
    return f"models:\n  m1: {{engine: scripted, replies: [{first}]}}\n  m2: {{engine: scripted, replies: [{second}]}}\n"


def cascade(tier: str, rest: str = "{model: m2}", more: str = "") -> str:
    return f"policy: default\nroutes: [{{name: a, answer: {{cascade: [{tier}, {rest}]{more}}}}}]\n"


async def test_a_refusal_is_dropped_after_a_prefix_and_never_seen(serve: Serve) -> None:
    refusal = "I'm sorry, but I can't help with that. " + LONG
    client = await serve(
        models(f'{{text: "{refusal}", between_ms: 1}}'), default=cascade("{model: m1, checks: [not_refusal]}")
    )
    reply = await client.chat(stream=True)
    assert reply.text == "from the second"
    assert b"sorry" not in reply.body
    assert reply.gateway["path"] == "m1!not_refusal,m2"
    # given up after the prefix: the rest of the two hundred words was never waited for
    assert reply.gateway["usage"]["estimated"]
    assert reply.gateway["usage"]["output_tokens"] < 120


async def test_a_good_prefix_lets_the_stream_flow(serve: Serve) -> None:
    client = await serve(
        models(f'{{text: "{LONG}", between_ms: 2}}'), default=cascade("{model: m1, checks: [not_refusal]}")
    )
    call = client.start_chat(stream=True)
    await call.wrote.wait()
    assert not call.task.done(), "the first words are out before the answer is whole"
    assert (await call.done()).text == LONG


async def test_a_whole_hold_lets_nothing_out_before_the_end(serve: Serve) -> None:
    tier = "{model: m1, checks: [{length: {min_words: 201}}]}"
    client = await serve(models(f'{{text: "{LONG}"}}'), default=cascade(tier))
    reply = await client.chat(stream=True)
    assert reply.text == "from the second"
    assert b"word0" not in reply.body


async def test_a_short_answer_under_a_prefix_hold_is_judged_whole(serve: Serve) -> None:
    client = await serve(
        models('{text: "I cannot assist with that."}'), default=cascade("{model: m1, checks: [not_refusal]}")
    )
    for stream in (True, False):
        assert (await client.chat(stream=stream)).text == "from the second"


async def test_logprobs_asked_for_by_a_check_are_hidden_from_the_client(serve: Serve) -> None:
    tier = "{model: m1, checks: [{logprob: {mean_above: -0.5}}]}"
    client = await serve(models("{text: sure thing, logprobs: -0.1}"), default=cascade(tier))
    for stream in (True, False):
        reply = await client.chat(stream=stream)
        assert reply.text == "sure thing"
        assert b'"logprob"' not in reply.body
    shown = await client.chat(logprobs=True)
    assert shown.json["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.1


async def test_an_unsure_draft_moves_outward(serve: Serve) -> None:
    tier = "{model: m1, checks: [{logprob: {mean_above: -0.5}}]}"
    client = await serve(models("{text: maybe so, logprobs: -2}"), default=cascade(tier))
    assert (await client.chat()).gateway["path"] == "m1!logprob,m2"


async def test_every_choice_is_judged(serve: Serve) -> None:
    client = await serve(models('{text: ""}'), default=cascade("{model: m1, checks: [not_empty]}"))
    reply = await client.chat(n=2)
    assert [choice["message"]["content"] for choice in reply.json["choices"]] == ["from the second"] * 2


async def test_two_choices_stream_with_one_end_each(serve: Serve) -> None:
    client = await serve(models("{text: one two}"), default=cascade("{model: m1, checks: [not_empty]}"))
    reply = await client.chat(n=2, stream=True)
    ends = [c["index"] for e in reply.events[:-1] for c in e["choices"] if c["finish_reason"]]
    assert sorted(ends) == [0, 1]
    assert "gateway" in reply.events[-2]


async def test_tool_calls_are_held_and_checked(serve: Serve) -> None:
    tools = [
        {
            "type": "function",
            "function": {
                "name": "look_up",
                "parameters": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
            },
        }
    ]
    config = models(
        "{tool_calls: [{name: look_up, arguments: {town: Paris}}]}",
        "{tool_calls: [{name: look_up, arguments: {city: Paris}}]}",
    )
    client = await serve(config, default=cascade("{model: m1, checks: [tool_arguments]}"))
    reply = await client.chat(tools=tools)
    assert reply.gateway["path"] == "m1!tool_arguments,m2"
    assert reply.json["choices"][0]["finish_reason"] == "tool_calls"
    streamed = await client.chat(tools=tools, stream=True)
    assert b"town" not in streamed.body
    pieces = [c for e in streamed.events[:-1] for ch in e["choices"] for c in ch["delta"].get("tool_calls", ())]
    assert pieces[0]["id"] and pieces[0]["function"]["name"] == "look_up"
    assert "".join(piece["function"]["arguments"] for piece in pieces) == '{"city":"Paris"}'


async def test_reasoning_is_held_like_words(serve: Serve) -> None:
    config = models('{reasoning: "let me think", text: ""}', "{reasoning: a plan, text: an answer}")
    client = await serve(config, default=cascade("{model: m1, checks: [not_empty]}"))
    reply = await client.chat(stream=True)
    assert b"let me" not in reply.body
    assert reply.text == "an answer"
    assert b"reasoning_content" in reply.body


async def test_when_no_tier_passes_the_best_draft_answers_and_says_so(serve: Serve) -> None:
    both = "checks: [{regex: 'never'}, {length: {min_words: 2}}]"
    policy = cascade(f"{{model: m1, {both}}}", f"{{model: m2, {both}}}")
    config = models("{text: two words}", "{text: one}")
    client = await serve(config, default=policy)
    for stream in (True, False):
        reply = await client.chat(stream=stream)
        assert reply.text == "two words", "it fails one check, the other two"
        assert reply.gateway["checks_failed"] == ["regex"]
        assert reply.gateway["model"] == "m1"
        assert reply.gateway["path"] == "m1!regex,m2!regex"


async def test_on_a_tie_the_later_tier_answers(serve: Serve) -> None:
    policy = cascade("{model: m1, checks: [{regex: never}]}", "{model: m2, checks: [{regex: never}]}")
    client = await serve(models("{text: first}", "{text: second}"), default=policy)
    assert (await client.chat()).text == "second"


async def test_on_exhausted_error_is_502(serve: Serve) -> None:
    policy = cascade(
        "{model: m1, checks: [{regex: never}]}", "{model: m2, checks: [{regex: never}]}", ", on_exhausted: error"
    )
    client = await serve(models("{text: first}", "{text: second}"), default=policy)
    for stream in (True, False):
        reply = await client.chat(stream=stream)
        assert (reply.status, reply.error["code"]) == (502, "checks_failed")
        assert reply.headers["x-should-retry"] == "false"


async def test_if_only_backends_failed_the_last_error_is_answered(serve: Serve) -> None:
    config = models("{error: {status: 500}}", "{error: {status: 429, code: busy}}")
    client = await serve(config, default=cascade("{model: m1}"))
    reply = await client.chat()
    assert (reply.status, reply.error["code"]) == (429, "busy")
    assert reply.headers["x-gateway-path"] == "m1!http_500,m2!http_429"


async def test_a_model_with_checks_alone_answers_best_or_error(serve: Serve) -> None:
    policy = "policy: default\nroutes: [{{name: a, answer: {{model: m1, checks: [{{regex: never}}]{}}}}}]\n"
    client = await serve(models("{text: first}"), default=policy.format(""))
    assert (await client.chat()).gateway["checks_failed"] == ["regex"]
    strict = await serve(models("{text: first}"), default=policy.format(", on_exhausted: error"))
    assert (await strict.chat()).status == 502


async def test_a_prefix_fault_on_the_last_tier_is_let_through_and_noted(serve: Serve) -> None:
    refusal = "I'm sorry, but I can't help with that. " + LONG
    policy = "policy: default\nroutes: [{name: a, answer: {model: m1, checks: [not_refusal]}}]\n"
    client = await serve(models(f'{{text: "{refusal}"}}'), default=policy)
    reply = await client.chat(stream=True)
    assert reply.text == refusal
    assert reply.gateway["checks_failed"] == ["not_refusal"]


async def test_a_looping_draft_is_given_up_before_its_end(serve: Serve) -> None:
    loop = "the same thing again and again. " * 400
    tier = "{model: m1, checks: [no_loop, {length: {min_words: 1}}]}"
    client = await serve(models(f'{{text: "{loop}"}}'), default=cascade(tier))
    reply = await client.chat(stream=True)
    assert reply.text == "from the second"
    assert reply.gateway["usage"]["output_tokens"] < 1000


async def test_nested_cascades_pay_only_for_tiers_that_somebody_wanted(serve: Serve) -> None:
    policy = """
    policy: default
    routes:
      - name: a
        answer:
          cascade:
            - checks: [{one_of: [yes please]}]
              cascade:
                - {model: m1, checks: [not_refusal]}
                - {model: m2}
            - {model: m3}
    """
    config = models("{text: first}", "{text: second}") + "  m3: {engine: scripted, replies: [{text: third}]}\n"
    client = await serve(config, default=policy)
    for stream in (True, False):
        reply = await client.chat(stream=stream)
        # m1 passes the inner check; the outer one rejects it, and m2 is not asked for that
        assert reply.gateway["path"] == "m1!one_of,m3"
        assert reply.text == "third"


async def test_a_crashing_check_lets_nothing_through(serve: Serve, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    client = await serve(models("{text: first}"), default=cascade("{model: m1, checks: [not_empty]}"))

    async def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("gateway.checks.not_empty.NotEmpty.__call__", broken)
    reply = await client.chat()
    assert reply.text == "from the second"
    assert reply.gateway["path"] == "m1!not_empty,m2"


async def test_an_inner_cascade_that_is_not_the_last_gives_up_for_the_next(serve: Serve) -> None:
    policy = """
    policy: default
    routes:
      - name: a
        answer:
          cascade:
            - cascade:
                - {model: m1, checks: [{regex: never}]}
                - {model: m2, checks: [{regex: never}]}
            - {model: m3}
    """
    config = models("{text: first}", "{text: second}") + "  m3: {engine: scripted, replies: [{text: third}]}\n"
    client = await serve(config, default=policy)
    for stream in (True, False):
        reply = await client.chat(stream=stream)
        assert reply.text == "third"
        assert reply.gateway["path"] == "m1!regex,m2!regex,m3"


async def test_a_refusal_is_known_long_before_the_prefix_is_whole(serve: Serve) -> None:
    refusal = "I'm sorry, but I can't help with that. " + LONG
    tier = "{model: m1, checks: [not_refusal], hold: 150}"
    client = await serve(models(f'{{text: "{refusal}", between_ms: 1}}'), default=cascade(tier))
    reply = await client.chat(stream=True)
    assert (reply.text, reply.gateway["path"]) == ("from the second", "m1!not_refusal,m2")
    assert reply.gateway["usage"]["output_tokens"] < 60


async def test_json_is_given_up_at_the_word_that_spoils_it(serve: Serve) -> None:
    for text, check in (
        ("Sure! Here is what you want: ", "json"),
        ('{"queue": "none of these" ', "{json_schema: {properties: {queue: {enum: [sales]}}}}"),
    ):
        reply_with = models(f"{{text: '{text}{LONG}'}}")
        client = await serve(reply_with, default=cascade(f"{{model: m1, checks: [{check}]}}"))
        reply = await client.chat(stream=True)
        assert reply.text == "from the second"
        assert reply.gateway["path"] in ("m1!json,m2", "m1!json_schema,m2")
        assert reply.gateway["usage"]["output_tokens"] < 30


async def test_arguments_are_given_up_at_the_key_that_does_not_fit(serve: Serve) -> None:
    function = {"name": "look_up", "parameters": {"properties": {"city": {}}, "additionalProperties": False}}
    long = "x " * 400
    config = models(f'{{tool_calls: [{{name: look_up, arguments: \'{{"town": "{long}"}}\'}}]}}')
    client = await serve(config, default=cascade("{model: m1, checks: [tool_arguments]}"))
    reply = await client.chat(tools=[{"type": "function", "function": function}], stream=True)
    assert (reply.text, reply.gateway["path"]) == ("from the second", "m1!tool_arguments,m2")
    assert reply.gateway["usage"]["output_tokens"] < 100


async def test_the_last_tier_is_not_given_up(serve: Serve) -> None:
    policy = "policy: default\nroutes: [{name: a, answer: {model: m1, checks: [json]}}]\n"
    client = await serve(models(f'{{text: "Sure! {LONG}"}}'), default=policy)
    reply = await client.chat(stream=True)
    assert (reply.text, reply.gateway["checks_failed"]) == (f"Sure! {LONG}", ["json"])


async def test_a_prompt_that_is_wanted_back_is_no_part_of_the_json(serve: Serve) -> None:
    client = await serve(models("{text: '[1, 2]'}"), default=cascade("{model: m1, checks: [json]}"))
    body = {"model": "auto", "prompt": "a list: ", "echo": True, "stream": True}
    reply = await client.call("POST", "/v1/completions", body)
    assert "".join(c["text"] for e in reply.events[:-1] for c in e["choices"]) == "a list: [1, 2]"
