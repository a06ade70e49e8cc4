"""A log file that cannot fill the disk."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import TextIO

log = logging.getLogger(__name__)

CAP_BYTES = 5 * 1024 * 1024


class CappedLog:
    """Lines in NAME.log; a full one becomes NAME.log.1 (in place of the one before) and a new one begins.

    Only its owner can read it. A disk that takes no more loses lines and breaks nothing.
    """

    def __init__(self, path: Path, cap_bytes: int = CAP_BYTES) -> None:
        self.path = path
        self._cap_bytes = cap_bytes
        self._file: TextIO | None = None
        self._size_bytes = 0

    def write(self, line: str) -> None:
        text = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n"
        try:
            file = self._open_file()
            file.write(text)
        except OSError as exc:
            log.warning("cannot write %s: %s", self.path.name, exc.strerror)
            self.close()
            return
        self._size_bytes += len(text.encode())
        if self._size_bytes >= self._cap_bytes:
            self.close()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as exc:
                log.warning("cannot close %s: %s", self.path.name, exc.strerror)

    def _open_file(self) -> TextIO:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and self.path.stat().st_size >= self._cap_bytes:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._file = open(descriptor, "a", encoding="utf-8", buffering=1)  # a line at a time
            self._size_bytes = os.fstat(descriptor).st_size
        return self._file
