"""A sentence-transformers model as ONNX: token ids in, unit vectors out. Everything here blocks, and wants one thread.

onnxruntime, tokenizers and numpy are imported when a model is loaded: a quarter of a second, and 40 MB.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LOOKED_AT_CHARS = 16_384  # of a text: few have less than `context` tokens in so many
EMPTY = 1e-12


class SentenceModel:
    """Mean of the last layer over the tokens, made one long, as sentence-transformers has it.

    Args:
        context: tokens read of a text, its two marks included; what comes after them is not looked at.
    Raises: what onnxruntime and tokenizers raise for files that are none of theirs.
    """

    def __init__(self, model: Path, tokenizer: Path, context: int) -> None:
        import numpy
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False  # they would keep what the largest batch took
        self._session: Any = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._np: Any = numpy
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()  # the file says 128
        self._context = context
        _give_memory_back()

    def token_ids(self, text: str) -> list[int]:
        ids = self._tokenizer.encode(text[:LOOKED_AT_CHARS]).ids
        return ids if len(ids) <= self._context else [*ids[: self._context - 1], ids[-1]]

    def vectors(self, batch: Sequence[list[int]], dimensions: int | None = None) -> list[bytes]:
        """float32 in little-endian order, for the token ids of each text; the first `dimensions` numbers of each."""
        np = self._np
        ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
        mask = np.zeros_like(ids)
        for row, of_text in enumerate(batch):
            ids[row, : len(of_text)] = of_text
            mask[row, : len(of_text)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        layer = self._session.run(None, feed)[0]
        means = np.einsum("btd,bt->bd", layer, mask.astype(np.float32)) / mask.sum(axis=1, keepdims=True)
        means = means[:, :dimensions]
        units = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), EMPTY)
        return [row.tobytes() for row in units.astype("<f4")]

    def cosines(self, vector: bytes, others: Sequence[bytes]) -> list[float]:
        """Of one unit vector and each of the others."""
        np = self._np
        rows = np.frombuffer(b"".join(others), "<f4").reshape(len(others), -1)
        cosines: list[float] = (rows @ np.frombuffer(vector, "<f4")).tolist()
        return cosines


def _give_memory_back() -> None:
    """Loading takes 60 MB more than the model, which glibc would keep."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
