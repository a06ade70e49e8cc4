"""When an answer is right: as the larger model has it, and alone where that is asked."""

from __future__ import annotations

import pytest

from gateway.chat import ChatRequest
from gateway.training.specialists import is_right


@pytest.mark.parametrize(
    ("system", "said", "right"),
    [
        ("Write the date. Answer with the date alone.", "2015-08-13", True),
        ("Write the date. Answer with the date alone.", "The date is 2015-08-13.", False),
        ("When was it?", "The date is 2015-08-13.", True),
        ("When was it?", "The date is 2015-08-14.", False),
        ("Reply with the label and nothing else.", "", False),
    ],
)
def test_a_sentence_around_what_is_wanted_alone_is_wrong(system: str, said: str, right: bool) -> None:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "We met on August 13, 2015."}]
    message = {"role": "assistant", "content": said}
    wanted = {"role": "assistant", "content": "2015-08-13"}
    assert is_right(ChatRequest({"messages": messages}), message, wanted) is right
