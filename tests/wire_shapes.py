"""What every reply must look like, whichever test asked for it: OpenAI's schemas, and the order of a stream."""

from __future__ import annotations

from typing import Any, Protocol

from gateway.api.paths import canonical
from tests import openai_schemas as schemas

WHOLE = {
    "/v1/chat/completions": schemas.CHAT,
    "/v1/fim/completions": schemas.CHAT,
    "/v1/completions": schemas.COMPLETION,
    "/v1/embeddings": schemas.EMBEDDINGS,
    "/v1/responses": schemas.RESPONSE,
}
CHUNK = {
    "/v1/chat/completions": schemas.CHAT_CHUNK,
    "/v1/fim/completions": schemas.CHAT_CHUNK,
    "/v1/completions": schemas.COMPLETION,
    "/v1/responses": schemas.RESPONSE_EVENT,
}
OTHER_ENVELOPES = ("/v1/messages", "/api/")


class Reply(Protocol):
    status: int
    headers: dict[str, str]
    finished: bool
    writes: list[bytes]

    @property
    def body(self) -> bytes: ...
    @property
    def json(self) -> Any: ...
    @property
    def events(self) -> list[Any]: ...


def check(asked: tuple[str, str], reply: Reply) -> None:
    """Fails the test whose reply departs from the schemas."""
    method, path = asked[0], canonical(asked[1])[0]
    if not reply.finished or not reply.body or path.startswith(OTHER_ENVELOPES):
        return
    media = reply.headers.get("content-type", "")
    if reply.status >= 400:
        if path.startswith("/v1/"):
            schemas.assert_valid(schemas.ERROR, reply.json)
    elif media.startswith("text/event-stream"):
        _check_stream(CHUNK[path], reply)
    elif method == "POST" and path in WHOLE:
        schemas.assert_valid(WHOLE[path], _without_base64(reply.json))


def _without_base64(said: Any) -> Any:
    """OpenAI sends embeddings so when it is asked to; its schema knows lists of numbers alone."""
    for entry in said.get("data") or () if said.get("object") == "list" else ():
        if isinstance(entry.get("embedding"), str):
            entry["embedding"] = [0.0]
    return said


def _check_stream(name: str, reply: Reply) -> None:
    assert all(write.endswith(b"\n\n") for write in reply.writes), "only whole events are written"
    for event in reply.events:
        if event == "[DONE]":
            continue
        if "error" in event and "choices" not in event and "type" not in event:
            schemas.assert_valid(schemas.ERROR, event)
            assert event is reply.events[-1] or event == reply.events[-1], "nothing comes after an error"
        else:
            schemas.assert_valid(name, _finished(event) if name == schemas.COMPLETION else event)
    if name == schemas.CHAT_CHUNK:
        _check_chat(reply.events)


def _finished(event: Any) -> Any:
    """OpenAI's schema for a whole completion is that of its chunks too, where no choice but the last has a reason to
    finish."""
    choices = [{**c, "finish_reason": "stop"} if c["finish_reason"] is None else c for c in event["choices"]]
    return {**event, "choices": choices}


def _check_chat(events: list[Any]) -> None:
    """One id, date and model; the role first, the reason to finish last and once, of each choice."""
    chunks = [event for event in events if event != "[DONE]" and "choices" in event]
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) <= 1
    spoken: dict[int, list[Any]] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            spoken.setdefault(choice["index"], []).append(choice)
    for choices in spoken.values():
        assert choices[0]["delta"].get("role") == "assistant"
        assert not any("role" in choice["delta"] for choice in choices[1:])
        assert not any(choice["finish_reason"] for choice in choices[:-1])
        if events[-1] == "[DONE]":
            assert choices[-1]["finish_reason"]
    assert events.count("[DONE]") <= 1 and "[DONE]" not in events[:-1]
