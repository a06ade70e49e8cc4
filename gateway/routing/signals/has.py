"""`has`: what a request carries beside plain text: image, audio, file, tools, code."""

import re
from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.signals import signal

# A fence, or two neighbouring lines that look like statements in one of the common languages.
LINE = (
    r"[ \t]*(?:"
    r"(?:def|class|if|elif|else|for|while|try|except|with|async)\b[^\n]*:|"
    r"(?:import [\w.]+|from [\w.]+ import [^\n]+|#include [^\n]+|@\w+[^\n]*)|"
    r"(?:const|let|var|return|func|fn|function|public|private|static|package|using)\b[^\n]*[-+*/=<>(){}\[\];][^\n]*|"
    r"\w[\w.\[\]]* [-+*/]?= [^\n]+|"
    r"[^\n]*[;{}]"
    r")[ \t]*"
)
CODE = re.compile(rf"(?:^|\n){LINE}\n{LINE}(?:\n|$)")
CODE_WINDOW = 20_000  # characters of the last user turn that are looked at


@signal("has", "set", values=("image", "audio", "file", "tools", "code"))
async def has(request: ChatRequest, argument: Any) -> frozenset[str]:
    found = {modality for modality, _ in request.media}
    if request.body.get("tools") or request.body.get("functions"):
        found.add("tools")
    if _has_code(request.last_user_text[:CODE_WINDOW]):
        found.add("code")
    return frozenset(found)


def _has_code(text: str) -> bool:
    if "```" in text or "~~~" in text:
        return True
    return "\n" in text and CODE.search(text) is not None
