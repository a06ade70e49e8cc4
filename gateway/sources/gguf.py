"""What a GGUF file says of itself: its header, read with a bound on everything, for the file may be cut or hostile.

Source: the GGUF specification, ggml `docs/gguf.md`; versions 2 and 3, little endian.
"""

from __future__ import annotations

import math
import os
import re
import stat
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, TypeVar

T = TypeVar("T")

MAGIC = b"GGUF"
MAX_KEYS, MAX_TENSORS, MAX_ITEMS = 10_000, 100_000, 2_000_000
MAX_KEY_BYTES, MAX_TEXT_BYTES = 1024, 64 * 1024  # longer texts (chat templates) are passed over
MAX_NESTING = 2
MAX_LAYERS, MAX_PARTS = 4096, 10_000
MAX_NUMBER = 2**31  # of counts and lengths
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
FORMATS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
TEXT, ARRAY = 8, 9
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
TENSOR_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K",
    13: "Q5_K", 14: "Q6_K", 20: "IQ4_NL", 23: "IQ4_XS", 30: "BF16", 39: "MXFP4",
}  # fmt: skip
LAYER = re.compile(r"blk\.(\d{1,4})\.", re.ASCII)
INPUT, OUTPUT = -1, -2
EMBEDDING_ARCHITECTURES = ("bert", "jina", "t5encoder", "gemma-embedding")


class BrokenGguf(Exception):
    """Not a file to load. The text is for people."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors of one type in one place.

    Args:
        layer: counts from 0; INPUT: of the token embeddings; OUTPUT: all the rest.
        type: such as Q4_K; None for one that is not in `TENSOR_TYPES`.
        is_matrix: of two or three dimensions, the outer of rows by a multiple of 8.
        size_bytes: in the file, what fills the space between tensors included.
    """

    layer: int
    type: str | None
    is_matrix: bool
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufShape:
    """What decides how much memory the model takes beside its weights. None, 0 or empty where the file does not say.

    Args:
        heads, kv_heads, feed_forward: by layer.
        key_length, value_length: of one head.
        sliding_window: tokens that a layer with a window looks back.
        windowed: by layer, does it have that window?
        full_attention_interval: of models whose other layers keep a state instead.
        experts_used: of each token; `expert_feed_forward` is the length of one.
        state: what a recurrent layer keeps for one sequence, in numbers.
        vocabulary, merges: entries.
        image, patch: sides, of a projector's pictures and of what it cuts them into.
    """

    layers: int
    embedding: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    feed_forward: tuple[int, ...]
    key_length: int | None
    value_length: int | None
    sliding_window: int
    windowed: tuple[bool, ...]
    full_attention_interval: int
    experts_used: int
    expert_feed_forward: int
    state: int
    vocabulary: int
    merges: int
    image: int
    patch: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """None where the file does not say.

    Args:
        context: tokens that the model was trained for.
        parameters: how many weights it has; of a split file those of its first part.
        quantization: such as Q4_K_M.
        has_template: False for models that were never taught to chat.
        embeds: made for vectors, not for text.
        weights: of a split file those of this part.
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
    shape: GgufShape
    weights: tuple[Weights, ...]

    @property
    def is_projector(self) -> bool:
        """The part of a vision or audio model that turns pictures or sound into tokens: no model by itself."""
        return self.architecture == "clip"

    @property
    def chats(self) -> bool:
        return not self.is_projector and not self.embeds


def read_header(path: Path) -> GgufHeader:
    """Raises: BrokenGguf, OSError."""
    return _read(path, lambda reader: _header_of(*reader.parts()))


def read_weights(path: Path) -> tuple[Weights, ...]:
    """Of a part of a split file: all but the first say little else. Raises: BrokenGguf, OSError."""
    return _read(path, lambda reader: reader.parts()[2])


def _read(path: Path, read: Callable[[_Reader], T]) -> T:
    with open(path, "rb", buffering=1 << 20, opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BrokenGguf("is not a plain file")
        return read(_Reader(file, status.st_size))


def _without_waiting(path: str, flags: int) -> int:
    """A pipe that is called model.gguf must not hang the search."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


