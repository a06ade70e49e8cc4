"""A projector for images, as small as llama.cpp takes one: the right shape, and weights that mean nothing."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

IMAGE, PATCH, WIDTH, LAYERS = 28, 14, 32, 2
TOKENS_PER_IMAGE = (IMAGE // PATCH) ** 2
TEXT_WIDTH = 576  # of the core model
UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9


def write_projector(path: Path) -> Path:
    """A GGUF file of LLaVA's kind."""
    facts: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, "clip"),
        "clip.has_vision_encoder": (BOOL, True),
        "clip.projector_type": (STRING, "mlp"),
        "clip.use_gelu": (BOOL, True),
        "clip.vision.image_size": (UINT32, IMAGE),
        "clip.vision.patch_size": (UINT32, PATCH),
        "clip.vision.embedding_length": (UINT32, WIDTH),
        "clip.vision.feed_forward_length": (UINT32, 2 * WIDTH),
        "clip.vision.projection_dim": (UINT32, TEXT_WIDTH),
        "clip.vision.block_count": (UINT32, LAYERS),
        "clip.vision.attention.head_count": (UINT32, 2),
        "clip.vision.attention.layer_norm_epsilon": (FLOAT32, 1e-5),
        "clip.vision.image_mean": (ARRAY, [0.5, 0.5, 0.5]),
        "clip.vision.image_std": (ARRAY, [0.5, 0.5, 0.5]),
    }
    tensors = dict(_shapes())
    head, infos, data = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts)), b"", b""
    for key, (kind, value) in facts.items():
        head += _text(key) + struct.pack("<I", kind) + _value(kind, value)
    numbers = random.Random(0)
    for name, shape in tensors.items():
        infos += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        infos += struct.pack("<IQ", 0, len(data))  # float32
        count = 1
        for length in shape:
            count *= length
        data += _padded(struct.pack(f"<{count}f", *(numbers.gauss(0, 0.02) for _ in range(count))))
    path.write_bytes(_padded(head + infos) + data)
    return path


def _shapes() -> list[tuple[str, tuple[int, ...]]]:
    shapes: list[tuple[str, tuple[int, ...]]] = [
        ("v.patch_embd.weight", (PATCH, PATCH, 3, WIDTH)),
        ("v.position_embd.weight", (WIDTH, TOKENS_PER_IMAGE)),
        ("mm.0.weight", (WIDTH, TEXT_WIDTH)),
        ("mm.0.bias", (TEXT_WIDTH,)),
        ("mm.2.weight", (TEXT_WIDTH, TEXT_WIDTH)),
        ("mm.2.bias", (TEXT_WIDTH,)),
    ]
    for layer in range(LAYERS):
        for part, inner, outer in [
            *((part, WIDTH, WIDTH) for part in ("attn_q", "attn_k", "attn_v", "attn_out")),
            ("ffn_up", WIDTH, 2 * WIDTH),
            ("ffn_down", 2 * WIDTH, WIDTH),
        ]:
            shapes += [(f"v.blk.{layer}.{part}.weight", (inner, outer)), (f"v.blk.{layer}.{part}.bias", (outer,))]
        for part in ("ln1", "ln2"):
            shapes += [(f"v.blk.{layer}.{part}.{end}", (WIDTH,)) for end in ("weight", "bias")]
    return shapes


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        return struct.pack("<IQ", FLOAT32, len(value)) + struct.pack(f"<{len(value)}f", *value)
    return struct.pack({UINT32: "<I", FLOAT32: "<f", BOOL: "<?"}[kind], value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 32)
