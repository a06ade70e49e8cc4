"""How many tokens a request has: counted by somebody who knows (`Counter`), estimated, or kept within bounds that need
no tokenizer at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from gateway.prompts import Prompt, is_prompt, prompts_of, texts_of_prompts

BYTES_PER_TOKEN = 4  # English prose and code; scripts with longer UTF-8 have about as many bytes to a token
TOKENS_PER_MESSAGE = 4
TOKENS_PER_MEDIA_PART = 600

# What a chat template may add: see docs/context.md. No known token is longer than 128 bytes, and those that span words
# span four at most.
MOST_PER_MESSAGE = 32
MOST_FOR_TOOLS = 1024
MOST_PER_JSON_BYTE = 8  # templates write JSON anew: escaped, indented, or as another language
MOST_BY_TEMPLATE = 2048
LONGEST_TOKEN_BYTES = 256
MOST_WORDS_PER_TOKEN = 4
LOOKED_AT_CHARS = 400_000
MOST_PER_PROMPT = 16  # what opens a text, and the marks of where to fill in
RENDERED_FIELDS = ("tools", "functions", "response_format", "documents", "chat_template_kwargs")
RENDERED = frozenset(RENDERED_FIELDS)


@dataclass(frozen=True, slots=True)
class Count:
    """Tokens of a prompt. `estimated`: nobody asked the model's own tokenizer, or it could not tell."""

    tokens: int
    estimated: bool


class Counter(Protocol):
    """Counts as one model does. Hashable; one per model."""

    @property
    def name(self) -> str:
        """The model's name in models.yaml."""

    @property
    def only_estimates(self) -> bool:
        """Nobody here has the model's tokenizer, so that a count is `estimate_request`."""

    @property
    def template_tokens(self) -> int:
        """The most that the model's chat template adds on its own, such as a system prompt where there is none."""

    async def count(self, body: Mapping[str, Any]) -> Count:
        """Tokens of a chat request's messages and tools, or of its prompts, as the model will read them. Where it
        cannot be told in good time, an estimate; never an error."""


def estimate(text: str) -> int:
    """Tokens of a text, rounded up."""
    return -(-_size(text) // BYTES_PER_TOKEN)


def estimate_request(body: Mapping[str, Any]) -> int:
    """Tokens that a chat request's messages and tools come to, or its prompts."""
    if is_prompt(body):
        return sum(map(estimate, texts_of(body))) + given_ids(body)
    total = 3
    for message in body.get("messages") or ():
        total += TOKENS_PER_MESSAGE
        content = message.get("content")
        if isinstance(content, str):
            total += estimate(content)
        elif isinstance(content, list):
            for part in content:
                text = part.get("text") if isinstance(part, Mapping) else None
                total += estimate(text) if isinstance(text, str) else TOKENS_PER_MEDIA_PART
        if message.get("tool_calls"):
            total += len(orjson.dumps(message["tool_calls"])) // BYTES_PER_TOKEN
    if body.get("tools"):
        total += len(orjson.dumps(body["tools"])) // BYTES_PER_TOKEN
    return total


def at_most(body: Mapping[str, Any], template_tokens: int = MOST_BY_TEMPLATE) -> int | None:
    """More tokens than this it cannot have, for no token is shorter than a byte. None where that says nothing: images
    and the like."""
    if is_prompt(body):
        texts, extra = list(texts_of(body)), body.get("input_extra")  # llama.cpp: other files, for filling in
        total = sum(map(_size, texts)) + given_ids(body) + MOST_PER_PROMPT * (1 + len(prompts_of(body)))
        return total + (MOST_FOR_TOOLS + _most_of_json(extra) if extra else 0)
    total = template_tokens
    for message in body.get("messages") or ():
        total += MOST_PER_MESSAGE
        for name, value in message.items():
            if isinstance(value, str):
                total += len(value) if value.isascii() else _size(value)
            elif name == "content" and isinstance(value, list):
                for part in value:
                    text = part.get("text") if isinstance(part, Mapping) else part
                    if not isinstance(text, str):
                        return None
                    total += _size(text) + 1  # parts may be joined by a line end
            elif value:
                total += MOST_FOR_TOOLS + _most_of_json(value)
    for name in RENDERED_FIELDS:
        if body.get(name):
            total += MOST_FOR_TOOLS + _most_of_json(body[name])
    return total


def likely_and_most(body: Mapping[str, Any], template_tokens: int = MOST_BY_TEMPLATE) -> tuple[float, float]:
    """`estimate_request` and `at_most` (infinite where that says nothing), which for plain conversations are one look
    at each message."""
    likely, most = 3, template_tokens
    if RENDERED.isdisjoint(body):
        for message in body.get("messages") or ():
            content = message.get("content")
            if not isinstance(content, str) or len(message) != 2:
                break
            size = len(content) if content.isascii() else _size(content)
            likely += TOKENS_PER_MESSAGE - (-size // BYTES_PER_TOKEN)
            most += MOST_PER_MESSAGE + size + len(message["role"])
        else:
            if "messages" in body:
                return min(likely, most), most
    bound = at_most(body, template_tokens)
    high = math.inf if bound is None else bound
    return min(estimate_request(body), high), high


def at_least(body: Mapping[str, Any]) -> int:
    """Fewer tokens than this it cannot have. Far below the truth: for what is much too large."""
    size = words = 0
    left = LOOKED_AT_CHARS
    for text in texts_of(body):
        size += _size(text)
        if left > 0:  # splitting takes 10 ms a megabyte
            words += len(text[:left].split())
            left -= len(text)
    return max(size // LONGEST_TOKEN_BYTES, words // MOST_WORDS_PER_TOKEN) + given_ids(body)


def texts_of(body: Mapping[str, Any]) -> Iterator[str]:
    """What the messages say, part by part; or the prompts and what is to come after them."""
    if is_prompt(body):
        yield from texts_of_prompts(body)
        if isinstance(body.get("suffix"), str):
            yield body["suffix"]
        return
    for message in body.get("messages") or ():
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            for part in content:
                text = part.get("text") if isinstance(part, Mapping) else part
                if isinstance(text, str):
                    yield text


def given_ids(body: Mapping[str, Any]) -> int:
    """Tokens of prompts that come as ids."""
    return sum(len(prompt) for prompt in prompts_of(body) if isinstance(prompt, list)) if is_prompt(body) else 0


def longest(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """With one prompt, where there are several: each has the model's context to itself."""
    prompts = prompts_of(body) if is_prompt(body) else []
    return {**body, "prompt": max(prompts, key=_weight)} if len(prompts) > 1 else body


def _weight(prompt: Prompt) -> int:
    return estimate(prompt) if isinstance(prompt, str) else len(prompt)


def has_media(body: Mapping[str, Any]) -> bool:
    """Is there content that is not text?"""
    for message in body.get("messages") or ():
        content = message.get("content")
        if isinstance(content, list) and any(
            isinstance(part, Mapping) and not isinstance(part.get("text"), str) for part in content
        ):
            return True
    return False


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _most_of_json(value: Any) -> int:
    return MOST_PER_JSON_BYTE * len(orjson.dumps(value))
