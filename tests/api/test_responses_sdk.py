"""OpenAI's own client against a server on a socket."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import uvicorn
from openai.types.shared_params import Reasoning
from pydantic import BaseModel

from gateway.store.database import FILE_NAME
from tests.conftest import running

MODELS = """
models:
  m1:
    engine: scripted
    replies:
      - {when: {contains: weather}, tool_calls: [{name: look_up, arguments: {city: Paris}}]}
      - {when: {contains: capital}, text: '{"city": "Paris"}'}
      - {when: {contains: story}, text: Once upon, finish_reason: length}
      - {when: {contains: think}, text: So it is, reasoning: let me see}
      - {when: {contains: break}, text: one two three, error_after: 3}
      - {text: Hello you}
"""
POLICY = """
policy: default
routes:
  - {name: all, answer: {model: m1}}
"""
LOOK_UP = openai.types.responses.FunctionToolParam(
    type="function",
    name="look_up",
    strict=True,
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


class Place(BaseModel):
    city: str


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("sdk")
    (folder / "home").mkdir()
    shutil.copy(empty_database, folder / "home" / FILE_NAME)
    started, stop, loops = threading.Event(), asyncio.Event(), []
    bound = socket.create_server(("127.0.0.1", 0))

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with running(folder, MODELS, default=POLICY) as gateway:
            server = uvicorn.Server(uvicorn.Config(gateway.app, lifespan="off", ws="none", log_config=None))
            task = asyncio.create_task(server.serve(sockets=[bound]))
            started.set()
            await stop.wait()
            server.should_exit = True
            await task

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(20)
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{bound.getsockname()[1]}/v1", api_key="unused", max_retries=0, timeout=20
    ) as sdk:
        yield sdk
    loops[0].call_soon_threadsafe(stop.set)
    thread.join(20)
    assert not thread.is_alive()


def test_create(client: openai.OpenAI) -> None:
    response = client.responses.create(model="auto", input="hi")
    assert response.output_text == "Hello you" and response.status == "completed"
    assert response.usage is not None and response.usage.output_tokens == 2
    assert response._request_id


def test_create_streamed(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="auto", input="hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello you"
    assert events[-1].type == "response.completed" and events[-1].response.output_text == "Hello you"


@pytest.mark.parametrize("reasoning", [{}, {"summary": "auto"}])
def test_the_stream_helper(client: openai.OpenAI, reasoning: Reasoning) -> None:
    with client.responses.stream(model="auto", input="think", reasoning=reasoning) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots == ["So", "So it", "So it is"]
    assert [item.type for item in final.output] == ["reasoning", "message"] and final.output_text == "So it is"


def test_the_stream_helper_with_tools(client: openai.OpenAI) -> None:
    with client.responses.stream(model="auto", input="weather?", tools=[LOOK_UP]) as stream:
        final = stream.get_final_response()
    call = final.output[0]
    assert call.type == "function_call" and call.parsed_arguments == {"city": "Paris"}


def test_parse(client: openai.OpenAI) -> None:
    response = client.responses.parse(model="auto", input="a capital", text_format=Place)
    assert response.output_parsed == Place(city="Paris")
    with client.responses.stream(model="auto", input="a capital", text_format=Place) as stream:
        assert stream.get_final_response().output_parsed == Place(city="Paris")


def test_a_tool_loop_that_is_replayed(client: openai.OpenAI) -> None:
    first = client.responses.create(model="auto", input="weather?", tools=[LOOK_UP], store=False)
    call = first.output[0]
    assert call.type == "function_call"
    replayed = [item.model_dump(exclude_unset=True) for item in first.output]
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(
        model="auto",
        input=[{"role": "user", "content": "so?"}, *replayed, answer],  # type: ignore[list-item]
        store=False,
    )
    assert second.output_text == "Hello you"


def test_a_stored_response(client: openai.OpenAI) -> None:
    first = client.responses.create(model="auto", input="hi")
    second = client.responses.create(model="auto", input="and?", previous_response_id=first.id)
    assert client.responses.retrieve(second.id).output_text == "Hello you"
    listed = list(client.responses.input_items.list(second.id, limit=2, order="asc"))
    assert [item.type for item in listed] == ["message"] * 3  # it has turned the page
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="auto", input="and?", previous_response_id=second.id)
    assert caught.value.code == "previous_response_not_found"


def test_counting(client: openai.OpenAI) -> None:
    assert client.responses.input_tokens.count(model="auto", input="hi").input_tokens > 0


def test_an_answer_cut_short(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="auto", input="a story", stream=True, max_output_tokens=16))
    last = events[-1]
    assert last.type == "response.incomplete" and last.response.incomplete_details is not None
    assert last.response.incomplete_details.reason == "max_output_tokens"


def test_an_answer_that_breaks_off(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="auto", input="break", stream=True))
    assert events[-1].type == "response.failed" and events[-1].response.error is not None


def test_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="nobody", input="hi")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        client.responses.create(model="auto", input="hi", background=True)
    assert wrong.value.param == "background"
