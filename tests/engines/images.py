"""A picture to send."""

from __future__ import annotations

import base64
import struct
import zlib


def image_part(width: int = 8, height: int = 8) -> dict[str, object]:
    """A red PNG as a content part."""
    rows = b"".join(b"\0" + b"\xff\0\0" * width for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    )
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    return {"type": "image_url", "image_url": {"url": url}}
