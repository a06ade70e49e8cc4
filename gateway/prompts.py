"""Prompts in place of messages: what OpenAI's older `/completions` takes, and its answers to and from a chat's shape.

Inside the gateway an answer is chat-shaped whatever was asked: the text is a message's `content`, and log-probabilities
are a list of one object a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

Json = dict[str, Any]
Prompt = str | list[int]  # token ids are the model's own


def is_prompt(body: Mapping[str, Any]) -> bool:
    return "prompt" in body and not body.get("messages")


def prompts_of(body: Mapping[str, Any]) -> list[Prompt]:
    """One prompt, or several that are answered apart; each a text or a list of token ids."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list):
        return []
    if prompt and all(isinstance(item, int) for item in prompt):
        return [prompt]
    return [item for item in prompt if isinstance(item, str | list)]


def texts_of_prompts(body: Mapping[str, Any]) -> list[str]:
    return [prompt for prompt in prompts_of(body) if isinstance(prompt, str)]


# --- from a completion to a chat


def as_chat(said: object, content: str) -> object:
    """What an upstream said at `/completions`, in a chat's shape; `content` is `delta` or `message`. What is no
    completion is left as it is, for the reader of chats to refuse."""
    choices = said.get("choices") if isinstance(said, dict) else None
    if not isinstance(said, dict) or not isinstance(choices, list):
        return said
    kind = "chat.completion.chunk" if content == "delta" else "chat.completion"
    return {**said, "object": kind, "choices": [_chat_choice(choice, content) for choice in choices]}


def _chat_choice(choice: object, content: str) -> object:
    if not isinstance(choice, dict) or "text" not in choice:
        return choice
    rest = {name: value for name, value in choice.items() if name != "text"}
    return {**rest, content: {"content": choice["text"] or ""}, "logprobs": chat_logprobs(choice.get("logprobs"))}


def chat_logprobs(said: Any) -> Any:
    """Lists by kind become one object a token. llama.cpp writes them so already."""
    if not isinstance(said, Mapping) or "tokens" not in said:
        return said
    kinds = (said.get(name) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"))
    rows = zip_longest(*(kind if isinstance(kind, list) else () for kind in kinds))
    return {"content": [_token(*row) for row in rows], "refusal": None}


def _token(token: Any, logprob: Any, top: Any, offset: Any) -> Json:
    others = [{"token": t, "logprob": p, "bytes": None} for t, p in top.items()] if isinstance(top, Mapping) else None
    out = {"token": token, "logprob": logprob, "bytes": None, "top_logprobs": others}
    return out if offset is None else {**out, "text_offset": offset}


# --- and back


def text_logprobs(tokens: Sequence[Any], top: int, offset: int) -> tuple[Json, int]:
    """Lists by kind, and where the next token stands.

    Args:
        top: how many alternatives to show beside the chosen token.
        offset: where the first token stands, in characters, unless the upstream has said.
    """
    out: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [] if top else None, "text_offset": []}
    for token in tokens:
        if not isinstance(token, Mapping):
            continue
        text, said = str(token.get("token") or ""), token.get("text_offset")
        offset = said if isinstance(said, int) else offset
        out["tokens"].append(text)
        out["token_logprobs"].append(token.get("logprob"))
        out["text_offset"].append(offset)
        if top:
            out["top_logprobs"].append(_alternatives(token.get("top_logprobs"), top + 1))
        offset += len(text)
    return out, offset


def _alternatives(said: Any, most: int) -> Json | None:
    """None for a token that nothing was foretold of: the first of a prompt."""
    if not isinstance(said, list):
        return None
    return {str(one.get("token")): one.get("logprob") for one in said[:most] if isinstance(one, Mapping)}
