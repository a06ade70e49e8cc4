"""One request, told as a story: through HTTP, policy, cascade, hold and checks to the journal and feedback."""

from tests.conftest import Serve

MODELS = """
    models:
      core:
        engine: scripted
        price: {}
        replies:
          - {when: {contains: schema}, text: "not json at all"}
          - {when: {contains: weather}, text: "It is sunny today."}
          - {text: "fine"}
      expert:
        engine: scripted
        price: {input_usd_per_mtok: 1, output_usd_per_mtok: 10}
        replies:
          - {text: '{"city": "Paris"}', usage: {prompt_tokens: 100, completion_tokens: 10}}
      asleep:
        engine: openai
        base_url: https://api.example.com/v1
        api_key: ${A_VARIABLE_THAT_IS_NOT_SET}
        model: big
"""
POLICY = """
    policy: default
    serves: [auto]
    routes:
      - {name: chores, when: {background: true}, answer: {model: core}}
      - name: rest
        answer:
          cascade:
            - {model: core, checks: [not_empty, json_schema]}
            - {model: asleep}
            - {model: expert}
"""
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "place",
        "schema": {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}},
    },
}


async def test_a_good_draft_of_the_core_is_the_answer(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    reply = await client.chat("what is the weather?")
    assert reply.status == 200
    assert reply.text == "It is sunny today."
    assert reply.json["model"] == reply.headers["x-gateway-model"] == "core"
    assert reply.headers["x-gateway-policy"] == "default"
    assert reply.headers["x-gateway-route"] == "rest"
    assert reply.headers["x-gateway-path"] == "core"
    assert float(reply.headers["x-gateway-cost-usd"]) == 0
    assert reply.gateway["trace"] == reply.headers["x-gateway-trace"]


async def test_a_failed_check_moves_outward_and_no_byte_of_the_draft_gets_out(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    for stream in (False, True):
        reply = await client.chat("fill the schema", response_format=SCHEMA, stream=stream)
        assert reply.status == 200
        assert reply.text == '{"city": "Paris"}'
        assert b"not json" not in reply.body
        assert reply.headers["x-gateway-path"] == "core!json_schema,expert"
        assert reply.gateway["path"] == "core!json_schema,expert"
        assert reply.gateway["model"] == "expert"
        # usage is the shown answer's, the gateway object has the whole chain's
        assert reply.gateway["usage"]["input_tokens"] > 100
        assert reply.gateway["cost_usd"] == (100 * 1 + 10 * 10) / 1e6


async def test_a_stream_is_well_formed(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    reply = await client.chat("weather", stream=True, stream_options={"include_usage": True})
    *chunks, usage, done = reply.events
    assert done == "[DONE]"
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 4
    assert len({(c["id"], c["created"], c["model"], c["object"]) for c in [*chunks, usage]}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(c["usage"] is None for c in chunks)
    assert [c for c in chunks if "gateway" in c] == [chunks[-1]]
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-accel-buffering"] == "no"
    assert b"event:" not in reply.body


async def test_usage_is_not_shown_in_a_stream_that_did_not_ask(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    reply = await client.chat("weather", stream=True)
    assert all(event == "[DONE]" or event["choices"] for event in reply.events)
    assert b'"usage":{"prompt' not in reply.body


async def test_the_trace_is_journalled_and_can_be_rated(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    reply = await client.chat("fill the schema", response_format=SCHEMA)
    assert client.runtime.journal is not None
    row = await client.runtime.journal.find(reply.headers["x-gateway-trace"])
    assert row is not None
    assert (row.policy, row.route, row.model, row.status) == ("default", "rest", "expert", 200)
    assert row.path == "core!json_schema,expert"
    assert row.escalated
    rated = await client.call("POST", "/v1/feedback", {"id": reply.json["id"], "value": True, "comment": "good"})
    assert rated.status == 201
    assert client.runtime.feedback is not None
    (kept,) = await client.runtime.feedback.of(reply.headers["x-gateway-trace"])
    assert kept.value is True and kept.comment == "good"


async def test_a_chore_takes_its_own_route(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    reply = await client.chat("Generate a concise, 3-5 word title summarizing the chat history.")
    assert reply.headers["x-gateway-route"] == "chores"


async def test_explain_shows_signals_and_route_and_generates_nothing(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
    reply = await client.call("POST", "/v1/route/explain", body)
    assert reply.status == 200
    assert (reply.json["policy"], reply.json["route"]) == ("default", "rest")
    (signal,) = reply.json["signals"]
    assert signal["signal"] == "background" and signal["value"] is False and signal["us"] >= 0
    tiers = reply.json["answer"]["cascade"]
    assert tiers[0]["model"] == "core"
    assert "A_VARIABLE_THAT_IS_NOT_SET" in tiers[1]["inactive"]
    metrics = await client.call("GET", "/metrics")
    assert b"gateway_requests_total{" not in metrics.body


async def test_models_lists_what_may_be_asked_for(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    listed = await client.call("GET", "/v1/models")
    assert [entry["id"] for entry in listed.json["data"]] == ["default", "auto", "core", "expert"]
    one = await client.call("GET", "/v1/models/asleep")
    assert one.json["gateway"]["active"] is False
    assert (await client.call("GET", "/v1/models/nobody")).status == 404


async def test_a_model_can_be_asked_by_name(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    reply = await client.chat("hello", model="expert")
    assert reply.headers["x-gateway-policy"] == "direct"
    assert reply.headers["x-gateway-path"] == "expert"


async def test_unknown_and_inactive_names_are_404_with_what_to_do(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    unknown = await client.chat("hello", model="gpt-99")
    assert unknown.status == 404
    assert unknown.error["code"] == "model_not_found"
    assert "auto" in unknown.error["message"] and "core" in unknown.error["message"]
    inactive = await client.chat("hello", model="asleep")
    assert inactive.status == 404
    assert "A_VARIABLE_THAT_IS_NOT_SET" in inactive.error["message"]


async def test_a_route_with_no_active_model_says_which_and_why(serve: Serve) -> None:
    policy = """
    policy: default
    routes:
      - {name: images, when: {has: image}, answer: {model: asleep}}
      - {name: rest, answer: {model: core}}
    """
    client = await serve(MODELS, default=policy)
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    reply = await client.chat(messages=[{"role": "user", "content": content}])
    assert reply.status == 400
    assert "asleep" in reply.error["message"] and "A_VARIABLE_THAT_IS_NOT_SET" in reply.error["message"]


async def test_every_field_the_client_sent_reaches_the_model(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    sent = {"seed": 7, "top_k": 40, "metadata": {"a": "b"}, "vendor": {"x": [1, None]}, "stop": None}
    await client.chat("hello", model="expert", **sent)
    script = client.gateway.models["expert"].responder.client.script  # type: ignore[union-attr]
    arrived = script.requests[-1]
    assert {name: arrived[name] for name in sent} == sent


async def test_metrics_count_requests_latency_and_path_lengths(serve: Serve) -> None:
    client = await serve(MODELS, default=POLICY)
    await client.chat("fill the schema", response_format=SCHEMA)
    text = (await client.call("GET", "/metrics")).body.decode()
    assert 'gateway_requests_total{model="expert",policy="default",route="rest",status="200"} 1.0' in text
    assert 'gateway_models_left_total{model="core",reason="json_schema"} 1.0' in text
    assert 'gateway_path_length_bucket{le="2.0"} 1.0' in text
    assert 'gateway_request_seconds_count{policy="default"} 1.0' in text
