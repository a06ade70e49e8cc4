"""Documents from files and folders: which are read, as what, and what is left out and why."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from gateway.shards.reading.formats import CONVERTED, Unreadable, convert

MAX_BYTES = 32 * 2**20  # of a file
MAX_DEPTH = 64  # of folders in folders


class Markup(StrEnum):
    MARKDOWN = "markdown"
    TEXT = "text"
    RST = "rst"


PLAIN = {
    ".md": Markup.MARKDOWN,
    ".markdown": Markup.MARKDOWN,
    ".txt": Markup.TEXT,
    ".text": Markup.TEXT,
    ".rst": Markup.RST,
}
SUFFIXES = (*PLAIN, *CONVERTED)


@dataclass(frozen=True)
class Document:
    """A document as text.

    Args:
        source: the path as it was given, or a URL.
        title: "" where the text tells it, or the name of the file.
    """

    source: str
    text: str
    markup: Markup = Markup.MARKDOWN
    title: str = ""


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was not read. `why`: in words for the user."""

    source: str
    why: str

    def __str__(self) -> str:
        return f"{self.source}: {self.why}"


def read_documents(paths: Sequence[Path]) -> Iterator[Document | Skipped]:
    """Files, and all documents in folders and their folders, in the order of their names. Each file is read once,
    however often links lead to it; hidden ones only where they are named."""
    seen: set[tuple[int, int]] = set()
    for path in paths:
        yield from _read(path, seen, 0)


def _read(path: Path, seen: set[tuple[int, int]], depth: int) -> Iterator[Document | Skipped]:
    try:
        found = path.stat()
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        yield Skipped(str(path), _reason(exc))
        return
    identity = (found.st_dev, found.st_ino)
    if identity in seen:
        yield Skipped(str(path), "it has been read under another name")
    elif stat.S_ISDIR(found.st_mode):
        seen.add(identity)
        yield from _read_folder(path, seen, depth)
    elif not stat.S_ISREG(found.st_mode):
        yield Skipped(str(path), "it is not a file")
    else:
        seen.add(identity)
        yield _read_file(path, found.st_size)


def _read_folder(folder: Path, seen: set[tuple[int, int]], depth: int) -> Iterator[Document | Skipped]:
    if depth >= MAX_DEPTH:
        yield Skipped(str(folder), f"it is more than {MAX_DEPTH} folders deep")
        return
    try:
        names = sorted(os.listdir(folder))
    except OSError as exc:
        yield Skipped(str(folder), _reason(exc))
        return
    for name in names:
        if name.startswith("."):
            yield Skipped(str(folder / name), "it is hidden; name it to have it read")
        else:
            yield from _read(folder / name, seen, depth + 1)


def _read_file(path: Path, size_bytes: int) -> Document | Skipped:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        what = f"'{suffix}' files" if suffix else "files without a suffix"
        return Skipped(str(path), f"{what} are not read; documents are {', '.join(SUFFIXES)}")
    if size_bytes > MAX_BYTES:
        return Skipped(str(path), f"it has {size_bytes / 2**20:.0f} MB; at most {MAX_BYTES // 2**20} are read")
    try:
        data = _bytes_of(path)
        if suffix in PLAIN:
            return Document(str(path), decode(data), PLAIN[suffix])
        converted = convert(data, suffix)
        markup = Markup.TEXT if suffix == ".pdf" else Markup.MARKDOWN
        title = path.stem if suffix == ".xlsx" else converted.title  # its headings are the names of its sheets
        return Document(str(path), converted.text, markup, title)
    except Unreadable as exc:
        return Skipped(str(path), str(exc))
    except OSError as exc:
        return Skipped(str(path), _reason(exc))


def _bytes_of(path: Path) -> bytes:
    """Of a file that may have grown, or become something else, since it was looked at."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(number, "rb") as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise Unreadable("it is not a file")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Unreadable(f"it has more than {MAX_BYTES // 2**20} MB")
    return data


BOMS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def decode(data: bytes) -> str:
    """As its byte order mark says, else UTF-8, else Windows' or ISO's Latin 1, with "\\n" as line end.

    Raises: Unreadable if it is not text.
    """
    encoding = next((name for mark, name in BOMS if data.startswith(mark)), None)
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError:
        if encoding is not None:
            raise Unreadable("it is not the Unicode text that its first bytes say it is") from None
        text = _latin(data)
    if "\0" in text or _has_many_controls(text):
        raise Unreadable("it is not text but binary data")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _latin(data: bytes) -> str:
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:  # five bytes have no meaning there
        return data.decode("latin-1")


CONTROLS = frozenset(map(chr, range(32))) - frozenset("\t\n\r\f\v\x1b\x1a")
LOOKED_AT_CHARS = 65536


def _has_many_controls(text: str) -> bool:
    start = text[:LOOKED_AT_CHARS]
    return 50 * sum(char in CONTROLS or "\x7f" <= char < "\x85" for char in start) > len(start)


def _reason(exc: OSError | ValueError) -> str:
    if isinstance(exc, FileNotFoundError):
        return "there is no such file"
    return f"it cannot be read: {exc.strerror or exc}" if isinstance(exc, OSError) else f"it cannot be read: {exc}"
