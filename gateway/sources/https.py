"""`https:` sources: resumed after a cut, never trusted to have sent everything. `http:` only from this machine."""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any, ClassVar
from urllib.parse import SplitResult, unquote, urlsplit

from gateway.errors import SourceError
from gateway.sources.storage import Part, Progress, safe_filename
from gateway.transport import is_loopback

TIMEOUT_S = 30  # to connect, and between two reads
PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # after tries in a row that brought nothing; one more such try is the last
LONGEST_PAUSE_S = 30.0
READ_BYTES = 1 << 16
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


class _Cut(Exception):
    """This try ended early, and the next may go on from here."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


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
        return self._parts._replace(netloc=self._parts.netloc.rpartition("@")[2]).geturl()

    def place(self, folder: Path) -> Path:
        return folder / safe_filename(unquote(self._parts.path))

    def fetch(self, part: Part, on_progress: Progress) -> None:
        opener = urllib.request.build_opener(_ProxiesElsewhere, _SafeRedirects)
        failures, longest = 0, part.size_bytes
        while True:
            try:
                return self._try(opener, part, on_progress)
            except _Cut as cut:
                failures = 1 if part.size_bytes > longest else failures + 1
                longest = max(longest, part.size_bytes)
                if failures > len(PAUSES_S):
                    kept = f"; {part.size_bytes:,} bytes are kept, pull again to go on" if part.is_resumable else ""
                    raise SourceError(f"{self}: {cut}, {failures} times in a row{kept}") from cut
                time.sleep(max(PAUSES_S[failures - 1], min(cut.retry_after_s, LONGEST_PAUSE_S)))

    def _try(self, opener: urllib.request.OpenerDirector, part: Part, on_progress: Progress) -> None:
        try:
            with opener.open(self._request(part), timeout=TIMEOUT_S) as reply:
                total = self._take(reply, part)
                if total is not None:
                    part.expect(total)
                on_progress(part.size_bytes, total)
                while chunk := reply.read1(READ_BYTES if total is None else min(READ_BYTES, total - part.size_bytes)):
                    part.write(chunk)
                    on_progress(part.size_bytes, total)
            if total is not None and part.size_bytes < total:
                raise _Cut(f"the connection was cut after {part.size_bytes:,} of {total:,} bytes")
        except urllib.error.HTTPError as exc:
            with exc:
                self._refused(exc, part)
            on_progress(part.size_bytes, part.size_bytes)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise self._broken(exc) from exc

    def _request(self, part: Part) -> urllib.request.Request:
        headers = {"User-Agent": "onion-gateway", "Accept-Encoding": "identity"}
        parts = self._parts
        if parts.username:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        if part.is_resumable:
            headers["Range"] = f"bytes={part.size_bytes}-"
            if part.tag:
                headers["If-Range"] = part.tag
        return urllib.request.Request(self.identity, headers=headers)

    def _take(self, reply: http.client.HTTPResponse, part: Part) -> int | None:
        """Make `part` ready for this reply's bytes. Returns: the size of the whole file, None if it is not told."""
        headers = reply.headers
        if headers.get("Content-Encoding", "identity") != "identity":
            raise SourceError(f"{self}: the server sends the file compressed ({headers['Content-Encoding']})")
        if reply.status == HTTPStatus.OK:
            part.restart(_version(headers) or ("" if part.wanted else None))
            return None if reply.chunked else reply.length
        if reply.status != HTTPStatus.PARTIAL_CONTENT:
            raise SourceError(f"{self}: the server answered {_status(reply.status)} instead of the file")
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        if not span or not part.size_bytes == int(span[1]) < int(span[2]) or _is_other(part.tag, headers):
            part.restart(None)
            raise _Cut("the server sent another piece of the file than the one asked for")
        part.is_glued = True
        return int(span[2])

    def _refused(self, error: urllib.error.HTTPError, part: Part) -> None:
        """Returns only if the refusal means that nothing is left to fetch."""
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.size_bytes:
            if error.headers.get("Content-Range") == f"bytes */{part.size_bytes}":
                part.is_glued = True
                return
            part.restart(None)
            raise _Cut("the server does not know the rest of the file")
        if error.code in _TRY_AGAIN:
            pause = error.headers.get("Retry-After", "")
            raise _Cut(f"the server answered {_status(error.code)}", float(pause) if pause.isdigit() else 0)
        login = "; a login goes into the URL: https://USER:TOKEN@host/…" if error.code in (401, 403) else ""
        raise SourceError(f"{self}: the server answered {_status(error.code)}{login}")

    def _broken(self, exc: Exception) -> Exception:
        """What a failed connection means, in words that hold no URL."""
        reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
        if isinstance(reason, ssl.SSLCertVerificationError):
            problem = f"the server's certificate is not trusted ({reason.verify_message})"
            return SourceError(f"{self}: {problem}; SSL_CERT_FILE may name your own authority's")
        if isinstance(reason, socket.gaierror):
            return SourceError(f"{self}: no such host, or this machine is offline")
        if isinstance(reason, ValueError):
            return SourceError(f"{self}: the server redirects to something that is not a URL")
        if isinstance(reason, TimeoutError):
            return _Cut(f"nothing came for {TIMEOUT_S} s")
        if isinstance(reason, http.client.HTTPException | ConnectionResetError):
            return _Cut("the connection was cut")
        return _Cut(f"no connection ({getattr(reason, 'strerror', None) or type(reason).__name__})")


def _version(headers: http.client.HTTPMessage) -> str | None:
    """What `If-Range` may hold: a strong ETag, else the date."""
    etag = headers.get("ETag", "")
    version = etag if etag.startswith('"') else headers.get("Last-Modified", "")
    return version if version and version.isprintable() else None


def _is_other(tag: str | None, headers: http.client.HTTPMessage) -> bool:
    """Whether a server that should have looked at `If-Range` did not, and sends a piece of another version."""
    found = headers.get("ETag" if (tag or "").startswith('"') else "Last-Modified")
    return bool(tag and found and found != tag)


def _status(code: int) -> str:
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


class _ProxiesElsewhere(urllib.request.ProxyHandler):
    """The environment's proxies, except for this machine."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        return None if is_loopback(urlsplit(f"//{req.host}").hostname) else super().proxy_open(req, proxy, type)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Never from https: to http:, nor to http: elsewhere; the login stays with the host it was meant for."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme != "https" and not (new.scheme == old.scheme == "http" and is_loopback(new.hostname)):
            fp.close()
            raise SourceError(f"{HttpsSource(req.full_url)}: redirects to {new.scheme}:, which is not encrypted")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request and (old.scheme, old.netloc) != (new.scheme, new.netloc):
            request.headers.pop("Authorization", None)
        return request
