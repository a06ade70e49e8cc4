"""Upstreams' own ways to say no, over real sockets: what the client gets is OpenAI's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from gateway.backends import call
from gateway.backends.refusals import hidden
from tests.backends.odd import CASCADE, ask, models
from tests.conftest import Serve
from tests.servers import DONE, Json, Reply, chunk, plain, serving

FULL_CONTEXT = {
    "openai": (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 128000 tokens. "
                "However, your messages resulted in 130000 tokens.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
    ),
    "openai, newer": (
        400,
        {
            "error": {
                "message": "Your input exceeds the context window of this model. "
                "Please adjust your input and try again.",
                "type": "invalid_request_error",
                "code": "context_length_exceeded",
            }
        },
    ),
    "azure": (
        400,
        {
            "error": {
                "message": "Input tokens exceed the configured limit of 272000 tokens.",
                "type": "invalid_request_error",
                "code": None,
            }
        },
    ),
    "deepseek": (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 131072 tokens. However, you requested "
                "131329 tokens (123137 in the messages, 8192 in the completion).",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_request_error",
            }
        },
    ),
    "vllm, flat": (
        400,
        {
            "object": "error",
            "message": "This model's maximum context length is 2048 tokens. However, you requested 3000 tokens.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "vllm, newer": (
        400,
        {
            "error": {
                "message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
                "type": "BadRequestError",
                "code": 400,
            }
        },
    ),
    "llama.cpp": (
        400,
        {
            "error": {
                "code": 400,
                "message": "request (2031 tokens) exceeds the available context size (512 tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 2031,
                "n_ctx": 512,
            }
        },
    ),
    "lm-studio": (
        400,
        {
            "error": "Trying to keep the first 5000 tokens when context the overflows. However, the model is "
            "loaded with context length of only 4096 tokens, which is not enough.",
        },
    ),
    "lm-studio, older": (
        400,
        {"error": "The number of tokens to keep from the initial prompt is greater than the context length."},
    ),
    "ollama": (
        400,
        {
            "error": {
                "message": "the input length exceeds the context length",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }
        },
    ),
    "mistral": (
        400,
        {
            "object": "error",
            "message": "Prompt contains 40000 tokens and 0 draft tokens, too large "
            "for model with 32768 maximum context length",
            "type": "invalid_request_prompt",
            "param": None,
            "code": "3051",
        },
    ),
    "groq": (
        400,
        {
            "error": {
                "message": "Please reduce the length of the messages or completion.",
                "type": "invalid_request_error",
                "param": "messages",
                "code": "context_length_exceeded",
            }
        },
    ),
    "together": (
        422,
        {
            "error": {
                "message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= "
                "8193. Given: 9000 `inputs` tokens and 512 `max_new_tokens`",
                "type": "invalid_request_error",
                "param": "max_tokens",
                "code": None,
            }
        },
    ),
    "openrouter": (
        400,
        {
            "error": {
                "message": "This endpoint's maximum context length is 32768 tokens. "
                "However, you requested about 40000 tokens.",
                "code": 400,
            }
        },
    ),
    "openrouter, behind it": (
        400,
        {
            "error": {
                "message": "Provider returned error",
                "code": 400,
                "metadata": {
                    "provider_name": "X",
                    "raw": '{"error":{"message":"prompt is too long: 210000 tokens > 200000 maximum"}}',
                },
            }
        },
    ),
    "xai": (
        400,
        {
            "code": "Client specified an invalid argument",
            "error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        },
    ),
    "cerebras": (
        400,
        {
            "message": "Please reduce the length of the messages or completion. "
            "Current length is 9000 while limit is 8192",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        },
    ),
    "google": (
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (1200000) exceeds the maximum "
                    "number of tokens allowed (1048576).",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
    ),
}


@pytest.mark.parametrize("case", FULL_CONTEXT.values(), ids=FULL_CONTEXT.keys())
async def test_a_full_context_has_one_name(serve: Serve, case: tuple[int, Any]) -> None:
    reply = await ask(serve, Reply(status=case[0], whole=case[1]))
    assert (reply.status, reply.error["code"], reply.error["type"], reply.error["param"]) == (
        400, "context_length_exceeded", "invalid_request_error", "messages"
    )  # fmt: skip
    assert len(reply.error["message"]) > 40, "its own words are kept"


NOT_CONTEXT = {
    "too many asked for": (
        400,
        {
            "error": {
                "message": "max_tokens is too large: 50000. This model supports at most 16384 completion tokens",
                "code": "invalid_value",
            }
        },
        400,
        "invalid_value",
    ),
    "rate of tokens": (
        413,
        {
            "error": {
                "message": "Request too large for model `x` on tokens per minute (TPM): Limit 6000, Requested 8000",
                "type": "tokens",
                "code": "rate_limit_exceeded",
            }
        },
        413,
        "rate_limit_exceeded",
    ),
    "rate": (
        429,
        {"error": {"message": "slow down; the maximum context length is fine", "code": "rate_limit_exceeded"}},
        429,
        "rate_limit_exceeded",
    ),
    "azure's filter": (
        400,
        {
            "error": {
                "message": "The response was filtered",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}},
            }
        },
        400,
        "content_filter",
    ),
    "no money": (402, {"error": {"message": "Insufficient credits", "code": 402}}, 402, None),
    "moderation": (
        403,
        {"error": {"message": "flagged", "code": 403, "metadata": {"reasons": ["violence"], "flagged_input": "…"}}},
        403,
        None,
    ),
}


@pytest.mark.parametrize("case", NOT_CONTEXT.values(), ids=NOT_CONTEXT.keys())
async def test_other_errors_keep_their_own_names(serve: Serve, case: tuple[int, Any, int, str | None]) -> None:
    reply = await ask(serve, Reply(status=case[0], whole=case[1]))
    assert (reply.status, reply.error["code"]) == (case[2], case[3])


SHAPES = {
    "a text": ({"error": "model 'x' not found"}, "model 'x' not found"),
    "flat": ({"object": "error", "message": "no such thing", "type": "invalid_model", "code": "1500"}, "no such thing"),
    "mistral's faults": (
        {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "foo"],
                        "msg": "Extra inputs are not permitted",
                        "input": "what the user wrote",
                    }
                ]
            },
            "type": "invalid_request_error",
        },
        "foo: Extra inputs are not permitted",
    ),
    "fastapi's faults": (
        {"detail": [{"loc": ["body", "messages", 0, "role"], "msg": "Field required", "type": "missing"}]},
        "messages.0.role: Field required",
    ),
    "fastapi's text": ({"detail": "Not Found"}, "Not Found"),
    "a list": ([{"error": {"message": "in a list"}}], "in a list"),
    "nothing": ({"error": {}}, "without a JSON error"),
    "no words": ({"error": {"code": 7}}, "no message"),
}


@pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES.keys())
async def test_errors_of_any_shape_are_read(serve: Serve, case: tuple[Any, str]) -> None:
    reply = await ask(serve, Reply(status=404, whole=case[0]))
    assert reply.status == 404 and set(reply.error) == {"message", "type", "param", "code"}
    assert case[1] in reply.error["message"] and "what the user wrote" not in reply.error["message"]


IN_THE_STREAM = {
    "flat": {"object": "error", "message": "CUDA error", "type": "BadRequestError", "param": None, "code": 400},
    "openrouter": {**chunk({"content": ""}, "error"), "error": {"code": 502, "message": "Provider disconnected"}},
    "only a finish": chunk({"content": ""}, "error"),
    "a text": {"error": "llama runner process has terminated"},
    "detail": {"detail": "gone"},
    "code as text": {"error": {"message": "overloaded", "code": "529"}},
    "not a chunk": {"choices": [{"index": 0, "delta": {"content": 7}}]},
}


@pytest.mark.parametrize("error", IN_THE_STREAM.values(), ids=IN_THE_STREAM.keys())
async def test_an_error_in_a_stream_is_one_whatever_it_looks_like(serve: Serve, error: Json) -> None:
    started = Reply((chunk({"content": "one"}), error, DONE))
    reply = await ask(serve, started, stream=True)
    assert reply.text == "one" and "error" in reply.events[-1] and "[DONE]" not in reply.events
    first = await ask(serve, Reply((error, DONE)), CASCADE, stream=True)
    assert first.text == "from n", "before the first word another model answers"


@pytest.mark.parametrize(
    "error", [{"error": "Unexpected endpoint"}, {"error": {"code": 504, "message": "late"}}, {"detail": "x"}]
)
async def test_an_error_with_status_200_is_one(serve: Serve, error: Json) -> None:
    assert (await ask(serve, Reply(whole=error))).status in (502, 504)
    assert (await ask(serve, Reply(whole=error), CASCADE)).text == "from n"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("code", [401, "403"])
async def test_the_gateways_own_key_is_never_the_clients_also_with_status_200(
    serve: Serve, code: Any, stream: bool
) -> None:
    error = {"error": {"code": code, "message": "No auth credentials found"}}
    reply = await ask(serve, Reply((error, DONE)) if stream else Reply(whole=error), stream=stream)
    assert (reply.status, reply.error["code"]) == (502, "bad_upstream_reply")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("not available for lab", "not available for [hidden]"),
        ("key my-long-secretX at 127.0.0.1:9", "key [hidden]X at [hidden]"),
        ("POST http://127.0.0.1:9/v1/chat/completions", "POST [hidden]/chat/completions"),
    ],
)
def test_what_is_secret_is_hidden_and_other_words_are_left(said: str, told: str) -> None:
    assert hidden(said, ("", "lab", "my-long-secret", "http://127.0.0.1:9/v1")) == told


async def test_an_error_whose_words_never_come_is_known_by_its_status(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begin(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=500, headers={"content-type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"error"')
        await asyncio.Event().wait()
        return response

    double = plain()
    monkeypatch.setattr(double, "answer", begin)
    monkeypatch.setattr(call, "ERROR_WITHIN_S", 0.1)
    async with serving(double):
        client = await serve(models(double), default=CASCADE)
        reply = await client.chat()
        assert (reply.text, reply.gateway["path"]) == ("from n", "m!bad_reply,n")
