"""A LoRA adapter for the core model, as llama.cpp takes one: the right shape, and weights that mean nothing."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from tests.engines.projector import FLOAT32, STRING, TEXT_WIDTH, _padded, _text

RANK = 4
LAYERS = range(8, 14)
FACTS = {"general.type": "adapter", "adapter.type": "lora"}


def write_adapter(
    path: Path, seed: int, *, strength: float = 0.5, width: int = TEXT_WIDTH, architecture: str = "llama"
) -> Path:
    """Two of different seeds say different things. Another `width` than the model's makes one that does not fit."""
    words = {**FACTS, "general.architecture": architecture}
    facts = b"".join(_text(key) + struct.pack("<I", STRING) + _text(value) for key, value in words.items())
    facts += _text("adapter.lora.alpha") + struct.pack("<If", FLOAT32, RANK)
    numbers = random.Random(seed)
    infos, data = b"", b""
    for layer in LAYERS:
        for half, shape in (("a", (width, RANK)), ("b", (RANK, width))):
            infos += _text(f"blk.{layer}.attn_output.weight.lora_{half}") + struct.pack("<I2Q", 2, *shape)
            infos += struct.pack("<IQ", 0, len(data))  # float32
            count = width * RANK
            data += _padded(struct.pack(f"<{count}f", *(numbers.gauss(0, strength) for _ in range(count))))
    head = b"GGUF" + struct.pack("<IQQ", 3, 2 * len(LAYERS), len(words) + 1)
    path.write_bytes(_padded(head + facts + infos) + data)
    return path
