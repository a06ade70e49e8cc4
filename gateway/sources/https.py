"""`https:` sources; `http:` only from this machine."""

from __future__ import annotations

import urllib.error
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from urllib.parse import SplitResult, unquote, urlsplit

from gateway.errors import SourceError
from gateway.sources.download import Download, basic_login, status_text, without_login
from gateway.sources.split import nth_part
from gateway.sources.storage import Part, Progress, safe_filename
from gateway.transport import is_loopback


@dataclass(frozen=True)
class HttpsSource:
    """`uri` may hold a login (`https://USER:TOKEN@host/…`) or a signed query: print `str(source)` instead."""

    shape: ClassVar[str] = "https://host/path/file"

    uri: str = field(repr=False)

    @classmethod
    def parse(cls, uri: str) -> HttpsSource:
        source = cls(uri)
        if not uri.isascii() or not uri.isprintable() or " " in uri:
            raise SourceError(f"a URL holds only ASCII without spaces: percent-encode the rest ({cls.shape})")
        try:
            parts = urlsplit(uri)
            host, _ = parts.hostname, parts.port
            (host or "").encode("idna")
        except ValueError as exc:
            raise SourceError(f"a source is not a URL like {cls.shape}: check its host and port") from exc
        if not host:
            raise SourceError(f"{source} names no host; write {cls.shape}")
        if parts.scheme == "http" and not is_loopback(host):
            raise SourceError(f"{source} is not encrypted: http: is taken only from this machine; write {cls.shape}")
        if parts.fragment or uri.endswith("#"):
            raise SourceError(f"{source} must not have a #… part: the whole file is taken")
        if not safe_filename(unquote(parts.path)):
            raise SourceError(f"{source} names no file; write {cls.shape}")
        return source

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.uri)

    def __str__(self) -> str:
        parts = self._parts
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}{'?…' if parts.query else ''}"

    @property
    def identity(self) -> str:
        """Without the login, so that a new token does not fetch everything again."""
        return without_login(self.uri)

    @property
    def file_path(self) -> str:
        return self._parts.path

    def part(self, number: int) -> HttpsSource:
        return HttpsSource(self._parts._replace(path=nth_part(self.file_path, number)).geturl())

    def place(self, folder: Path) -> Path:
        return folder / safe_filename(unquote(self.file_path))

    def fetch(self, part: Part, on_progress: Progress) -> None:
        Download(str(self), self.identity, basic_login(self.uri), _explain).fetch(part, on_progress)


def _explain(error: urllib.error.HTTPError) -> str:
    login = "; a login goes into the URL: https://USER:TOKEN@host/…" if error.code in (401, 403) else ""
    return f"{status_text(error)}{login}"
