"""Anthropic's SDKs may send only what is new in a conversation; what is not kept here must not be answered alone."""

from tests.conftest import Serve
from tests.upstream import SINGLE

MODELS = "models: {m1: {engine: scripted, replies: [{text: hi}]}}"
TURN = {"model": "m1", "max_tokens": 9, "messages": [{"role": "user", "content": "And?"}]}


async def test_going_on_from_a_thread_asks_for_the_whole_conversation(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    body = {**TURN, "thread": {"type": "continue", "previous_message_id": "msg_x"}}
    reply = await client.call("POST", "/v1/messages", body)
    assert (reply.status, reply.error["type"]) == (404, "not_found_error")
    assert reply.error["details"] == {"error_code": "thread_not_found"}


async def test_a_thread_that_begins_is_answered(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    reply = await client.call("POST", "/v1/messages", {**TURN, "thread": {"type": "create"}})
    assert reply.status == 200 and "thread" in reply.headers["x-gateway-dropped"]
