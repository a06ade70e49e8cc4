"""Embeddings of many prompts, each made once and kept in a file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gateway.capability.hashing import asked
from gateway.embedding import minilm
from gateway.embedding.sentence_model import SentenceModel

BYTES = 4 * minilm.DIMENSIONS
SAVED_EVERY = 4000  # texts
Report = Callable[[int, int], None]


class Vectors:
    """Of `asked(text)`. The file is read when the first is wanted; the model is fetched and loaded when one is missing.

    Args:
        folder: where the file is kept.
        home: where model files lie.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self._file, self._home = folder / "minilm.npz", home
        self._known: dict[bytes, bytes] | None = None
        self._model: SentenceModel | None = None

    def of(self, texts: Sequence[str], report: Report = lambda done, total: None) -> list[bytes]:
        """float32, little-endian, of unit length. Raises: GatewayError where the model cannot be fetched."""
        known = self._read()
        told = [asked(text) for text in texts]
        keys = [key_of(one) for one in told]
        missing = {key: one for key, one in zip(keys, told, strict=True) if key not in known}
        if missing:
            self._make(missing, known, report)
        return [known[key] for key in keys]

    def one(self, text: str) -> bytes:
        """Without the file: as a request would have it."""
        model = self._loaded()
        return model.vectors([model.token_ids(asked(text) or " ")])[0]

    def _make(self, missing: dict[bytes, str], known: dict[bytes, bytes], report: Report) -> None:
        model, keys = self._loaded(), list(missing)
        ids = [model.token_ids(missing[key] or " ") for key in keys]
        done, saved = 0, 0
        for batch in minilm.batches([len(one) for one in ids]):
            for place, vector in zip(batch, model.vectors([ids[place] for place in batch]), strict=True):
                known[keys[place]] = vector
            done += len(batch)
            report(done, len(keys))
            if done - saved >= SAVED_EVERY:
                self._write(known)
                saved = done
        self._write(known)

    def _loaded(self) -> SentenceModel:
        if self._model is None:
            files = minilm.files(self._home)
            for file in files:
                file.pull(lambda done, total: None)
            self._model = SentenceModel(files[0].path, files[1].path, minilm.CONTEXT)
        return self._model

    def _read(self) -> dict[bytes, bytes]:
        if self._known is None:
            self._known = {}
            if self._file.exists():
                with np.load(self._file) as kept:
                    keys, rows = kept["keys"].tobytes(), kept["rows"].tobytes()
                count = len(keys) // 20
                self._known = {keys[20 * i : 20 * i + 20]: rows[BYTES * i : BYTES * i + BYTES] for i in range(count)}
        return self._known

    def _write(self, known: dict[bytes, bytes]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_name("new-" + self._file.name)
        keys = np.frombuffer(b"".join(known), np.uint8)
        np.savez(fresh, keys=keys, rows=np.frombuffer(b"".join(known.values()), np.uint8))
        fresh.replace(self._file)


def key_of(text: str) -> bytes:
    return hashlib.sha1(text.encode("utf-8", "replace"), usedforsecurity=False).digest()
