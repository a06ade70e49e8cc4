"""Files from a server (http: here): cut, changed, redirected, refused."""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from http.client import HTTPMessage
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.errors import SourceError
from gateway.sources import download, is_present, parse, path_of, pull, sha256_of
from tests.sources.servers import BODY, SHA256, FileServer, stored


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


def test_nobody_listening_is_said_without_the_login(
    closed_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PAUSES_S", (0.0,))
    complaint = rf"http://127.0.0.1:{closed_port}/m.gguf\?…: no connection \(Connection refused\), 2 times in a row$"
    with pytest.raises(SourceError, match=complaint):
        pull(parse(f"http://me:hunter2@127.0.0.1:{closed_port}/m.gguf?key=hunter2"), tmp_path)


def test_a_silent_server_is_left(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.05)
    go = threading.Event()
    server.before_body = lambda nth: go.wait(10) and None
    with pytest.raises(SourceError, match="nothing came for 0.05 s, 5 times in a row$"):
        pull(parse(server.url()), tmp_path)
    go.set()


def test_an_unknown_host_and_a_false_certificate_are_final(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="https://example.invalid/m.gguf: no such host"):
        pull(parse("https://example.invalid/m.gguf"), tmp_path)
    attempt = download.Download("https://example.invalid/m.gguf", "https://example.invalid/m.gguf", None)
    untrusted = ssl.SSLCertVerificationError(1, "failed")
    untrusted.verify_message = "self-signed certificate"
    assert "self-signed certificate" in str(attempt._broken(urllib.error.URLError(untrusted)))


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
        redirects = download._SafeRedirects("it", lambda request, headers: None)
        redirects.redirect_request(request, body, 302, "Found", HTTPMessage(), "http://127.0.0.1/m.gguf")


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
