"""Servers for model files to come from, with everything that can go wrong on the way."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BODY = bytes(range(256)) * 1200  # several reads long
COMMIT = "c0ffee" * 6 + "c0de"
SHA256 = hashlib.sha256(BODY).hexdigest()


class FileServer(ThreadingHTTPServer):
    """One file over HTTP, and everything that can go wrong on the way."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Reply)
        self.reset()

    def reset(self) -> None:
        self.body = BODY
        self.bodies: dict[str, bytes] = {}  # for some paths another one
        self.tags: dict[str, str] = {"ETag": '"one"'}
        self.has_ranges = True
        self.cuts: list[int] = []  # bytes after which the next replies end
        self.statuses: list[int] = []  # instead of the next replies
        self.extra: dict[str, str] = {}  # headers
        self.content_range: str | None = None  # a wrong one
        self.obeys_if_range = True
        self.has_length = True
        self.is_chunked = False
        self.before_body: Callable[[int], None] = lambda nth: None
        self.seen: list[dict[str, str]] = []

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for headers in self.seen]

    def url(self, path: str = "/files/model.gguf") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Reply(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        server = self.server
        server.seen.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
        if server.statuses:
            return self.plain(server.statuses.pop(0))
        start, body = self.start(), server.bodies.get(self.path.partition("?")[0], server.body)
        if start >= len(body) > 0:
            return self.plain(416, {"Content-Range": f"bytes */{len(body)}"})
        rest = body[start:]
        sent = rest[: server.cuts.pop(0)] if server.cuts else rest  # before a word that lets the client go on
        self.send_response(206 if start else 200)
        for name, value in (server.tags | server.extra).items():
            self.send_header(name, value)
        if start:
            size = len(body)
            self.send_header("Content-Range", server.content_range or f"bytes {start}-{size - 1}/{size}")
        if server.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif server.has_length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        server.before_body(len(server.seen))
        if server.is_chunked:
            chunk = b"%x\r\n%s\r\n" % (len(sent), sent) if sent else b""
            self.wfile.write(chunk + (b"0\r\n\r\n" if sent == rest else b""))
        else:
            self.wfile.write(sent)

    def start(self) -> int:
        if not self.server.has_ranges or "range" not in self.headers:
            return 0
        version = self.headers.get("if-range")
        if self.server.obeys_if_range and version is not None and version not in self.server.tags.values():
            return 0
        return int(self.headers["range"].removeprefix("bytes=").removesuffix("-"))

    def plain(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ((headers or {}) | self.server.extra | {"Content-Length": "0"}).items():
            self.send_header(name, value)
        self.end_headers()


class Hub(ThreadingHTTPServer):
    """Hugging Face's Hub: knows what there is, and sends whoever asks on to a CDN, another host."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, cdn: FileServer) -> None:
        super().__init__(("127.0.0.1", 0), HubReply)
        self.cdn = cdn
        self.files: dict[str, bytes] = {}  # by owner/repo/revision/path
        self.small: set[str] = set()  # of these: answered without a redirect
        self.moved: dict[str, str] = {}  # owner/repo to owner/repo
        self.refusals: list[tuple[int, dict[str, str]]] = []  # instead of the next replies
        self.seen: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def tokens(self) -> list[str | None]:
        return [headers.get("authorization") for headers in self.seen]


class HubReply(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.close_connection = True
        hub = self.server
        hub.seen.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
        _, owner, repo, _, revision, *path = self.path.split("/")
        key = f"{owner}/{repo}/{revision}/{'/'.join(path)}"
        if hub.refusals:
            self.reply(*hub.refusals.pop(0))
        elif new := hub.moved.get(f"{owner}/{repo}"):
            self.reply(307, {"Location": self.path.replace(f"{owner}/{repo}", new)})
        elif key not in hub.files:
            self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        elif key in hub.small:
            self.reply(200, {"ETag": '"0123456789012345678901234567890123456789"'}, hub.files[key])
        else:
            sha256 = hashlib.sha256(hub.files[key]).hexdigest()
            hub.cdn.bodies.setdefault(f"/blobs/{sha256}", hub.files[key])
            linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(hub.files[key])), "ETag": '"elsewhere"'}
            location = hub.cdn.url(f"/blobs/{sha256}?signature=hunter2").replace("127.0.0.1", "localhost")
            self.reply(302, linked | {"Location": location})

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers | {"X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def stored(home: Path) -> list[str]:
    """Names of everything but locks and markers under home/models."""
    files = [path.name for path in (home / "models").rglob("*") if path.is_file()]
    return sorted(name for name in files if not name.startswith("."))
