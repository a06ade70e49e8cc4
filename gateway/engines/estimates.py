"""What a model will take of memory, from its files: an estimate made before it is loaded, rather over than under.

llama.cpp's part was fitted to xllamacpp's own account of its buffers and to the PSS of its process after a request,
for the core model and for made-up ones that are wide, have many experts, a window or a large vocabulary.
Core model, measured MiB (estimate), by context and slots: 512x1 165 (174), 512x2 177 (188), 512x4 195 (215),
2048x1 199 (209), 2048x2 245 (256), 2048x4 331 (350), 8192x1 333 (347), 8192x2 515 (529), 8192x4 877 (893).
Nothing of what is said of GPUs and of vLLM's processes was measured; those are round numbers, on the large side.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.engines.footprint import Footprint
from gateway.engines.memory import machine
from gateway.errors import EngineError
from gateway.sources.gguf import (
    EMBEDDING_ARCHITECTURES,
    INPUT,
    OUTPUT,
    BrokenGguf,
    GgufHeader,
    GgufShape,
    Weights,
    read_header,
    read_weights,
)
from gateway.sources.hf_cache import cache_folder
from gateway.sources.split import nth_part, split_of

MIB, GIB = 1 << 20, 1 << 30

PROCESS_BYTES = 32 * MIB  # Python and llama.cpp's code; measured: 24
SLOT_BYTES = 1 * MIB  # of its server
TOKEN_BYTES, MERGE_BYTES = 230, 400  # of a vocabulary, in memory
SAMPLER_BYTES = 24  # for each entry of the vocabulary and slot
CELLS = 256  # a cache is made of so many tokens, and multiples
F16, F32 = 2, 4
CHECKPOINTS = 32  # llama.cpp's --ctx-checkpoints, for each slot
GPU_CONTEXT_BYTES = 500 * MIB  # what CUDA takes for itself
GPU_HOST_BYTES = 300 * MIB  # of main memory, for the same

# llama.cpp keeps a second copy of these, laid out for the processor; the file's pages stay mapped beside it.
REPACKED_X86 = {"Q2_K", "Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}
REPACKED = REPACKED_X86 if platform.machine() in ("x86_64", "AMD64") else REPACKED_X86 | {"Q5_K", "Q6_K", "Q8_0"}
# Every nth layer sees the whole context, the others a window: where llama.cpp knows it and files do not say it. A
# family that is not here is taken to see the whole context everywhere.
WINDOW_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2}

VLLM_HOST_BYTES = {"cpu": 2 * GIB, "gpu": 4 * GIB}  # its processes without the model
VLLM_GPU_SHARE = 0.9
VLLM_BATCH_TOKENS = 8192
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
DTYPES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}
REPO = re.compile(r"([\w.-]+)/([\w.-]+)", re.ASCII)


def of_gguf(
    path: Path,
    mmproj: Path | None = None,
    *,
    context: int,
    slots: int,
    gpu_layers: int | None = None,
    batch: int = 256,
    has_gpu: bool = False,
    prompt_cache_bytes: int = 0,
    checkpoints: int = CHECKPOINTS,
    adapters: Sequence[Path] = (),
) -> Footprint:
    """What llama.cpp's server takes when it is in full use.

    Args:
        context: tokens of one request; `slots` of them have place.
        gpu_layers: None or negative: all, if there is a GPU.
        has_gpu: one with memory of its own. Where main memory is the GPU's too (Apple), it is False.
        prompt_cache_bytes: what it may keep of past conversations.
        checkpoints: copies of the state that it may keep in each slot; only models with a window or a recurrent state
            make them.
        adapters: GGUF files too.
    Raises: EngineError for a file that cannot be read.
    """
    header = _header_of(path, "model file")
    shape, weights = header.shape, _all_weights(path, header)
    on_gpu = _layers_on_gpu(shape.layers, gpu_layers) if has_gpu else frozenset[int]()
    caches = _caches(header, context, slots, batch)
    work = _work(shape, context, batch) + slots * shape.vocabulary * SAMPLER_BYTES
    aside = sum(_header_size(adapter, "adapter file") for adapter in adapters)
    aside += _projector(mmproj, has_gpu) if mmproj is not None else 0
    process = PROCESS_BYTES + slots * SLOT_BYTES + shape.vocabulary * TOKEN_BYTES + shape.merges * MERGE_BYTES
    states = checkpoints * slots * _checkpoint(header, context)
    ram = process + work + prompt_cache_bytes + states
    ram += _weights_in_ram(weights, on_gpu) + sum(caches[layer] for layer in range(shape.layers) if layer not in on_gpu)
    if not has_gpu:
        return Footprint(ram + aside)
    gpu = GPU_CONTEXT_BYTES + work + aside
    gpu += _weights_on_gpu(weights, on_gpu) + sum(caches[layer] for layer in on_gpu if layer >= 0)
    return Footprint(ram + GPU_HOST_BYTES, gpu)


def _header_of(path: Path, what: str) -> GgufHeader:
    try:
        return read_header(path)
    except BrokenGguf as exc:
        raise EngineError(f"its {what} {exc}") from None
    except FileNotFoundError:
        raise EngineError(f"its {what} is missing") from None
    except OSError as exc:
        raise EngineError(f"its {what} cannot be read: {exc.strerror}") from None


def _all_weights(path: Path, header: GgufHeader) -> list[Weights]:
    weights = list(header.weights)
    split = split_of(path.name)
    for number in range(2, split.count + 1) if split is not None else ():
        part = path.with_name(nth_part(path.name, number))
        try:
            weights += read_weights(part)
        except BrokenGguf as exc:
            raise EngineError(f"part {number} of its model file {exc}") from None
        except OSError as exc:
            raise EngineError(f"part {number} of its model file cannot be read: {exc.strerror}") from None
    return weights


def _header_size(path: Path, what: str) -> int:
    return sum(part.size_bytes for part in _header_of(path, what).weights)


def _layers_on_gpu(layers: int, gpu_layers: int | None) -> frozenset[int]:
    """The last ones first, and what follows them counts as one; what precedes them is never there."""
    if gpu_layers is None or not 0 <= gpu_layers <= layers:
        return frozenset((*range(layers), OUTPUT))
    return frozenset((*range(layers - gpu_layers + 1, layers), OUTPUT)) if gpu_layers else frozenset()


def _weights_in_ram(weights: list[Weights], on_gpu: frozenset[int]) -> int:
    """The file's pages, and what is copied from them."""
    here = [part for part in weights if part.layer not in on_gpu]
    is_copied = {OUTPUT} if _has_output(weights) else {INPUT}
    copied = sum(
        part.size_bytes
        for part in here
        if part.is_matrix and part.type in REPACKED and (part.layer >= 0 or part.layer in is_copied)
    )
    return sum(part.size_bytes for part in here) + copied


