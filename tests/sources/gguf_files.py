"""GGUF files of a few hundred bytes: a whole header, and one tensor of zeros where the weights would be."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

U32, F32, TEXT, ARRAY, U64 = 4, 6, 8, 9, 10
Keys = dict[str, Any]


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(given: Any) -> bytes:
    if isinstance(given, bool):
        return struct.pack("<I?", 7, given)
    if isinstance(given, int):
        return struct.pack("<II", U32, given)
    if isinstance(given, float):
        return struct.pack("<If", F32, given)
    if isinstance(given, str):
        return struct.pack("<I", TEXT) + text(given)
    if isinstance(given[0], bool):
        return struct.pack(f"<IIQ{len(given)}?", ARRAY, 7, len(given), *given)
    kind = TEXT if isinstance(given[0], str) else U32
    items = b"".join(text(item) if kind == TEXT else struct.pack("<I", item) for item in given)
    return struct.pack("<IIQ", ARRAY, kind, len(given)) + items


def gguf(keys: Keys, *, parameters: int = 135_000_000, weights: int = 64, tensors: int = 1, version: int = 3) -> bytes:
    """`parameters` is what the tensor claims to have; `weights` the bytes that are really there."""
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, len(keys))
    header += b"".join(text(key) + value(given) for key, given in keys.items())
    for number in range(tensors):
        header += text(f"blk.{number}.weight") + struct.pack("<IQIQ", 1, parameters // tensors, 2, number * 32)
    return header + b"\0" * (-len(header) % 32) + b"\0" * weights


def laid_out(keys: Keys, tensors: Sequence[tuple[str, tuple[int, ...], int, int]]) -> bytes:
    """A file of tensors: each is a name, its sides, the number of its type and how many bytes it takes, which must be
    a multiple of 32. The bytes are zeros."""
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    header += b"".join(text(key) + value(given) for key, given in keys.items())
    offset = 0
    for name, sides, kind, size in tensors:
        header += text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)
        offset += size
    return header + b"\0" * (-len(header) % 32) + b"\0" * offset


CHAT: Keys = {
    "general.architecture": "llama",
    "general.name": "Tiny Chat",
    "general.size_label": "135M",
    "llama.context_length": 8192,
    "general.file_type": 15,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.ggml.token_type": [1, 1, 1],
    "tokenizer.chat_template": "{{ messages }}",
}


def write_gguf(path: Path, changes: Keys | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = {key: given for key, given in {**CHAT, **(changes or {})}.items() if given is not None}
    path.write_bytes(gguf(keys, **options))
    return path
