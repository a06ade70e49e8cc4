"""Images as Ollama's clients send them: base64 with no word of what it is."""

from __future__ import annotations

import binascii
from typing import Any

from gateway.chat import Json
from gateway.errors import InvalidRequest

KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}


def image_part(image: Any, where: str) -> Json:
    """The content part of a chat. Raises: InvalidRequest."""
    if not isinstance(image, str):
        raise InvalidRequest(f"{where}: must be base64 text", param=where)
    if image.startswith("data:"):
        image = image.partition(",")[2]
    image = image.replace("\r", "").replace("\n", "")
    try:
        data = binascii.a2b_base64(image, strict_mode=True)
    except ValueError:
        raise InvalidRequest(f"{where}: is not base64", param=where) from None
    kind = _kind(data)
    if kind is None:
        raise InvalidRequest(f"{where}: is no PNG, JPEG, WebP or GIF", param=where)
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{image}"}}


def _kind(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return next((kind for start, kind in KINDS.items() if data.startswith(start)), None)
