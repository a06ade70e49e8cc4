"""Files that grow: a `Part` is hashed as it is written and becomes the real file at once or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from types import TracebackType

from gateway.errors import SourceError

Progress = Callable[[int, int | None], None]
"""Called with (bytes done, bytes in all or None)."""

CHUNK_BYTES = 1 << 20


def is_sha256(text: str) -> bool:
    return re.fullmatch(r"[0-9a-fA-F]{64}", text) is not None


def parse_sha256(text: str | None) -> str | None:
    """Raises: SourceError if it is not 64 hex digits."""
    if text is None:
        return None
    if not is_sha256(text):
        raise SourceError(f"a sha256 is 64 hex digits, without a prefix; this one has {len(text)} characters: {text!r}")
    return text.lower()


def sha256_of(path: Path, on_progress: Progress | None = None) -> str:
    """Hash a whole file: about a second per GB. Raises: SourceError if it cannot be read."""
    digest = hashlib.sha256()
    done = 0
    try:
        with path.open("rb", buffering=0) as file:
            total = os.fstat(file.fileno()).st_size
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                done += len(chunk)
                if on_progress:
                    on_progress(done, total)
    except OSError as exc:
        raise SourceError(f"cannot read {path}: {exc.strerror or exc}") from exc
    return digest.hexdigest()


def safe_filename(text: str) -> str:
    """The last component of a path from outside, fit to be a file of ours: no separators, no leading dot, short."""
    name = re.sub(r"[^\w.+=@,-]+", "_", re.split(r"[/\\]", text)[-1]).lstrip(".")
    while len(name.encode()) > 200:  # room for .part.tag in the 255 that file systems allow; the ending matters most
        name = name[1:]
    return name


@contextmanager
def disk_errors(folder: Path, needs_bytes: int | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        need = f" ({needs_bytes:,} more bytes are needed)" if needs_bytes else ""
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SourceError(f"the disk is full: cannot write to {folder}{need}; make room and try again") from exc
        raise SourceError(f"cannot write to {folder}: {exc.strerror or exc}{need}") from exc


def require_room(folder: Path, needs_bytes: int) -> None:
    """Raises: SourceError if the disk has less."""
    with disk_errors(folder):
        free = shutil.disk_usage(folder).free
    if needs_bytes > free:
        raise SourceError(f"not enough room in {folder}: {needs_bytes:,} bytes are needed, {free:,} are free")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes and threads, and wait for one that holds it."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("ab")
    with lock:  # never unlinked: a waiter would hold the lock of a name that is gone
        with disk_errors(folder):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _part_files(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")


def remove_part(path: Path) -> None:
    """Drop what has come of a file that is there by now."""
    with disk_errors(path.parent):
        for file in _part_files(path):
            file.unlink(missing_ok=True)


def size_of_part(path: Path) -> tuple[int, int | None] | None:
    """Bytes that have come of a file, and bytes in all where that is known. None: nothing has come."""
    part, tag_file = _part_files(path)
    try:
        size_bytes = part.stat().st_size
    except OSError:
        return None
    try:
        total = tag_file.read_text("utf-8").partition("\n")[2]
    except (OSError, UnicodeDecodeError):
        total = ""
    return size_bytes, int(total) if total.isdecimal() else None


class Part:
    """`path` while it is still coming, as `path.part`.

    `tag` says which version of the remote file these bytes are of: an ETag, a date, or "" when only the wanted
    sha256 can tell. It is kept beside them, with the size of the whole file in a second line, so that the next process
    can go on; None means that they are of no use to anyone later, and leaving the `with` block unfinished removes them.
    `promised_sha256` is what the server says of the file.
    """

    def __init__(self, path: Path, wanted: str | None) -> None:
        self.path = path
        self.wanted = wanted
        self.promised_sha256: str | None = None
        self.tag: str | None = None
        self.size_bytes = 0
        self.is_glued = False  # bytes of more than one reply
        self._part, self._tag_file = _part_files(path)
        self._digest = hashlib.sha256()
        self._total_bytes: int | None = None

    def __enter__(self) -> Part:
        with disk_errors(self.path.parent):
            self._file = FileIO(self._part, "a+")
            try:
                if self._tag_file.is_file():
                    self._take_up()
                else:
                    self.restart(None)
            except BaseException:
                self._file.close()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
        if not self.is_resumable:
            self._part.unlink(missing_ok=True)
            self._tag_file.unlink(missing_ok=True)

    def _take_up(self) -> None:
        self.tag = self._tag_file.read_text("utf-8").partition("\n")[0]
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_BYTES):
            self._digest.update(chunk)
            self.size_bytes += len(chunk)

    def restart(self, tag: str | None) -> None:
        """Forget what has come; what comes now is the version `tag`."""
        with disk_errors(self.path.parent):
            self._file.truncate(0)
            if tag is None:
                self._tag_file.unlink(missing_ok=True)
            else:
                self._tag_file.write_text(tag, "utf-8")
        self.tag, self.size_bytes, self.is_glued, self._digest = tag, 0, False, hashlib.sha256()

    def expect(self, total_bytes: int) -> None:
        """Raises: SourceError if the rest does not fit on the disk."""
        self._total_bytes = total_bytes
        if self.tag is not None:
            with disk_errors(self.path.parent):
                self._tag_file.write_text(f"{self.tag}\n{total_bytes}", "utf-8")
        require_room(self.path.parent, total_bytes - self.size_bytes)

    def write(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        with disk_errors(self.path.parent, (self._total_bytes or 0) - self.size_bytes):
            while rest:
                written = self._file.write(rest)
                self._digest.update(rest[:written])
                self.size_bytes += written
                rest = rest[written:]

    @property
    def is_resumable(self) -> bool:
        return self.tag is not None and self.size_bytes > 0

    @property
    def expected_sha256(self) -> str | None:
        return self.wanted or self.promised_sha256

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def finish(self) -> None:
        with disk_errors(self.path.parent):
            os.fsync(self._file.fileno())
            os.replace(self._part, self.path)
            self._tag_file.unlink(missing_ok=True)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # else a power cut may bring the name back without the file
            finally:
                os.close(folder)
