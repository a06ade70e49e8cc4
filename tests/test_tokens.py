"""The bounds hold for real tokenizers, whatever is written."""

from __future__ import annotations

from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.backends.counting import TiktokenCounter, encodings_folder
from gateway.tokens import MOST_BY_TEMPLATE, at_least, at_most, estimate, estimate_request, has_media, longest

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
AWKWARD = st.sampled_from(
    [
        "👩‍👩‍👧‍👦",
        "日本語のテキスト",
        "e\u0301\u0323",
        "\x00\x07\x1b",
        "\u200b\u202e",
        "ﷺ㍿",
        "𝔘𝔫𝔦",
        "<|im_end|>",
        " " * 300,
        "\n" * 70,
        "—" * 90,
    ]
)
TEXT = st.lists(st.one_of(AWKWARD, st.text(max_size=40), st.from_regex(r"[ -~]{0,80}")), max_size=8).map("".join)


def writable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT.filter(writable)},
)
BODY = st.fixed_dictionaries({"messages": st.lists(MESSAGE, min_size=1, max_size=6)})


def asking(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


@pytest.fixture(scope="module")
def encodings() -> list[tiktoken.Encoding]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(encodings_folder()))
        return [tiktoken.get_encoding("o200k_base"), tiktoken.get_encoding("cl100k_base")]


@settings(max_examples=60, deadline=None)
@given(body=BODY)
def test_openai_counts_lie_within_the_bounds(encodings: list[tiktoken.Encoding], body: dict[str, Any]) -> None:
    for encoding in encodings:
        counted = 3 + sum(
            3 + len(encoding.encode_ordinary(message["content"])) + len(encoding.encode_ordinary(message["role"]))
            for message in body["messages"]
        )
        most = at_most(body, TiktokenCounter("m", encoding.name).template_tokens)
        assert most is not None
        assert at_least(body) <= counted <= most


def test_no_token_of_an_encoding_is_longer_than_the_lower_bound_takes_it_to_be(
    encodings: list[tiktoken.Encoding],
) -> None:
    for encoding in encodings:
        assert max(map(len, encoding.token_byte_values())) <= 256


def test_all_that_a_template_may_write_counts_towards_the_upper_bound() -> None:
    bare = at_most(asking("hello")) or 0
    assert bare >= MOST_BY_TEMPLATE + len("hello")
    tool = {"type": "function", "function": {"name": "f", "description": "d" * 100}}
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"description": "d" * 100}}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}" * 50}}
    for richer in (
        asking("hello", tools=[tool]),
        asking("hello", response_format=schema),
        {"messages": [{"role": "user", "content": "hello", "name": "n" * 100}]},
        {"messages": [{"role": "user", "content": "hello", "tool_calls": [call]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello" * 21}]}]},
    ):
        assert (at_most(richer) or 0) >= bare + 100


def test_images_have_no_upper_bound() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, IMAGE]}]}
    assert has_media(body) and at_most(body) is None
    assert estimate_request(body) > 600
    assert not has_media(asking("hello"))


def test_the_lower_bound_sees_words_and_bytes() -> None:
    assert at_least(asking("a word " * 4000)) == 2000
    assert at_least(asking("日" * 25_600)) == 300
    assert at_least(asking("")) == 0


def test_estimates() -> None:
    assert (estimate(""), estimate("a"), estimate("four"), estimate("日本")) == (0, 1, 1, 2)
    assert estimate_request(asking("four")) == 3 + 4 + 1


def test_null_and_missing_content() -> None:
    body = {"messages": [{"role": "assistant", "content": None}, {"role": "user"}]}
    assert at_least(body) == 0 and (at_most(body, 0) or 0) > 0


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXT.filter(writable), min_size=1, max_size=4), suffix=TEXT.filter(writable))
def test_counts_of_prompts_lie_within_the_bounds(
    encodings: list[tiktoken.Encoding], texts: list[str], suffix: str
) -> None:
    for encoding in encodings:
        counted = sum(len(encoding.encode_ordinary(text)) for text in (*texts, suffix))
        most = at_most({"prompt": texts, "suffix": suffix})
        assert at_least({"prompt": texts, "suffix": suffix}) <= counted <= (most or 0)


def test_token_ids_are_counted_as_they_are() -> None:
    for prompt in ([7] * 12, [[7] * 5, [7] * 7]):
        assert estimate_request({"prompt": prompt}) == at_least({"prompt": prompt}) == 12
        assert 12 < (at_most({"prompt": prompt}) or 0) < 100
    assert estimate_request({"prompt": "four", "suffix": "eight ch"}) == 3
    assert not has_media({"prompt": "four"})


def test_other_files_count_towards_the_upper_bound() -> None:
    body = {"prompt": "x", "suffix": "y", "input_extra": [{"filename": "a", "text": "d" * 100}]}
    assert (at_most(body) or 0) > 100


def test_the_longest_of_several_prompts() -> None:
    assert longest({"prompt": ["a", "a long one", "b"], "n": 2}) == {"prompt": "a long one", "n": 2}
    assert longest({"prompt": [[1], [1, 2, 3]]})["prompt"] == [1, 2, 3]
    for body in (asking("hello"), {"prompt": "a"}, {"prompt": [1, 2]}):
        assert longest(body) is body
