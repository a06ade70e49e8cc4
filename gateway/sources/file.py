"""`file:` sources: used where they lie, never copied, never changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

from gateway.errors import SourceError
from gateway.sources.split import nth_part


@dataclass(frozen=True)
class FileSource:
    """`path` as written; a relative one counts from the working directory, `~` is the home directory."""

    shape: ClassVar[str] = "file:/abs/path"

    uri: str
    path: Path

    @classmethod
    def parse(cls, uri: str) -> FileSource:
        text = uri.partition(":")[2]
        if text.startswith("//"):  # a URL, so percent escapes are decoded; the other forms are taken as written
            host = text[2:].partition("/")[0]
            if host not in ("", "localhost"):
                host = host.rpartition("@")[2]
                raise SourceError(
                    f"file://{host}/… names the host {host!r}; a file on this machine is file:///abs/path"
                )
            text = unquote(text[2 + len(host) :])
        if not text.strip("/") or text.endswith("/") or "\0" in text:
            raise SourceError(f"{uri!r} names no file; write {cls.shape} or file:relative/path")
        return cls(uri, Path(text))

    def __str__(self) -> str:
        return self.uri

    @property
    def identity(self) -> str:
        return f"file:{self.place()}"

    @property
    def file_path(self) -> str:
        return str(self.path)

    def part(self, number: int) -> FileSource:
        return FileSource(nth_part(self.uri, number), Path(nth_part(self.file_path, number)))

    def place(self, folder: Path | None = None) -> Path:
        path = self.path
        return (Path.home().joinpath(*path.parts[1:]) if path.parts[:1] == ("~",) else path).absolute()

    @property
    def is_readable(self) -> bool:
        return self.place().is_file() and os.access(self.place(), os.R_OK)

    def require_readable(self) -> None:
        """Raises: SourceError saying what is there instead."""
        path = self.place()
        if path.is_dir():
            raise SourceError(f"{self}: {path} is a folder; name one file in it")
        if not path.is_file():
            raise SourceError(f"{self}: there is no file at {path}")
        if not os.access(path, os.R_OK):
            raise SourceError(f"{self}: {path} may not be read by this user")
