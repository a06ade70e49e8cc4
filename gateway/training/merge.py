"""A model and its adapter as one GGUF file. Needs the package `gguf` (extra `train`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.errors import GatewayError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


TYPES = ("f32", "f16", "q8_0", "q4_k_m")
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "q4_k_m": 15}
ROW = 32  # numbers that q8_0 packs together
KEPT_AS_THEY_ARE = 1  # dimensions: norms and the like


def merge(base: Path, adapter: Path | None, out: Path, type: str = "f16") -> int:
    """Write it in one go, or nothing. The model's weights are dequantised, the adapter is added, and they are packed
    again. Returns its size in bytes.

    Args: `adapter`: None: the model alone; `type`: one of `TYPES`.
    Raises: GatewayError, OSError.
    """
    try:
        import gguf
    except ImportError:
        raise GatewayError("this needs the extra 'train': pip install 'onion-gateway[train]'") from None
    unfinished = out.with_name(out.name + ".part")
    try:
        if type == "q4_k_m":
            whole = out.with_name(out.name + ".f16")
            try:
                _write(gguf, base, adapter, whole, "f16")
                _quantise(whole, unfinished)
            finally:
                whole.unlink(missing_ok=True)
        else:
            _write(gguf, base, adapter, unfinished, type)
        os.replace(unfinished, out)
    finally:
        unfinished.unlink(missing_ok=True)
    return out.stat().st_size


def _write(gguf: Any, base: Path, adapter: Path | None, out: Path, type: str) -> None:
    reader = gguf.GGUFReader(base)
    architecture = reader.fields["general.architecture"].contents()
    added = _deltas(gguf, adapter, architecture) if adapter is not None else {}
    writer = gguf.GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    writer.add_file_type(FILE_TYPES[type])
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if tensor.name in added:
            numbers = numbers + added.pop(tensor.name)()
        writer.add_tensor(tensor.name, *_packed(gguf, numbers, type))
    if added:
        writer.close()
        raise GatewayError(f"the adapter is for another model: there is no '{next(iter(added))}'")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _deltas(gguf: Any, adapter: Path, architecture: str) -> dict[str, Any]:
    """What is to be added, by tensor; computed when it is asked for. Raises: GatewayError."""
    reader = gguf.GGUFReader(adapter)
    if reader.fields["general.architecture"].contents() != architecture:
        raise GatewayError("the adapter is for a model of another architecture")
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    halves = {tensor.name: tensor for tensor in reader.tensors}
    found = {}
    for name, half in halves.items():
        if name.endswith(".lora_a"):
            other = halves[name.removesuffix("_a") + "_b"]

            def delta(a: Any = half, b: Any = other) -> NDArray[np.float32]:
                left, right = (gguf.quants.dequantize(one.data, one.tensor_type) for one in (b, a))
                summed: NDArray[np.float32] = (alpha / right.shape[0]) * (left @ right)
                return summed

            found[name.removesuffix(".lora_a")] = delta
    return found


def _packed(gguf: Any, numbers: NDArray[np.float32], type: str) -> tuple[Any, Any, Any]:
    """(data, shape, type) as the writer takes them."""
    import numpy as np

    kinds = gguf.GGMLQuantizationType
    if numbers.ndim <= KEPT_AS_THEY_ARE or type == "f32":
        return numbers.astype(np.float32), None, kinds.F32
    if type == "q8_0" and numbers.shape[-1] % ROW == 0:
        return gguf.quants.quantize(numbers.astype(np.float32), kinds.Q8_0), None, kinds.Q8_0
    return numbers.astype(np.float16), None, kinds.F16


def _quantise(whole: Path, out: Path) -> None:
    """By llama.cpp itself. Raises: GatewayError."""
    try:
        import llama_cpp
    except ImportError:
        raise GatewayError("q4_k_m needs the extra 'llama-cpp-python'; f16 and q8_0 do not") from None
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES["q4_k_m"]
    if llama_cpp.llama_model_quantize(str(whole).encode(), str(out).encode(), params):
        raise GatewayError("llama.cpp could not quantise it")
