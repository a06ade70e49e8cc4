"""Files of what slots hold of conversations: found again by the model and by the conversation, within a size and an
age. Everything here blocks."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

MAX_AGE_S = 7 * 24 * 3600.0
UNFINISHED_S = 60.0  # after which a file that is still being written never will be done
READ_BYTES = 1 << 20
STORED, UNFINISHED = ".kv", ".part"


@dataclass(frozen=True, slots=True)
class Stored:
    """A whole file, with its number of tokens and its checksum, as its name has them."""

    path: Path
    tokens: int
    checksum: int

    @classmethod
    def at(cls, path: Path) -> Stored | None:
        """None for a name that is not of our making."""
        try:
            _, tokens, checksum = path.name.removesuffix(STORED).split(".")
            return cls(path, int(tokens), int(checksum, 16))
        except ValueError:
            return None

    @property
    def is_sound(self) -> bool:
        """Is it as it was written? llama.cpp's server ends itself over one that is cut short."""
        try:
            return checksum_of(self.path) == self.checksum
        except OSError:
            return False


def folder_of(root: Path, files: Iterable[Path], settings: Iterable[str] = ()) -> Path | None:
    """Below `root`, for what a model made of these files keeps: another one once a file has changed, or a setting. None
    where a file is missing."""
    digest = blake2b(digest_size=16)
    try:
        for file in files:
            found = file.stat()
            digest.update(
                f"{file.resolve()}\0{found.st_size}\0{found.st_mtime_ns}\0".encode("utf-8", "surrogateescape")
            )
    except OSError:
        return None
    for setting in settings:
        digest.update(f"{setting}\0".encode("utf-8", "surrogateescape"))
    return root / digest.hexdigest()


def make(folder: Path) -> None:
    """For this user alone. Raises: OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for each in (folder.parent, folder):
        each.mkdir(mode=0o700, exist_ok=True)
        each.chmod(0o700)


def unfinished_name(conversation: str) -> str:
    """To be written under; another at each call."""
    return f"{_name_of(conversation)}.{time.time_ns():x}{UNFINISHED}"


def adopt(folder: Path, unfinished: str, conversation: str, tokens: int) -> Stored:
    """Take over what has been written, in the place of what there was of this conversation. Raises: OSError."""
    path = folder / unfinished
    path.chmod(0o600)
    checksum = checksum_of(path)
    before = list(_of(folder, conversation))
    stored = Stored(folder / f"{_name_of(conversation)}.{tokens}.{checksum:08x}{STORED}", tokens, checksum)
    path.replace(stored.path)
    for old in before:
        if old.path != stored.path:
            remove(old.path)
    return stored


def find(folder: Path, conversation: str) -> Stored | None:
    """What there is of it. What is damaged is removed."""
    for stored in _of(folder, conversation):
        if stored.is_sound:
            with suppress(OSError):
                os.utime(stored.path)  # used last goes last
            return stored
        remove(stored.path)
    return None


def trim(root: Path, limit_bytes: int, now: float) -> None:
    """Remove what is too old, then what was used least recently until all fits. `now`: unix seconds."""
    kept: list[tuple[float, int, Path]] = []
    for path in root.glob("*/*"):
        try:
            found = path.stat()
        except OSError:
            continue
        if path.suffix == UNFINISHED and now - found.st_mtime <= UNFINISHED_S:
            continue
        if path.suffix != STORED or not limit_bytes or now - found.st_mtime > MAX_AGE_S:
            remove(path)
        else:
            kept.append((found.st_mtime, found.st_size, path))
    taken = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if taken <= limit_bytes:
            break
        remove(path)
        taken -= size
    for folder in root.glob("*"):
        if not limit_bytes:
            with suppress(OSError):  # there is something in it
                folder.rmdir()


def remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def checksum_of(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(READ_BYTES):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _name_of(conversation: str) -> str:
    return blake2b(conversation.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _of(folder: Path, conversation: str) -> Iterator[Stored]:
    for path in folder.glob(f"{_name_of(conversation)}.*{STORED}"):
        stored = Stored.at(path)
        if stored is not None:
            yield stored
