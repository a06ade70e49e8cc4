"""Stored responses: going on from one, asking for one again, deleting it, counting."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.access.keys import create_key
from gateway.backends.script import Script
from gateway.store import responses as responses_module
from tests.asgi import Client, Response
from tests.conftest import Serve
from tests.openai_schemas import ERROR, RESPONSE, assert_valid
from tests.upstream import SINGLE

Json = dict[str, Any]
MODELS = """
models:
  m1:
    engine: scripted
    replies:
      - {when: {contains: weather}, times: 1, tool_calls: [{name: look_up, arguments: {city: Paris}}], reasoning: hm}
      - {text: I see}
"""


async def ask(client: Client, input: Any = "hello", *, key: str = "", **fields: Any) -> Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return await client.call("POST", "/v1/responses", {"model": "auto", "input": input, **fields}, headers)


async def asked(client: Client, method: str, path: str, key: str = "") -> Response:
    return await client.call(method, f"/v1/responses/{path}", None, {"authorization": f"Bearer {key}"} if key else {})


def sent(client: Client) -> list[Json]:
    """The messages of the last request to the model."""
    script: Script = client.gateway.models["m1"].responder.client.script  # type: ignore[union-attr]
    messages: list[Json] = script.requests[-1]["messages"]
    return messages


async def test_a_conversation_goes_on_from_a_response(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    first = (await ask(client, "weather?", instructions="old rules", tools=[])).json
    call = first["output"][-1]
    answer = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    second = (await ask(client, [answer], previous_response_id=first["id"], instructions="new rules")).json
    assert second["previous_response_id"] == first["id"]
    assert [message["role"] for message in sent(client)] == ["system", "user", "assistant", "tool"]
    assert sent(client)[0]["content"] == "new rules" and sent(client)[2]["reasoning_content"] == "hm"
    await ask(client, "thanks", previous_response_id=second["id"])
    assert [message["content"] for message in sent(client)] == ["weather?", None, "sunny", "I see", "thanks"]


async def test_a_streamed_response_is_stored_before_its_last_event(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    call = client.start("POST", "/v1/responses", {"model": "auto", "input": "hello", "stream": True})
    while b"response.completed" not in call.response.body:
        call.wrote.clear()
        await call.wrote.wait()
    stream = [block.split("data: ", 1)[1] for block in call.response.body.decode().split("\n\n") if block]
    response_id = stream[-1].split('"id":"', 1)[1].split('"')[0]
    assert (await ask(client, "more", previous_response_id=response_id)).status == 200
    assert [message["content"] for message in sent(client)] == ["hello", "I see", "more"]
    await call.done()


async def test_a_response_can_be_had_again_until_it_is_deleted(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    response = (await ask(client)).json
    again = (await asked(client, "GET", response["id"])).json
    assert again == response
    assert_valid(RESPONSE, again)
    gone = await asked(client, "DELETE", response["id"])
    assert gone.json == {"id": response["id"], "object": "response", "deleted": True}
    for method in ("GET", "DELETE"):
        reply = await asked(client, method, response["id"])
        assert reply.status == 404
        assert_valid(ERROR, reply.json)
    reply = await ask(client, previous_response_id=response["id"])
    assert (reply.status, reply.error["code"]) == (400, "previous_response_not_found")
    assert reply.error["param"] == "previous_response_id"


async def test_what_is_not_to_be_stored_is_not(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    response = (await ask(client, store=False)).json
    assert response["store"] is False
    assert (await asked(client, "GET", response["id"])).status == 404


async def test_what_is_too_large_to_be_stored_says_so(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    assert client.runtime.responses is not None
    client.runtime.responses.max_response_bytes = 100
    assert (await ask(client)).json["store"] is False
    assert b'"store":false' in (await ask(client, stream=True)).writes[-1]


async def test_another_key_finds_nothing(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    open_one = (await ask(client)).json["id"]
    assert client.runtime.database is not None and client.runtime.keys is not None
    one, other = [(await create_key(client.runtime.database, name))[1] for name in ("one", "other")]
    await client.runtime.keys.refresh()
    mine = (await ask(client, key=one)).json["id"]
    assert (await asked(client, "GET", mine, one)).status == 200
    for name, key in ((mine, other), (open_one, one)):
        assert (await asked(client, "GET", name, key)).status == 404
        assert (await asked(client, "GET", f"{name}/input_items", key)).status == 404
        assert (await asked(client, "DELETE", name, key)).status == 404
        assert (await ask(client, key=key, previous_response_id=name)).error["code"] == "previous_response_not_found"
    assert (await asked(client, "GET", mine)).status == 401


async def test_references_to_items_are_followed(serve: Serve) -> None:
    """As Vercel's SDK sends them."""
    client = await serve(MODELS, default=SINGLE)
    output = (await ask(client, "weather?")).json["output"]
    references = [{"type": "item_reference", "id": output[0]["id"]}, {"id": output[1]["id"]}]
    answer = {"type": "function_call_output", "call_id": output[1]["call_id"], "output": "sunny"}
    assert (await ask(client, [{"role": "user", "content": "weather?"}, *references, answer])).status == 200
    assert [message["role"] for message in sent(client)] == ["user", "assistant", "tool"]
    assert sent(client)[1]["reasoning_content"] == "hm"