class _Reader:
    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._size, self._at = file, size_bytes, 0
        self._items_left = MAX_ITEMS

    def parts(self) -> tuple[dict[str, Any], int, tuple[Weights, ...]]:
        """What the file says, how many weights there are, and where."""
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
        return facts, *self._tensors(tensors, facts)

    def _tensors(self, count: int, facts: dict[str, Any]) -> tuple[int, tuple[Weights, ...]]:
        """Raises: BrokenGguf where the file ends before the last of them begins."""
        parameters = 0
        begins: list[tuple[int, tuple[int, str | None, bool]]] = []
        for _ in range(count):
            name = self._text(MAX_TEXT_BYTES) or ""
            dimensions = self._number(4)
            if dimensions > 8:
                raise BrokenGguf(f"has a tensor of {dimensions} dimensions")
            sides = [self._number(8) for _ in range(dimensions)]
            parameters += math.prod(sides)
            kind = TENSOR_TYPES.get(self._number(4))
            is_matrix = dimensions in (2, 3) and sides[1] % 8 == 0
            begins.append((self._number(8), (_layer_of(name), kind, is_matrix)))
        if not count:
            if "split.count" in facts:  # the first part of some split files is a header alone
                return 0, ()
            raise BrokenGguf("has no weights in it")
        alignment = facts.get("general.alignment")
        alignment = alignment if isinstance(alignment, int) and alignment > 0 else 32
        data_at = -(-self._at // alignment) * alignment
        begins.sort(key=lambda begin: begin[0])
        if data_at + begins[-1][0] >= self._size:
            raise BrokenGguf(f"is cut short: {self._size} bytes, and its last tensor begins after them")
        sizes: Counter[tuple[int, str | None, bool]] = Counter()
        ends = [offset for offset, _ in begins[1:]] + [self._size - data_at]
        for (offset, what), end in zip(begins, ends, strict=True):
            sizes[what] += end - offset
        return parameters, tuple(Weights(*what, size_bytes) for what, size_bytes in sizes.items())

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
        """Numbers and texts as they are; short lists of numbers as a tuple, others as their `_Length`."""
        if kind in FORMATS:
            return struct.unpack(FORMATS[kind], self._take(SIZES[kind]))[0]
        if kind == TEXT:
            return self._text(MAX_TEXT_BYTES)
        if kind == ARRAY and depth < MAX_NESTING:
            return self._array(depth)
        raise BrokenGguf(f"has a value of unknown kind {kind}")

    def _array(self, depth: int) -> Any:
        kind, count = self._number(4), self._number(8)
        if kind in SIZES and count <= MAX_LAYERS:
            return struct.unpack(f"<{count}{FORMATS[kind][1:]}", self._take(SIZES[kind] * count))
        if kind in SIZES:
            self._skip(SIZES[kind] * count)
            return _Length(count)
        self._items_left -= count
        if self._items_left < 0:
            raise BrokenGguf(f"has lists of more than {MAX_ITEMS} items")
        for _ in range(count):
            if kind == TEXT:
                self._skip(self._number(8))
            else:
                self._value(kind, depth + 1)
        return _Length(count)


@dataclass(frozen=True, slots=True)
class _Length:
    """Of a list that was passed over."""

    items: int


def _header_of(facts: dict[str, Any], parameters: int, weights: tuple[Weights, ...]) -> GgufHeader:
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
        parts=parts if isinstance(parts, int) and 0 < parts < MAX_PARTS else 1,
        shape=_shape_of(facts, architecture),
        weights=weights,
    )


def _shape_of(facts: dict[str, Any], architecture: str) -> GgufShape:
    """Raises: BrokenGguf for more layers than any model has."""

    def number(*names: str) -> int | None:
        values = (facts.get(f"{architecture}.{name}") for name in names)
        return next((value for value in values if _is_count(value)), None)

    def by_layer(name: str) -> tuple[int, ...]:
        value = facts.get(f"{architecture}.{name}")
        values: tuple[Any, ...] = value[:layers] if isinstance(value, tuple) else (value,) * layers
        return values if all(map(_is_count, values)) else ()

    layers = number("block_count", "vision.block_count", "audio.block_count") or 0
    if layers > MAX_LAYERS:
        raise BrokenGguf(f"claims {layers} layers")
    embedding = number("embedding_length", "vision.embedding_length", "audio.embedding_length") or 0
    heads = by_layer("attention.head_count")
    windowed = by_layer("attention.sliding_window_pattern")
    period = number("attention.sliding_window_pattern")
    if period:
        windowed = tuple(layer % period < period - 1 for layer in range(layers))
    tokens = facts.get("tokenizer.ggml.tokens")
    return GgufShape(
        layers=layers,
        embedding=embedding,
        heads=heads,
        kv_heads=by_layer("attention.head_count_kv") or heads,
        feed_forward=by_layer("feed_forward_length") or by_layer("vision.feed_forward_length"),
        key_length=number("attention.key_length"),
        value_length=number("attention.value_length"),
        sliding_window=number("attention.sliding_window") or 0,
        windowed=tuple(map(bool, windowed)),
        full_attention_interval=number("full_attention_interval") or 0,
        experts_used=number("expert_used_count") or 0,
        expert_feed_forward=number("expert_feed_forward_length") or 0,
        state=_state(number, embedding),
        vocabulary=_length(tokens) or number("vocab_size") or 0,
        merges=_length(facts.get("tokenizer.ggml.merges")),
        image=number("vision.image_size") or 0,
        patch=number("vision.patch_size") or 0,
    )


def _state(number: Callable[[str], int | None], embedding: int) -> int:
    """What llama.cpp's `llama_hparams` calls n_embd_r and n_embd_s."""
    inner, size = number("ssm.inner_size") or 0, number("ssm.state_size") or 0
    kernel, groups = number("ssm.conv_kernel") or 0, number("ssm.group_count") or 0
    mamba = max(0, kernel - 1) * (inner + 2 * groups * size) + inner * size
    rwkv = embedding * (number("wkv.head_size") or 0) + 2 * embedding * bool(number("wkv.head_size"))
    convolution = max(0, (number("shortconv.l_cache") or 0) - 1) * embedding
    return mamba + rwkv + convolution


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value < MAX_NUMBER


def _length(value: Any) -> int:
    """Of a list, passed over or not."""
    return value.items if isinstance(value, _Length) else len(value) if isinstance(value, tuple) else 0


def _layer_of(name: str) -> int:
    found = LAYER.match(name)
    if found:
        return int(found[1])
    return INPUT if name.startswith("token_embd.") else OUTPUT


def _embeds(architecture: str, facts: dict[str, Any]) -> bool:
    is_encoder = any(word in architecture for word in EMBEDDING_ARCHITECTURES)
    return is_encoder or bool(facts.get(f"{architecture}.pooling_type"))


def _words(value: Any) -> str | None:
    """Text that may be shown: one short line without control characters."""
    if not isinstance(value, str):
        return None
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())[:100] or None
