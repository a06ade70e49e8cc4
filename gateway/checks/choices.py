"""What the checks share: every choice is judged, and the first one at fault fails the draft."""

from __future__ import annotations

from collections.abc import Callable

from gateway.chat import PASSED, Json, Verdict
from gateway.draft import ChoiceDraft, Draft


def judge(draft: Draft, fault: Callable[[ChoiceDraft], str | None]) -> Verdict:
    """Passed where `fault` finds nothing wrong with any choice. A finished draft without choices is at fault."""
    choices = draft.choices
    if draft.complete and not choices:
        return Verdict(False, "no choices")
    for choice in choices:
        reason = fault(choice)
        if reason is not None:
            return Verdict(False, reason if len(choices) == 1 else f"choice {choice.index}: {reason}")
    return PASSED


def calls_of(choice: ChoiceDraft) -> list[Json]:
    """Its tool calls, a legacy `function_call` among them."""
    legacy = choice.rest.get("function_call")
    return [*choice.tool_calls, {"type": "function", "function": legacy}] if legacy else choice.tool_calls


def only_calls(choice: ChoiceDraft) -> bool:
    """It calls tools and says nothing: there are no words to judge."""
    return bool(calls_of(choice)) and not choice.text.strip()
