"""A file over HTTP: resumed after a cut, never trusted to have sent everything, redirects looked at."""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from http import HTTPStatus
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from gateway.errors import SourceError
from gateway.sources.storage import Part, Progress, is_sha256
from gateway.transport import is_loopback

TIMEOUT_S = 30  # to connect, and between two reads
PAUSES_S = (0.5, 1.0, 2.0, 4.0)  # after tries in a row that brought nothing; one more such try is the last
LONGEST_PAUSE_S = 30.0
READ_BYTES = 1 << 16
_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}

Explain = Callable[[urllib.error.HTTPError], str]
"""What an HTTP error status means, in words that hold no URL."""


class _Cut(Exception):
    """This try ended early, and the next may go on from here."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def status_text(error: urllib.error.HTTPError) -> str:
    return f"the server answered {_status(error.code)}"


def without_login(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def basic_login(url: str) -> str | None:
    """What `Authorization` says for the login in a URL; None where it has none."""
    parts = urlsplit(url)
    if not parts.username:
        return None
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(login.encode()).decode()}"


class Download:
    """One file from `url`, into a `Part`, in as many tries as it takes.

    A server may say what the file's sha256 is (`X-Linked-Etag`, as Hugging Face does while it redirects to where the
    file lies): it becomes `part.promised_sha256`, and stands for the version of the file on all hosts behind it.

    Args:
        shown: the source, as messages name it.
        url: without a login.
        authorization: sent to this URL's host only.
    """

    def __init__(self, shown: str, url: str, authorization: str | None, explain: Explain = status_text) -> None:
        self._shown, self._url, self._authorization, self._explain = shown, url, authorization, explain
        self._linked_tag: str | None = None
        self._linked_bytes: int | None = None

    def fetch(self, part: Part, on_progress: Progress) -> None:
        """Raises: SourceError."""
        redirects = _SafeRedirects(self._shown, lambda request, headers: self._redirected(part, request, headers))
        opener = urllib.request.build_opener(_ProxiesElsewhere, redirects)
        failures, longest = 0, part.size_bytes
        while True:
            try:
                return self._try(opener, part, on_progress)
            except _Cut as cut:
                failures = 1 if part.size_bytes > longest else failures + 1
                longest = max(longest, part.size_bytes)
                if failures > len(PAUSES_S):
                    kept = f"; {part.size_bytes:,} bytes are kept, pull again to go on" if part.is_resumable else ""
                    raise SourceError(f"{self._shown}: {cut}, {failures} times in a row{kept}") from cut
                time.sleep(max(PAUSES_S[failures - 1], min(cut.retry_after_s, LONGEST_PAUSE_S)))

    def _try(self, opener: urllib.request.OpenerDirector, part: Part, on_progress: Progress) -> None:
        self._linked_tag = self._linked_bytes = None
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
        if self._authorization:
            headers["Authorization"] = self._authorization
        if part.is_resumable:
            headers["Range"] = f"bytes={part.size_bytes}-"
            if part.tag:
                headers["If-Range"] = part.tag
        return urllib.request.Request(self._url, headers=headers)

    def _redirected(self, part: Part, request: urllib.request.Request, headers: http.client.HTTPMessage) -> None:
        """The next host does not know the version that this one names: compare here, on its behalf."""
        if not self._promise(part, headers):
            return
        self._linked_tag = f'"{part.promised_sha256}"'
        size = headers.get("X-Linked-Size", "")
        self._linked_bytes = int(size) if size.isdecimal() else None
        if request.headers.pop("If-range", self._linked_tag) != self._linked_tag:
            request.headers.pop("Range", None)

    def _promise(self, part: Part, headers: http.client.HTTPMessage) -> bool:
        """Raises: SourceError, before anything is transferred, if the file is not the one wanted."""
        found = headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"').lower()
        if not is_sha256(found):
            return False
        if part.wanted not in (None, found):
            reason = f"sha256 should be {part.wanted}, but the server's file has {found}"
            raise SourceError(f"{self._shown}: {reason}. Correct sha256, or find out why the file has changed")
        part.promised_sha256 = found
        return True

    def _take(self, reply: http.client.HTTPResponse, part: Part) -> int | None:
        """Make `part` ready for this reply's bytes. Returns: the size of the whole file, None if it is not told."""
        headers = reply.headers
        if headers.get("Content-Encoding", "identity") != "identity":
            raise SourceError(f"{self._shown}: the server sends the file compressed ({headers['Content-Encoding']})")
        if self._linked_tag is None:
            self._promise(part, headers)
        if reply.status == HTTPStatus.OK:
            part.restart(self._linked_tag or _version(headers) or ("" if part.expected_sha256 else None))
            return self._linked_bytes if reply.chunked or reply.length is None else reply.length
        if reply.status != HTTPStatus.PARTIAL_CONTENT:
            raise SourceError(f"{self._shown}: the server answered {_status(reply.status)} instead of the file")
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        if not span or not part.size_bytes == int(span[1]) < int(span[2]) or self._is_other(part.tag, headers):
            part.restart(None)
            raise _Cut("the server sent another piece of the file than the one asked for")
        part.is_glued = True
        return int(span[2])

    def _is_other(self, tag: str | None, headers: http.client.HTTPMessage) -> bool:
        """Whether a server that should have looked at `If-Range` did not, and sends a piece of another version."""
        found = self._linked_tag or headers.get("ETag" if (tag or "").startswith('"') else "Last-Modified")
        return bool(tag and found and found != tag)

    def _refused(self, error: urllib.error.HTTPError, part: Part) -> None:
        """Returns only if the refusal means that nothing is left to fetch."""
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and part.size_bytes:
            if error.headers.get("Content-Range") == f"bytes */{part.size_bytes}":
                part.is_glued = True
                return
            part.restart(None)
            raise _Cut("the server does not know the rest of the file")
        if error.code in _TRY_AGAIN:
            raise _Cut(self._explain(error), _pause_s(error.headers))
        raise SourceError(f"{self._shown}: {self._explain(error)}")

    def _broken(self, exc: Exception) -> Exception:
        """What a failed connection means, in words that hold no URL."""
        reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
        if isinstance(reason, ssl.SSLCertVerificationError):
            problem = f"the server's certificate is not trusted ({reason.verify_message})"
            return SourceError(f"{self._shown}: {problem}; SSL_CERT_FILE may name your own authority's")
        if isinstance(reason, socket.gaierror):
            return SourceError(f"{self._shown}: no such host, or this machine is offline")
        if isinstance(reason, ValueError):
            return SourceError(f"{self._shown}: the server redirects to something that is not a URL")
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


def _pause_s(headers: Message) -> float:
    """How long the server asks to be left alone: `Retry-After`, or what is left of its window in `RateLimit`."""
    after = headers.get("Retry-After", "")
    window = re.search(r"\br=0;\s*t=(\d+)", headers.get("RateLimit", ""))
    return float(after if after.isdecimal() else window[1] if window else 0)


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
    """Never from https: to http:, nor with http: between this machine and another; the login stays with the host it
    was meant for."""

    def __init__(
        self, shown: str, on_redirect: Callable[[urllib.request.Request, http.client.HTTPMessage], None]
    ) -> None:
        self._shown, self._on_redirect = shown, on_redirect

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
        is_same_side = is_loopback(old.hostname) == is_loopback(new.hostname)
        if new.scheme != "https" and not (new.scheme == old.scheme == "http" and is_same_side):
            fp.close()
            raise SourceError(f"{self._shown}: redirects to {new.scheme}:, which is not encrypted")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request:
            if (old.scheme, old.netloc) != (new.scheme, new.netloc):
                request.headers.pop("Authorization", None)
            self._on_redirect(request, headers)
        return request
