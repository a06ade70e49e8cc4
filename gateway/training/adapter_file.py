"""A LoRA adapter as llama.cpp reads it: a GGUF file. Needs the package `gguf` (extra `train`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrices = Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]

ROTATED = ("llama",)
"""Architectures whose rows of queries and keys llama.cpp keeps in another order than their makers: the halves that are
turned together lie beside each other."""


class NoPlace(ValueError):
    """A layer that llama.cpp has no name for."""


def write_adapter(
    path: Path, matrices: Matrices, *, architecture: str, layers: int, heads: int, kv_heads: int, alpha: float
) -> int:
    """Write it in one go, or nothing. Returns its size in bytes.

    Args:
        matrices: (A, B) of each adapted linear layer by its name in transformers, such as
            `model.layers.0.self_attn.q_proj`; A has the shape (rank, inputs) and B (outputs, rank).
        architecture: as GGUF names it.
        heads, kv_heads: of one layer, of queries, and of keys and values.
    Raises: NoPlace, OSError.
    Source: llama.cpp's convert_lora_to_gguf.py.
    """
    import gguf
    import numpy as np

    arch = next((key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture), None)
    if arch is None:
        raise NoPlace(f"llama.cpp knows no architecture '{architecture}'")
    names = gguf.get_tensor_name_map(arch, layers)
    unfinished = path.with_name(path.name + ".part")
    writer: Any = gguf.GGUFWriter(unfinished, architecture)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
        for layer, (a, b) in matrices.items():
            name = names.get_name(layer)
            if name is None:
                raise NoPlace(f"llama.cpp has no name for the layer '{layer}'")
            if architecture in ROTATED and name.endswith(("attn_q", "attn_k")):
                b = rotated(b, heads if name.endswith("attn_q") else kv_heads)
            writer.add_tensor(f"{name}.weight.lora_a", np.ascontiguousarray(a, np.float32))
            writer.add_tensor(f"{name}.weight.lora_b", np.ascontiguousarray(b, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    except BaseException:
        writer.close()
        unfinished.unlink(missing_ok=True)
        raise
    writer.close()
    os.replace(unfinished, path)
    return path.stat().st_size


def rotated(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """In llama.cpp's order. Args: `rows` has the shape (heads times width, anything)."""
    width = rows.shape[0] // heads
    return rows.reshape(heads, 2, width // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
