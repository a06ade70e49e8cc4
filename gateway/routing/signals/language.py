"""`language`: ISO 639-1 code of the last user turn's language; None where the text does not tell."""

from typing import Any

from gateway.chat import ChatRequest
from gateway.language import LANGUAGES, detect, load
from gateway.routing.signals import signal


@signal("language", "text", values=tuple(sorted(LANGUAGES)))
async def language(request: ChatRequest, argument: Any) -> str | None:
    await load()
    return detect(request.last_user_text)