def _weights_on_gpu(weights: list[Weights], on_gpu: frozenset[int]) -> int:
    there = set(on_gpu)
    if OUTPUT in on_gpu and not _has_output(weights):
        there.add(INPUT)  # the embeddings are the output too, and are in both memories
    return sum(part.size_bytes for part in weights if part.layer in there)


def _has_output(weights: list[Weights]) -> bool:
    return any(part.layer == OUTPUT and part.is_matrix for part in weights)


def _caches(header: GgufHeader, context: int, slots: int, batch: int) -> list[int]:
    """Keys, values and states of each layer, for all slots."""
    shape = header.shape
    if any(word in header.architecture for word in EMBEDDING_ARCHITECTURES):
        return [0] * shape.layers
    sizes = []
    for layer in range(shape.layers):
        cells = _cells(context)
        if _is_windowed(header, layer):
            cells = min(cells, _cells(shape.sliding_window + batch))
        sizes.append(slots * (cells * _token_bytes(shape, layer) + _state_bytes(shape, layer)))
    return sizes


def _checkpoint(header: GgufHeader, context: int) -> int:
    """A copy of what cannot be cut back to an earlier token."""
    shape, size = header.shape, 0
    for layer in range(shape.layers):
        if _is_windowed(header, layer):
            size += min(context, shape.sliding_window) * _token_bytes(shape, layer)
        size += _state_bytes(shape, layer)
    return size


def _is_windowed(header: GgufHeader, layer: int) -> bool:
    shape = header.shape
    if not shape.sliding_window:
        return False
    if shape.windowed:
        return layer < len(shape.windowed) and shape.windowed[layer]
    period = WINDOW_PERIODS.get(header.architecture)
    return period is not None and layer % period < period - 1


def _token_bytes(shape: GgufShape, layer: int) -> int:
    """Keys and values of one token."""
    if _keeps_state_only(shape, layer) or not shape.kv_heads:
        return 0
    kv_heads = shape.kv_heads[layer] if layer < len(shape.kv_heads) else max(shape.kv_heads)
    key, value = _head_lengths(shape)
    return kv_heads * (key + value) * F16


def _head_lengths(shape: GgufShape) -> tuple[int, int]:
    usual = shape.embedding // max(1, min((heads for heads in shape.heads if heads), default=1))
    key = usual if shape.key_length is None else shape.key_length
    return key, usual if shape.value_length is None else shape.value_length


def _state_bytes(shape: GgufShape, layer: int) -> int:
    attends_only = shape.full_attention_interval and not _keeps_state_only(shape, layer)
    return 0 if attends_only else shape.state * F32


def _keeps_state_only(shape: GgufShape, layer: int) -> bool:
    return bool(shape.full_attention_interval) and (layer + 1) % shape.full_attention_interval != 0


def _cells(tokens: int) -> int:
    return math.ceil(tokens / CELLS) * CELLS


