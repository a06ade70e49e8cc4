"""`has`: what a request carries beside plain text: image, audio, file, tools, code."""

import re
from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.signals import signal

# A line that looks like a statement in one of the common languages. Lines are cut short before they are matched.
STATEMENT = re.compile(
    r"(?:def|class|if|elif|else|for|while|try|except|with|async)\b.*:|"
    r"import [\w.]+|from [\w.]+ import .+|#include .+|@\w+.*|"
    r"(?:const|let|var|return|func|fn|function|public|private|static|package|using)\b.*[-+*/=<>(){}\[\];].*|"
    r"\w[\w.\[\]]* [-+*/]?= .+|"
    r".*[;{}]"
)
LOOKED_AT_CHARS = 20_000  # of the last user turn
LOOKED_AT_OF_A_LINE = 120


@signal("has", "set", values=("image", "audio", "file", "tools", "code"))
def has(request: ChatRequest, argument: Any) -> frozenset[str]:
    found = {modality for modality, _ in request.media}
    if request.body.get("tools") or request.body.get("functions"):
        found.add("tools")
    if _has_code(request.last_user_text[:LOOKED_AT_CHARS]):
        found.add("code")
    return frozenset(found)


def _has_code(text: str) -> bool:
    """A fence, or two neighbouring statements."""
    if "```" in text or "~~~" in text:
        return True
    if "\n" not in text:
        return False
    before = False
    for line in text.splitlines():
        is_statement = STATEMENT.fullmatch(line.strip()[:LOOKED_AT_OF_A_LINE]) is not None
        if is_statement and before:
            return True
        before = is_statement
    return False
