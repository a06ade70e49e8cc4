"""Files to train on are read strictly, and the line at fault is named."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.errors import InvalidRequest
from gateway.training.pairs import Pair, digest_of, read_pairs, written
from gateway.training.settings import Settings, settings_for

USER, ANSWER = {"role": "user", "content": "Where is my card?"}, {"role": "assistant", "content": "card"}


def lines(*data: Any) -> bytes:
    return b"\n".join(one if isinstance(one, bytes) else orjson.dumps(one) for one in data)


def test_chats_are_read_and_written_as_they_were() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]}
    said = [{"messages": [USER, ANSWER]}, {"messages": [USER, call], "tools": [{"type": "function"}]}]
    pairs = read_pairs(lines(said[0], b"", b"  ", said[1]))
    assert [pair.as_json() for pair in pairs] == said
    assert read_pairs(written(pairs)) == pairs


def test_what_is_learned_are_the_assistants_turns_that_count() -> None:
    light = {**ANSWER, "weight": 0}
    pair = Pair((USER, light, USER, ANSWER))
    assert pair.learned == [3]
    assert digest_of([Pair((USER, ANSWER))]) != digest_of([pair]) == digest_of([pair])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"{", "line 2 is no JSON"),
        (b"[]", "line 2: wants an object"),
        ({"messages": []}, "line 2: wants an object with a list of 'messages'"),
        ({"messages": [USER]}, "the last message has to be the assistant's"),
        ({"messages": [{"role": "robot", "content": "x"}, ANSWER]}, "messages[0] has no 'role'"),
        ({"messages": [{"role": "user", "content": ""}, ANSWER]}, "messages[0] has no text"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}, ANSWER]}, "messages[0] has no text"),
        ({"messages": [USER, {"role": "assistant", "tool_calls": []}]}, "messages[1] has 'tool_calls'"),
        ({"messages": [USER, {**ANSWER, "weight": 2}]}, "messages[1] has a 'weight'"),
        ({"messages": [USER, {**ANSWER, "weight": 0}]}, "no message of the assistant has a weight of 1"),
        ({"messages": [USER, ANSWER], "tools": {}}, "'tools' has to be a list"),
        ({"messages": "hello"}, "wants an object"),
    ],
)
def test_the_line_at_fault_is_named(line: Any, fault: str) -> None:
    with pytest.raises(InvalidRequest, match="line 2") as caught:
        read_pairs(lines({"messages": [USER, ANSWER]}, line))
    assert fault in caught.value.message and caught.value.param == "training_file"


def test_settings_go_by_the_number_of_pairs_and_by_what_is_said() -> None:
    assert (settings_for(100).epochs, settings_for(500).epochs, settings_for(5000).epochs) == (5, 3, 2)
    assert settings_for(100, {"epochs": 1, "learning_rate": 1e-4}) == Settings(epochs=1, learning_rate=1e-4)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"epoch": 3}, "there is no setting 'epoch'"),
        ({"epochs": 0}, "from 1 to 50"),
        ({"epochs": 2.5}, "a whole number"),
        ({"rank": "8"}, "a whole number"),
        ({"batch": True}, "a whole number"),
        ({"learning_rate": 1.0}, "from 1e-07 to 0.1"),
    ],
)
def test_settings_that_are_none_are_refused(said: dict[str, Any], fault: str) -> None:
    with pytest.raises(InvalidRequest, match="'") as caught:
        settings_for(100, said)
    assert fault in caught.value.message and caught.value.param == next(iter(said))
