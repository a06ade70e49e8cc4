"""`background`: is this a chore that a chat or IDE client sends by itself: a title, tags, follow-up questions?

The patterns are the clients' own prompts (Open WebUI, LibreChat, Continue, Zed, VS Code, Claude Code, opencode, Goose,
NextChat, LobeChat, Chatbox), each cut down to what stays the same between versions.
"""

import re
from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.signals import signal

TALK = r"(?:conversation|chat(?: history| request)?|thread|session|discussion|dialogue|first message|user's message)"
SIZE = (
    r"(?:concise|short|brief|pithy|succinct|\d+(?:\s*(?:-|to|or)\s*\d+)?[- ]?word|"
    r"(?:three|four|five|six|seven)\b|under \d+|\d+ words)"
)
PATTERNS = re.compile(
    "|".join(
        (
            # titles
            rf"\b{SIZE}.{{0,80}}\btitle\b.{{0,200}}\b{TALK}",
            rf"\btitle\b.{{0,120}}\b{TALK}.{{0,160}}\b{SIZE}",
            rf"\b{TALK}.{{0,200}}\b{SIZE}.{{0,60}}\btitle\b",
            r"\byou are a title generator\b",
            r"\bcrafting pithy titles\b",
            r"\bgive this conversation a name\b",
            r"\bdescription of this session in \d+ words or less",
            r"\bisNewTopic\b",
            r"总结为\s*\d+\s*个字以内的标题",
            # tags
            rf"\bgenerate \d+(?:-\d+)? broad tags\b.{{0,120}}\b{TALK}",
            # follow-ups, search queries, completion of what is being typed
            r"\bsuggest \d+(?:-\d+)? (?:relevant )?follow-?up (?:questions|prompts)",
            r"\banalyze the chat history to determine the necessity of generating search queries\b",
            r"\byou are an autocompletion system\b",
        )
    ),
    re.IGNORECASE | re.DOTALL,
)
WINDOW = 1500  # characters looked at, at both ends of a turn: clients put the task before or after the chat itself


@signal("background", "flag")
async def background(request: ChatRequest, argument: Any) -> bool:
    if request.body.get("tools"):
        return False  # an agent at work, whatever its prompt says
    texts = [text for role, text in request.turns[:1] if role in ("system", "developer")]
    texts.append(request.last_user_text)
    return any(PATTERNS.search(part) for text in texts for part in _ends(text))


def _ends(text: str) -> tuple[str, ...]:
    return (text,) if len(text) <= 2 * WINDOW else (text[:WINDOW], text[-WINDOW:])
