"""What a GGUF file says of itself: its header, read with a bound on everything, for the file may be cut or hostile.

Source: the GGUF specification, ggml `docs/gguf.md`; versions 2 and 3, little endian.
"""

from __future__ import annotations

import math
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
MAX_KEYS, MAX_TENSORS, MAX_ITEMS = 10_000, 100_000, 2_000_000
MAX_KEY_BYTES, MAX_TEXT_BYTES = 1024, 64 * 1024  # longer texts (chat templates) are passed over
MAX_NESTING = 2
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
TEXT, ARRAY = 8, 9
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
EMBEDDING_ARCHITECTURES = ("bert", "jina", "t5encoder", "gemma-embedding")


class BrokenGguf(Exception):
    """Not a file to load. The text is for people."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """None where the file does not say.

    Args:
        context: tokens that the model was trained for.
        parameters: how many weights it has; of a split file those of its first part.
        quantization: such as Q4_K_M.
        has_template: False for models that were never taught to chat.
        embeds: made for vectors, not for text.
    """

    architecture: str
    name: str | None
    size_label: str | None
    context: int | None
    parameters: int
    quantization: str | None
    has_template: bool
    embeds: bool
    parts: int

    @property
    def is_projector(self) -> bool:
        """The part of a vision or audio model that turns pictures or sound into tokens: no model by itself."""
        return self.architecture == "clip"

    @property
    def chats(self) -> bool:
        return not self.is_projector and not self.embeds


def read_header(path: Path) -> GgufHeader:
    """Raises: BrokenGguf, OSError."""
    with open(path, "rb", buffering=1 << 20, opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BrokenGguf("is not a plain file")
        return _Reader(file, status.st_size).header()


def _without_waiting(path: str, flags: int) -> int:
    """A pipe that is called model.gguf must not hang the search."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class _Reader:
    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._size, self._at = file, size_bytes, 0
        self._items_left = MAX_ITEMS

    def header(self) -> GgufHeader:
        if not self._size:
            raise BrokenGguf("is empty")
        if self._take(4) != MAGIC:
            raise BrokenGguf("does not begin with GGUF")
        version = self._number(4)
        if version & 0xFFFF == 0:
            raise BrokenGguf("is big-endian, which this machine's engine does not load")
        if version not in (2, 3):
            raise BrokenGguf(f"has GGUF version {version}; 2 and 3 are known")
        tensors, keys = self._number(8), self._number(8)
        if keys > MAX_KEYS or tensors > MAX_TENSORS:
            raise BrokenGguf(f"claims {keys} keys and {tensors} tensors")
        facts: dict[str, Any] = {}
        for _ in range(keys):
            key = self._text(MAX_KEY_BYTES)
            if key is None:
                raise BrokenGguf(f"has a key of more than {MAX_KEY_BYTES} bytes")
            facts[key] = self._value(self._number(4), 0)
        return _header_of(facts, self._tensors(tensors, facts))

    def _tensors(self, count: int, facts: dict[str, Any]) -> int:
        """How many weights there are. Raises: BrokenGguf where the file ends before the last of them begins."""
        parameters = last_offset = 0
        for _ in range(count):
            self._text(MAX_TEXT_BYTES)
            dimensions = self._number(4)
            if dimensions > 8:
                raise BrokenGguf(f"has a tensor of {dimensions} dimensions")
            parameters += math.prod(self._number(8) for _ in range(dimensions))
            self._skip(4)
            last_offset = max(last_offset, self._number(8))
        if not count:
            raise BrokenGguf("has no weights in it")
        alignment = facts.get("general.alignment")
        alignment = alignment if isinstance(alignment, int) and alignment > 0 else 32
        data_at = -(-self._at // alignment) * alignment
        if data_at + last_offset >= self._size:
            raise BrokenGguf(f"is cut short: {self._size} bytes, and its last tensor begins after them")
        return parameters

    def _take(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise BrokenGguf("is cut short inside its header")
        self._at += count
        return data

    def _skip(self, count: int) -> None:
        if count > self._size - self._at:
            raise BrokenGguf("is cut short inside its header")
        self._file.seek(count, os.SEEK_CUR)
        self._at += count

    def _number(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    def _text(self, limit: int) -> str | None:
        """None for a text over the limit, which is passed over."""
        length = self._number(8)
        if length > limit:
            self._skip(length)
            return None
        return self._take(length).decode("utf-8", "replace")

    def _value(self, kind: int, depth: int) -> Any:
        """Numbers and texts as they are; for what is passed over, its kind."""
        if kind in FORMATS:
            return struct.unpack(FORMATS[kind], self._take(SIZES[kind]))[0]
        if kind == TEXT:
            return self._text(MAX_TEXT_BYTES)
        if kind == ARRAY and depth < MAX_NESTING:
            return self._pass_array(depth)
        raise BrokenGguf(f"has a value of unknown kind {kind}")

    def _pass_array(self, depth: int) -> None:
        kind, count = self._number(4), self._number(8)
        if kind in SIZES:
            self._skip(SIZES[kind] * count)
            return
        self._items_left -= count
        if self._items_left < 0:
            raise BrokenGguf(f"has lists of more than {MAX_ITEMS} items")
        for _ in range(count):
            if kind == TEXT:
                self._skip(self._number(8))
            else:
                self._value(kind, depth + 1)


def _header_of(facts: dict[str, Any], parameters: int) -> GgufHeader:
    architecture = _words(facts.get("general.architecture"))
    if not architecture:
        raise BrokenGguf("does not say its architecture")
    context = facts.get(f"{architecture}.context_length")
    file_type, parts = facts.get("general.file_type"), facts.get("split.count")
    return GgufHeader(
        architecture=architecture,
        name=_words(facts.get("general.name")),
        size_label=_words(facts.get("general.size_label")),
        context=context if isinstance(context, int) and 0 < context < 2**31 else None,
        parameters=parameters,
        quantization=FILE_TYPES.get(file_type) if isinstance(file_type, int) else None,
        has_template="tokenizer.chat_template" in facts,
        embeds=_embeds(architecture, facts),
        parts=parts if isinstance(parts, int) and parts > 0 else 1,
    )


def _embeds(architecture: str, facts: dict[str, Any]) -> bool:
    is_encoder = any(word in architecture for word in EMBEDDING_ARCHITECTURES)
    return is_encoder or bool(facts.get(f"{architecture}.pooling_type"))


def _words(value: Any) -> str | None:
    """Text that may be shown: one short line without control characters."""
    if not isinstance(value, str):
        return None
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())[:100] or None
