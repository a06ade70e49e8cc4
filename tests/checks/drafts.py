"""Drafts and requests for the tests of checks."""

from __future__ import annotations

from typing import Any

from gateway.chat import ChatRequest, Verdict
from gateway.draft import Draft
from gateway.trace import Trace


def whole(*choices: str | None | dict[str, Any]) -> Draft:
    """A finished draft; a choice is its text, or a `choice` object of which the common parts may be left out."""
    return Draft.of(
        {"choices": [{"index": i, "finish_reason": "stop", **as_choice(choice)} for i, choice in enumerate(choices)]}
    )


def as_choice(choice: str | None | dict[str, Any]) -> dict[str, Any]:
    return choice if isinstance(choice, dict) else {"message": {"role": "assistant", "content": choice}}


def prefix(*texts: str) -> Draft:
    """The beginning of a streamed draft, in pieces of three characters."""
    draft = Draft()
    for i, text in enumerate(texts):
        for start in range(0, len(text) or 1, 3):
            draft.add({"choices": [{"index": i, "delta": {"content": text[start : start + 3]}}]})
    return draft


def calls(*functions: tuple[str, str], content: str | None = None) -> dict[str, Any]:
    """A choice that calls functions, each a name and its arguments as JSON text."""
    tool_calls = [
        {"id": f"call_{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(functions)
    ]
    return {
        "message": {"role": "assistant", "content": content, "tool_calls": tool_calls},
        "finish_reason": "tool_calls",
    }


def asking(user: str = "", *, system: str | None = None, **body: Any) -> ChatRequest:
    """A request of one user turn, or of the `messages` given."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    return ChatRequest({"messages": [*messages, {"role": "user", "content": user}], **body})


def judged(check: Any, draft: Draft, request: ChatRequest | None = None) -> Verdict:
    """What the check says. None of ours ever waits, so no event loop is needed."""
    try:
        check(request or asking("?"), draft, Trace("tier", "test")).send(None)
    except StopIteration as done:
        verdict: Verdict = done.value
        return verdict
    raise AssertionError("the check waits for something")


def passes(check: Any, draft: Draft, request: ChatRequest | None = None) -> bool:
    return judged(check, draft, request).passed


def can_fail_prefix(check: Any) -> bool:
    return bool(check.can_fail_prefix)


def prefix_words(check: Any) -> int | None:
    words: int | None = check.prefix_words
    return words
