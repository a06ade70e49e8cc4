"""`background`: is this a chore that a chat or IDE client sends by itself: a title, tags, follow-up questions?

Told by the clients' own prompts (Open WebUI, LibreChat, Continue, Zed, VS Code, Claude Code, opencode, Goose, NextChat,
LobeChat, Chatbox), each cut down to what stays the same between versions.
"""

import re
from typing import Any

from gateway.chat import ChatRequest, text_of
from gateway.routing.signals import signal

PHRASES = (  # lower case
    "you are a title generator",
    "crafting pithy titles",
    "give this conversation a name",
    "description of this session in",
    "isnewtopic",
    "broad tags categorizing",
    "relevant follow-up questions",
    "necessity of generating search queries",
    "you are an autocompletion system",
)
TITLE = re.compile(r"\btitle\b|标题")
# Near the word title: how long it may be, and what it is for. A person who wants a title names another thing.
LENGTH = re.compile(
    r"\b(?:concise|short|brief|pithy|succinct|words?|less than|under)\b|"
    r"\b\d+[- ]?(?:to |-|or )?\d*[- ]words?\b|个字以内"
)
TALK = re.compile(
    r"\b(?:this|the|our|a|following|user'?s?) (?:\w+ )?"
    r"(?:conversation|chat|thread|session|discussion|dialogue|message)\b|会话"
)
NEAR = 250  # characters
WINDOW = 1500  # characters looked at, at both ends of a turn: clients put the task before or after the chat itself


@signal("background", "flag")
def background(request: ChatRequest, argument: Any) -> bool:
    if request.body.get("tools"):
        return False  # an agent at work, whatever its prompt says
    texts: list[str] = []
    for first in request.messages[:1]:  # none where there is a prompt
        if first.get("role") in ("system", "developer"):
            texts += _ends(text_of(first.get("content")))
    texts += _ends(request.last_user_text)
    together = "\n".join(texts).lower()
    for phrase in PHRASES:
        if phrase in together:
            return True
    if "title" not in together and "标题" not in together:  # cheaper than the pattern, and true of most requests
        return False
    return any(_wants_title(text.lower()) for text in texts)


def _ends(text: str) -> tuple[str, ...]:
    return (text,) if len(text) <= 2 * WINDOW else (text[:WINDOW], text[-WINDOW:])


def _wants_title(text: str) -> bool:
    for title in TITLE.finditer(text):
        near = text[max(0, title.start() - NEAR) : title.end() + NEAR]
        if LENGTH.search(near) and TALK.search(near):
            return True
    return False