async def test_input_items_are_listed_page_by_page(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    first = (await ask(client, "one")).json
    second = (await ask(client, [{"role": "user", "content": "two"}], previous_response_id=first["id"])).json
    page = (await asked(client, "GET", f"{second['id']}/input_items?order=asc")).json
    texts = [item["content"][0]["text"] for item in page["data"]]
    assert texts == ["one", "I see", "two"] and page["object"] == "list" and not page["has_more"]
    assert [item["content"][0]["type"] for item in page["data"]] == ["input_text", "output_text", "input_text"]
    newest = (await asked(client, "GET", f"{second['id']}/input_items?limit=1")).json
    assert newest["data"][0] == page["data"][2] and newest["has_more"]
    assert newest["first_id"] == newest["last_id"] == page["data"][2]["id"]
    rest = (await asked(client, "GET", f"{second['id']}/input_items?after={newest['last_id']}")).json
    assert [item["content"][0]["text"] for item in rest["data"]] == ["I see", "one"]
    for query in ("limit=0", "limit=101", "limit=x", "order=up", "after=nobody"):
        reply = await asked(client, "GET", f"{second['id']}/input_items?{query}")
        assert (reply.status, reply.error["param"]) == (400, query.split("=")[0])


async def test_a_stored_response_is_not_streamed_again(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    response = (await ask(client)).json
    reply = await asked(client, "GET", f"{response['id']}?stream=true")
    assert (reply.status, reply.error["param"]) == (400, "stream")


async def test_a_request_is_counted_as_its_model_would(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    response = (await ask(client, "hello")).json
    path, body = "/v1/responses/input_tokens", {"model": "auto", "input": "hello"}
    counted = (await client.call("POST", path, body)).json
    assert counted["object"] == "response.input_tokens" and not counted["gateway"]["estimated"]
    assert counted["input_tokens"] == response["usage"]["input_tokens"]
    assert (await client.call("POST", path, {**body, "model": "m1"})).json == counted
    assert (await client.call("POST", path, {"input": "hello"})).json == counted
    longer = (await client.call("POST", path, {**body, "previous_response_id": response["id"]})).json
    assert longer["input_tokens"] > counted["input_tokens"]
    assert (await client.call("POST", path, {"model": "nobody", "input": "hello"})).status == 404
    assert (await client.call("POST", path, {"model": "auto"})).error["param"] == "input"


async def test_a_conversation_that_no_body_could_hold_is_refused(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await serve(MODELS, default=SINGLE)
    assert responses_module.MAX_CHAIN_BYTES == 32 * 2**20
    assert client.runtime.responses is not None
    monkeypatch.setattr(client.runtime.responses, "max_chain_bytes", 10)
    response = (await ask(client)).json
    reply = await ask(client, previous_response_id=response["id"])
    assert (reply.status, reply.error["param"]) == (413, "previous_response_id")