def _work(shape: GgufShape, context: int, batch: int) -> int:
    """Buffers for one batch: what one layer computes, and which tokens see which. Measured: 5 embeddings and 3 times
    what the feed-forward part is wide, where that is more than the attention."""
    key, value = _head_lengths(shape)
    heads, kv_heads = max(shape.heads, default=0), max(shape.kv_heads, default=0)
    forward = max(shape.experts_used * shape.expert_feed_forward, max(shape.feed_forward, default=0))
    widest = max(3 * forward, 4 * heads * key + 2 * kv_heads * (key + value))
    cells = _cells(context)
    seen = cells + (min(cells, _cells(shape.sliding_window + batch)) if shape.sliding_window else 0)
    return min(batch, context) * ((5 * shape.embedding + widest) * F32 + seen * F16)


def _projector(path: Path, has_gpu: bool) -> int:
    """Its weights are read, not mapped; beside them the work on one picture, which has as many places as patches."""
    header = _header_of(path, "projector file")
    shape = header.shape
    patches = (shape.image // shape.patch) ** 2 if shape.patch else 0
    width = 5 * shape.embedding + 3 * max(shape.feed_forward, default=0)
    return sum(part.size_bytes for part in header.weights) + max(patches, 1024) * width * F32


def of_safetensors(
    model: Path | str,
    *,
    context: int | None,
    slots: int,
    dtype: str | None,
    gpu_share: float | None,
    gpu_total_bytes: int,
    kv_space_bytes: int | None = None,
) -> Footprint | None:
    """What `vllm serve` takes; None on the processor for a model that is not on this machine, or without config.json
    and weights.

    Args:
        model: a folder, or a repository of Hugging Face, which may be in its cache.
        gpu_share: of each GPU, whatever the weights are; None: vLLM's own.
        gpu_total_bytes: of all GPUs that it is spread over; 0: it runs on the processor.
        kv_space_bytes: VLLM_CPU_KVCACHE_SPACE, on the processor; None: unset here, when vLLM takes half of the
            machine's memory.
    Raises: EngineError for files that cannot be read.
    """
    if gpu_total_bytes > 0:
        return Footprint(VLLM_HOST_BYTES["gpu"], int(gpu_total_bytes * (gpu_share or VLLM_GPU_SHARE)))
    folder = _folder_of(model)
    if folder is None:
        return None
    config = _json_file(folder / "config.json")
    width = DTYPES.get(dtype or "auto", F16)  # by itself it makes 16 bits of 32
    weights = sum(_tensor_bytes(file, width) for file in _weight_files(folder))
    if not weights:
        return None
    text = config.get("text_config")  # of a model that takes pictures too
    config = text if isinstance(text, dict) else config
    hidden, forward, vocabulary = (_number(config, key) for key in ("hidden_size", "intermediate_size", "vocab_size"))
    work = min(context or VLLM_BATCH_TOKENS, VLLM_BATCH_TOKENS) * (5 * hidden + 3 * forward) * width
    work += slots * vocabulary * F32
    kv_space = machine().ram_bytes // 2 if kv_space_bytes is None else kv_space_bytes
    return Footprint(VLLM_HOST_BYTES["cpu"] + weights + work + kv_space)


def _folder_of(model: Path | str) -> Path | None:
    folder = Path(model)
    repo = REPO.fullmatch(str(model))
    if repo and not folder.is_dir():
        cached = cache_folder() / f"models--{repo[1]}--{repo[2]}"
        try:
            folder = cached / "snapshots" / (cached / "refs" / "main").read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
    return folder if (folder / "config.json").is_file() else None


def _weight_files(folder: Path) -> list[Path]:
    """A copy of the whole that is called consolidated… is not loaded where there are others."""
    files = sorted(folder.glob("*.safetensors"))
    return [file for file in files if not file.name.startswith("consolidated")] or files


def _json_file(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_bytes())
    except OSError as exc:
        raise EngineError(f"its {path.name} cannot be read: {exc.strerror}") from None
    except (ValueError, RecursionError):
        raise EngineError(f"its {path.name} is not JSON") from None
    return said if isinstance(said, dict) else {}


def _tensor_bytes(path: Path, width: int) -> int:
    """What is a floating-point number of 16 bits or more becomes `width` bytes; the rest stays as it is."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > min(MAX_HEADER_BYTES, os.fstat(file.fileno()).st_size):
                raise EngineError(f"its {path.name} is not a safetensors file")
            header = json.loads(file.read(length))
        tensors = [said for name, said in header.items() if name != "__metadata__"]
        return sum(_loaded(said["dtype"], said["data_offsets"], width) for said in tensors)
    except OSError as exc:
        raise EngineError(f"its {path.name} cannot be read: {exc.strerror}") from None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise EngineError(f"its {path.name} is not a safetensors file") from None


def _loaded(dtype: str, offsets: Sequence[int], width: int) -> int:
    begin, end = offsets
    stored = end - begin
    if stored < 0:
        raise ValueError(offsets)
    return stored // WIDTHS[dtype] * width if dtype in WIDTHS else stored


def _number(config: dict[str, Any], key: str) -> int:
    value = config.get(key)
    return value if isinstance(value, int) and value > 0 else 0
