"""What each provider is sent, and what is left out and said to be."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from gateway.config.model_specs import Kind
from gateway.providers import ANY, CHANGES_NOTHING, KINDS, LOCAL_SERVERS, PROVIDERS, api_base, fitted, recognise
from tests.conftest import Serve, build_from
from tests.servers import Double, Json, Reply, plain, polite, serving, usage, whole

SINGLE = "policy: default\nroutes: [{name: all, answer: {model: m}}]\n"
FULL: Json = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "temperature": 0.2,
    "top_p": 0.9,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"50256": -100},
    "max_tokens": 10,
    "n": 2,
    "seed": 7,
    "stop": ["x"],
    "store": True,
    "user": "u1",
    "metadata": {"a": "b"},
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "stream_options": {"include_usage": True},
    "never_heard_of": 1,
}
MEANING = ("messages", "stop", "response_format", "tools", "never_heard_of", "metadata", "parallel_tool_calls")


def sent(provider: str, model: str = "m", **fields: Any) -> tuple[Json, tuple[str, ...]]:
    body, dropped = fitted({**FULL, **fields}, KINDS[provider], model)
    return dict(body), dropped


def test_a_server_that_nothing_is_known_of_gets_what_the_client_sent() -> None:
    assert fitted(FULL, ANY, "o1") == (FULL, ())
    assert fitted(FULL, KINDS["vllm"], "o1") == (FULL, ())


@pytest.mark.parametrize("name", KINDS)
def test_what_would_change_the_meaning_is_always_sent(name: str) -> None:
    for model in ("m", "o3", "gpt-5", "deepseek-reasoner", "grok-4"):
        body, dropped = sent(name, model)
        for field in MEANING:
            if (name, field) == ("lm-studio", "response_format"):
                continue  # said in other words there
            if field == "metadata" and name in ("groq", "cerebras"):
                continue  # they keep no answers that it could be found by, and refuse it
            assert body[field] == FULL[field]
        assert "n" in body or name == "ollama", "one answer where two were asked for is not silent"
        missing = FULL.keys() - body.keys() - {"stream_options"}
        renamed = {"max_tokens", "seed"}
        assert missing - renamed <= set(dropped), "what is not sent is named"


@pytest.mark.parametrize("name", KINDS)
def test_a_value_that_changes_nothing_is_not_missed(name: str) -> None:
    for model in ("m", "o3", "gpt-5", "deepseek-reasoner", "grok-4"):
        assert sent(name, model, **CHANGES_NOTHING, user=None, metadata=None)[1] == ()
        assert fitted({"messages": [], **CHANGES_NOTHING}, KINDS[name], model)[1] == ()
        assert fitted({"messages": [], **dict.fromkeys(FULL)}, KINDS[name], model)[1] == ()


SAMPLING = {"temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias"}


@pytest.mark.parametrize("model", ["o1", "o3-mini", "o4-mini-2025-04-16", "gpt-5", "gpt-5-mini", "ft:gpt-5-nano:me::1"])
@pytest.mark.parametrize("name", ["openai", "azure"])
def test_openais_reasoning_models_do_not_sample(name: str, model: str) -> None:
    body, dropped = sent(name, model)
    assert set(dropped) == SAMPLING
    assert body["max_completion_tokens"] == 10 and "max_tokens" not in body


@pytest.mark.parametrize(
    ("model", "effort", "samples"),
    [
        ("gpt-5.1", None, True),
        ("gpt-5.2", "none", True),
        ("gpt-5.4-mini", "low", False),
        ("gpt-5.5", None, False),
        ("gpt-5.6-sol", "none", True),
        ("gpt-6-luna", "high", False),
        ("gpt-5-chat-latest", None, True),
        ("gpt-5.3-chat-latest", None, True),
    ],
)
def test_later_ones_sample_while_they_do_not_reason(model: str, effort: str | None, samples: bool) -> None:
    body, dropped = sent("openai", model, reasoning_effort=effort)
    assert (set(dropped) == set()) is samples
    assert body["max_completion_tokens"] == 10 and "max_tokens" not in body


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "gpt-3.5-turbo", "omni-moderation", "gpt-oss-20b"])
def test_other_models_of_openai_take_everything(model: str) -> None:
    assert sent("openai", model) == (FULL, ())


@pytest.mark.parametrize("name", KINDS)
def test_what_vendors_add_goes_only_to_those_that_do_not_refuse_it(name: str) -> None:
    added = {"top_k": 40, "min_p": 0.1, "repeat_penalty": 1.1, "chat_template_kwargs": {"enable_thinking": False}}
    body, dropped = fitted({"messages": [], **added}, KINDS[name], "m")
    is_strict = name in ("openai", "azure", "mistral", "groq", "cerebras")
    assert set(dropped) == (set(added) if is_strict else set())
    assert body.keys() & added.keys() == (set() if is_strict else set(added))


@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-4.1-mini", "ft:gpt-3.5-turbo:me::1", "chatgpt-4o-latest", "gpt-5-chat"]
)
def test_models_that_never_reason_are_not_told_how_hard_to(model: str) -> None:
    body, dropped = sent("azure", model, reasoning_effort="low", verbosity="low")
    assert dropped == ("reasoning_effort", "verbosity") and not body.keys() & {"reasoning_effort", "verbosity"}
    assert sent("openai", model, verbosity="medium")[1] == ()
    body, dropped = sent("openai", "gpt-5-mini", reasoning_effort="low", verbosity="low")
    assert (body["reasoning_effort"], body["verbosity"]) == ("low", "low")


@pytest.mark.parametrize(
    ("name", "model", "effort", "is_sent"),
    [
        ("groq", "llama-3.3-70b-versatile", "low", False),
        ("groq", "openai/gpt-oss-120b", "low", True),
        ("groq", "openai/gpt-oss-120b", "minimal", False),
        ("groq", "qwen/qwen3-32b", "low", False),
        ("groq", "qwen/qwen3-32b", "none", True),
        ("xai", "grok-4-0709", "low", False),
        ("xai", "grok-4-1-fast-reasoning", "low", False),
        ("xai", "grok-4.20-0309-reasoning", "low", False),
        ("xai", "grok-3-mini", "low", True),
        ("xai", "grok-4.3", "low", True),
    ],
)
def test_an_effort_goes_only_to_models_that_know_it(name: str, model: str, effort: str, is_sent: bool) -> None:
    body, dropped = fitted({"messages": [], "reasoning_effort": effort}, KINDS[name], model)
    assert body.get("reasoning_effort") == (effort if is_sent else None)
    assert dropped == (() if is_sent else ("reasoning_effort",))


def test_mistral() -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hi", "name": "ann"},
        {"role": "assistant", "content": "x", "reasoning_content": "hm", "refusal": None, "annotations": []},
        {"role": "assistant", "content": None, "function_call": None, "audio": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "y"},
    ]
    body, dropped = sent("mistral", messages=messages)
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "tool_call_id": "1", "content": "y"},
    ]
    assert (body["random_seed"], body["max_tokens"], body["tool_choice"]) == (7, 10, "any")
    assert not body.keys() & {"seed", "user", "store", "logit_bias", "stream_options"}
    assert set(dropped) == {"logit_bias", "store", "user", "messages[].name", "messages[].reasoning_content"}
    body, _ = sent("mistral", max_tokens=None, max_completion_tokens=5)
    assert body["max_tokens"] == 5 and "max_completion_tokens" not in body
    body, dropped = sent("mistral", random_seed=8)
    assert body["random_seed"] == 8 and "seed" in dropped


@pytest.mark.parametrize(
    ("name", "model", "field"),
    [("mistral", "m", "max_tokens"), ("ollama", "m", "max_tokens"), ("openai", "gpt-5", "max_completion_tokens")],
)
def test_of_two_limits_the_newer_one_counts(name: str, model: str, field: str) -> None:
    body, dropped = sent(name, model, max_completion_tokens=5)
    assert [body.get(limit) for limit in ("max_tokens", "max_completion_tokens") if limit in body] == [5]
    assert field in body and "max_tokens" in dropped
    assert "max_tokens" not in sent(name, model, max_completion_tokens=10)[1]


def test_groq_cerebras_deepseek_xai() -> None:
    named = [{"role": "user", "content": "hi", "name": "ann"}]
    of_groq = {"logit_bias", "logprobs", "top_logprobs", "metadata", "store", "prompt_cache_key", "messages[].name"}
    assert set(sent("groq", messages=named, prompt_cache_key="k")[1]) == of_groq
    of_cerebras = {"frequency_penalty", "presence_penalty", "logit_bias", "metadata", "store"}
    assert set(sent("cerebras", prompt_cache_key="k")[1]) == of_cerebras
    assert sent("deepseek", "deepseek-chat")[1] == ()
    assert sent("deepseek", "deepseek-reasoner")[1] == ("logprobs", "top_logprobs")
    assert sent("xai", "grok-4-0709")[1] == ("presence_penalty", "frequency_penalty")
    assert sent("xai", "grok-4-fast-non-reasoning")[1] == ()
    assert sent("together")[1] == sent("openrouter")[1] == sent("fireworks")[1] == ()


def test_servers_that_people_run() -> None:
    body, dropped = sent("ollama", max_tokens=None, max_completion_tokens=5)
    assert body["max_tokens"] == 5 and set(dropped) == {"logit_bias", "n", "tool_choice", "user"}
    body, dropped = sent("lm-studio")
    assert dropped == ()
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert sent("llama-server") == (FULL, ())


@pytest.mark.parametrize("name", ["mistral", "groq", "cerebras"])
def test_an_answer_of_the_gateway_may_be_sent_back(name: str) -> None:
    answered = {"role": "assistant", "content": "x", "refusal": None, "annotations": [], "audio": None}
    body, dropped = fitted({"messages": [answered]}, KINDS[name], "m")
    assert body["messages"] == [{"role": "assistant", "content": "x"}] and dropped == ()


def test_a_server_that_knows_no_tool_choice_is_shown_no_tools_where_none_is_chosen() -> None:
    body, dropped = sent("ollama", tool_choice="none")
    assert not body.keys() & {"tools", "tool_choice", "parallel_tool_calls"}
    assert not {"tools", "tool_choice"} & set(dropped)


@pytest.mark.parametrize("message", [None, 1, {"role": ["x"], "content": "y"}, {"content": "y"}])
def test_messages_of_any_shape_pass(message: Any) -> None:
    assert fitted({"messages": [message]}, KINDS["mistral"], "m")[0]["messages"] == [message]


def test_providers_are_recognised_by_their_host() -> None:
    for provider in PROVIDERS.values():
        assert recognise(provider.base_url) is provider
    assert recognise("https://me.openai.azure.com/openai/v1").name == "azure"
    for url in ("http://127.0.0.1:8000/v1", "https://api.openai.com.evil.example/v1", "https://notopenrouter.ai", "x"):
        assert recognise(url) is ANY
    assert set(LOCAL_SERVERS) == {"ollama", "lm-studio", "llama-server", "vllm"}
    assert set(get_args(Kind)) == set(KINDS)


@pytest.mark.parametrize(
    ("path", "version", "there"),
    [
        ("", None, "/openai/v1"),
        ("/openai/v1", None, "/openai/v1"),
        ("/openai/v1", "preview", "/openai/v1"),
        ("", "2024-10-21", "/openai/deployments/d"),
        ("/openai", "2024-10-21", "/openai/deployments/d"),
        ("/openai/deployments/e", "2024-10-21", "/openai/deployments/e"),
        ("/models", "2024-05-01-preview", "/models"),
    ],
)
def test_azures_addresses(path: str, version: str | None, there: str) -> None:
    host = "https://r.openai.azure.com"
    query = f"?api-version={version}" if version else ""
    assert api_base(PROVIDERS["azure"], host + path, "d", version) == (host + there, query)


# --- through the leaf, over a socket


def entry(server: Double, extra: str = "", path: str = "/v1") -> str:
    return f"models:\n  m: {{engine: openai, base_url: '{server.url}{path}', model: up, api_key: k1, {extra}}}\n"


async def test_what_was_left_out_is_said(serve: Serve) -> None:
    async with serving(plain()) as server:
        client = await serve(entry(server, "provider: groq, drop: [seed]"), default=SINGLE)
        reply = await client.chat(seed=1, logit_bias={"1": 1}, user="u", n=None)
        assert reply.headers["x-gateway-dropped"] == "seed,logit_bias"
        assert reply.gateway["dropped"] == ["seed", "logit_bias"]
        stream = await client.chat(seed=1, stream=True)
        assert stream.headers["x-gateway-dropped"] == "seed" and stream.gateway["dropped"] == ["seed"]
        assert "x-gateway-dropped" not in (await client.chat()).headers
    assert not server.bodies[0].keys() & {"seed", "logit_bias"}
    assert server.bodies[0]["user"] == "u"


async def test_defaults_of_the_entry_are_fitted_too(serve: Serve) -> None:
    async with serving(plain()) as server:
        client = await serve(entry(server, "provider: mistral, defaults: {seed: 3}"), default=SINGLE)
        reply = await client.chat(stream=True)
        assert reply.text == "Hello there"
        assert "x-gateway-dropped" not in reply.headers
    assert server.bodies[0]["random_seed"] == 3 and "stream_options" not in server.bodies[0]


async def test_usage_is_shown_although_the_provider_cannot_be_asked_for_it(serve: Serve) -> None:
    async with serving(plain()) as server:
        client = await serve(entry(server, "provider: mistral"), default=SINGLE)
        reply = await client.chat(stream=True, stream_options={"include_usage": True})
        assert reply.events[-2]["usage"]["prompt_tokens"] == 9


async def test_azure_wants_its_key_and_its_version_elsewhere(serve: Serve) -> None:
    server = Double(key="k1", key_header="api-key", say=polite)
    async with serving(server):
        extra = "provider: azure, api_version: 2024-10-21"
        client = await serve(entry(server, extra, path=""), default=SINGLE)
        assert (await client.chat()).text == "Hello there"
    assert server.seen == ["POST /openai/deployments/up/chat/completions?api-version=2024-10-21"]
    assert "authorization" not in server.headers[0]


async def test_openrouters_cost_is_the_real_one(serve: Serve) -> None:
    def say(body: Json) -> Reply:
        if not body.get("stream"):
            return Reply(whole=whole(usage=usage(cost=0.25)["usage"]))
        return Reply((*polite(body).chunks[:-2], usage(cost=0.25), b"data: [DONE]\n\n"))

    async with serving(plain(say=say)) as server:
        known = "price: {input_usd_per_mtok: 1}"
        client = await serve(entry(server, f"provider: openrouter, {known}"), default=SINGLE)
        assert (await client.chat()).gateway["cost_usd"] == 0.25
        assert (await client.chat(stream=True)).gateway["cost_usd"] == 0.25
        other = await serve(entry(server, known), default=SINGLE)
        assert (await other.chat()).gateway["cost_usd"] == pytest.approx(9e-6)


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]


async def test_addresses_of_images_go_only_where_they_may(serve: Serve) -> None:
    async with serving(plain()) as server:
        known = await serve(entry(server), default=SINGLE)
        assert (await known.chat(messages=IMAGE)).status == 200
        local = await serve(entry(server, "provider: ollama"), default=SINGLE)
        reply = await local.chat(messages=IMAGE)
        assert (reply.status, reply.error["code"]) == (400, "unsupported_content")
        assert "data: URL" in reply.error["message"]
    assert len(server.bodies) == 1


async def test_llama_server_is_asked_for_streams_and_each_connection_is_used_once(serve: Serve) -> None:
    async with serving(plain()) as server:
        client = await serve(entry(server, "provider: llama-server"), default=SINGLE)
        assert (await client.chat()).text == "Hello there"
    assert server.bodies[0]["stream"] is True and server.headers[0]["connection"] == "close"


@pytest.mark.parametrize(
    ("extra", "says"),
    [("provider: grok", "is not one of"), ("drop: [messages]", "must be sent"), ("api_version: 'a b'", "pattern")],
)
def test_mistakes_in_the_entry_are_found(tmp_path: Any, extra: str, says: str) -> None:
    with pytest.raises(Exception, match=says):
        build_from(
            tmp_path, f"models: {{m: {{engine: openai, base_url: 'http://x/v1', model: y, {extra}}}}}", default=SINGLE
        )
