"""Files from Hugging Face: a Hub that redirects to a CDN, what it refuses, and the cache that its own tools keep."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.errors import SourceError
from gateway.sources import files_of, is_present, parse, path_of, pull, sha256_of
from tests.sources.servers import BODY, COMMIT, SHA256, FileServer, Hub, stored

MODEL = "hf:owner/repo/quant/model.gguf"
KEY = "owner/repo/main/quant/model.gguf"


@pytest.fixture
def model(hub: Hub) -> Hub:
    hub.files[KEY] = BODY
    return hub


def test_a_file_comes_from_the_cdn_and_the_token_stays_with_the_hub(
    model: Hub, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    source = parse(MODEL)
    path = pull(source, tmp_path)
    assert path == path_of(source, tmp_path) and path.read_bytes() == BODY and path.name == "model.gguf"
    assert model.seen[0]["path"] == "/owner/repo/resolve/main/quant/model.gguf"
    assert model.tokens == ["Bearer hf_secret"]
    assert len(server.seen) == 1 and "authorization" not in server.seen[0]
    assert pull(source, tmp_path) == path and len(model.seen) == 1


def test_what_the_hub_says_of_the_sha256_is_held_against_the_file(
    model: Hub, server: FileServer, tmp_path: Path
) -> None:
    pull(parse(MODEL), tmp_path)
    status = files_of(parse(MODEL), tmp_path)[0].status()
    assert status.sha256 == SHA256 and status.is_verified
    server.bodies[f"/blobs/{SHA256}"] = wrong = BODY[::-1]
    found = hashlib.sha256(wrong).hexdigest()
    with pytest.raises(SourceError, match=f"server says that its sha256 is {SHA256}, but it is {found}; .* removed"):
        pull(parse(MODEL), tmp_path / "other")
    assert stored(tmp_path / "other") == []


def test_another_file_than_the_wanted_one_is_refused_before_it_is_fetched(
    model: Hub, server: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=f"sha256 should be {'0' * 64}, but the server's file has {SHA256}"):
        pull(parse(MODEL), tmp_path, "0" * 64)
    assert server.seen == [] and stored(tmp_path) == []


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_cut_download_asks_the_cdn_for_the_rest(
    model: Hub, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sha256: str | None
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.cuts = [1000, 2000]
    assert pull(parse(MODEL), tmp_path, sha256).read_bytes() == BODY
    assert server.ranges == [None, "bytes=1000-", "bytes=3000-"]
    assert [headers.get("authorization") for headers in server.seen] == [None] * 3
    assert model.tokens == ["Bearer hf_secret"] * 3


def test_a_later_process_goes_on_even_at_another_cdn(model: Hub, server: FileServer, tmp_path: Path) -> None:
    server.cuts = [1000] + [0] * 5
    with pytest.raises(SourceError, match="1,000 bytes are kept"):
        pull(parse(MODEL), tmp_path)
    partial = files_of(parse(MODEL), tmp_path)[0].status()
    assert (partial.state, partial.size_bytes, partial.total_bytes) == ("partial", 1000, len(BODY))
    server.seen.clear()
    server.cuts, server.tags = [], {"ETag": '"of another CDN"'}
    assert pull(parse(MODEL), tmp_path).read_bytes() == BODY
    assert server.ranges == ["bytes=1000-"] and "if-range" not in server.seen[0]


def test_a_revision_that_moved_on_meanwhile_starts_over(model: Hub, server: FileServer, tmp_path: Path) -> None:
    server.cuts = [1000]
    other = BODY[::-1]
    server.before_body = lambda nth: model.files.update({KEY: other})
    assert pull(parse(MODEL), tmp_path).read_bytes() == other
    assert server.ranges == [None, None]


def test_a_moved_repository_is_followed_with_the_token(
    hub: Hub, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.moved["owner/repo"] = "new-owner/repo"
    hub.files["new-owner/repo/main/quant/model.gguf"] = BODY
    assert pull(parse(MODEL), tmp_path).read_bytes() == BODY
    assert hub.tokens == ["Bearer hf_secret"] * 2 and "authorization" not in server.seen[0]


def test_a_small_file_comes_from_the_hub_itself(model: Hub, server: FileServer, tmp_path: Path) -> None:
    model.small.add(KEY)
    assert pull(parse(MODEL), tmp_path).read_bytes() == BODY
    assert server.seen == [] and not files_of(parse(MODEL), tmp_path)[0].status().is_verified


def test_a_revision_and_odd_names_are_quoted(hub: Hub, tmp_path: Path) -> None:
    hub.files["owner/repo/refs%2Fpr%2F1/a%20b%3F.gguf"] = BODY
    source = parse("hf:owner/repo@refs%2Fpr%2F1/a b?.gguf")
    assert str(source) == "hf:owner/repo@refs%2Fpr%2F1/a b?.gguf"
    assert pull(source, tmp_path).read_bytes() == BODY


def test_main_is_the_revision_that_needs_no_name(tmp_path: Path) -> None:
    assert path_of(parse("hf:owner/repo@main/m.gguf"), tmp_path) == path_of(parse("hf:owner/repo/m.gguf"), tmp_path)
    assert path_of(parse("hf:owner/repo@v2/m.gguf"), tmp_path) != path_of(parse("hf:owner/repo/m.gguf"), tmp_path)


@pytest.mark.parametrize(
    ("status", "code", "message", "token", "complaint"),
    [
        (401, "GatedRepo", "Access is restricted", "", "owner/repo is gated: accept its terms on the site .* HF_TOKEN"),
        (403, "GatedRepo", "Not in the list", "hf_x", "gated: accept its terms .* a token of an account that has"),
        (401, "RepoNotFound", "Repository not found", "", "there is no repository owner/repo, or it is private"),
        (404, "RepoNotFound", "Repository not found", "hf_x", "or it is private .* HF_TOKEN to a token that may read"),
        (
            401,
            None,
            "Invalid username or password.",
            "",
            "there is no repository owner/repo, or it is private or gated",
        ),
        (401, None, "Invalid credentials in Authorization header", "hf_x", "token is not valid, or has expired"),
        (404, "EntryNotFound", "Entry not found", "", "owner/repo has no file 'quant/model.gguf' at revision 'main'"),
        (404, "RevisionNotFound", "Invalid rev id", "", "owner/repo has no revision 'main'"),
        (403, None, "Access to this resource is disabled.", "", "access to owner/repo has been disabled"),
        (403, None, "Forbidden", "hf_x", "403 Forbidden: the token in HF_TOKEN may lack the right"),
        (404, None, None, "", "404 Not Found"),
    ],
)
def test_a_refusal_is_explained(
    model: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str | None,
    message: str | None,
    token: str,
    complaint: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    model.refusals = [(status, {name: value for name, value in headers.items() if value})]
    with pytest.raises(SourceError, match=f"^{MODEL}: .*{complaint}") as error:
        pull(parse(MODEL), tmp_path)
    assert "hf_x" not in str(error.value) and len(model.seen) == 1 and stored(tmp_path) == []


def test_too_many_requests_are_made_again_later(model: Hub, tmp_path: Path) -> None:
    model.refusals = [(429, {"RateLimit": '"resolvers";r=0;t=0'})]
    assert pull(parse(MODEL), tmp_path).read_bytes() == BODY
    model.refusals = [(429, {})] * 5
    with pytest.raises(
        SourceError, match="429 Too Many Requests: too many .* with HF_TOKEN set more is allowed, 5 times"
    ):
        pull(parse(MODEL), tmp_path / "other")


def test_what_the_cdn_refuses_is_not_taken_for_the_hubs_word(model: Hub, server: FileServer, tmp_path: Path) -> None:
    server.statuses = [403]
    with pytest.raises(SourceError, match=f"^{MODEL}: the server answered 403 Forbidden$"):
        pull(parse(MODEL), tmp_path)


def test_the_token_may_lie_in_a_file(model: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "huggingface"
    home.mkdir()
    (home / "token").write_text("hf_stored\n")
    pull(parse(MODEL), tmp_path)
    (tmp_path / "token").write_text("hf_elsewhere")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    pull(parse(MODEL), tmp_path / "other")
    assert model.tokens == ["Bearer hf_stored", "Bearer hf_elsewhere"]


def test_a_token_that_cannot_be_one_is_neither_sent_nor_shown(
    model: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hunter2\r\nX-Evil: 1")
    with pytest.raises(SourceError, match="HF_TOKEN holds something that is not") as error:
        pull(parse(MODEL), tmp_path)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path))
    with pytest.raises(SourceError, match="cannot read the Hugging Face token"):
        pull(parse(MODEL), tmp_path)
    assert "hunter2" not in str(error.value) and model.seen == []


@pytest.mark.parametrize(
    ("endpoint", "complaint"),
    [
        ("http://mirror.invalid:8080/hf", f"{MODEL}: no such host"),  # http: is the user's own decision here
        ("https://mirror.invalid", f"{MODEL}: no such host"),
        ("mirror.invalid", "HF_ENDPOINT is not a web address"),
        ("ftp://mirror.invalid", "HF_ENDPOINT is not a web address"),
        ("https://me:hunter2@mirror:port", "HF_ENDPOINT is not a web address"),
        ("https://me:hunter2@mirror/?x=1", "HF_ENDPOINT is not a web address"),
    ],
)
def test_the_endpoint_is_the_users_own(
    model: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str, complaint: str
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(SourceError, match=complaint) as error:
        pull(parse(MODEL), tmp_path)
    assert "hunter2" not in str(error.value)


def test_a_mirror_may_want_a_login(model: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", model.url.replace("//", "//me:s%20cret@") + "/")
    pull(parse(MODEL), tmp_path)
    assert model.tokens == ["Basic bWU6cyBjcmV0"]


def test_a_file_that_does_not_fit_is_not_begun(
    model: Hub, server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(SourceError, match=f"not enough room in {tmp_path}/models/.*307,200 bytes are needed, 5 are"):
        pull(parse(MODEL), tmp_path)
    assert stored(tmp_path) == []


def test_many_threads_fetch_once(model: Hub, server: FileServer, tmp_path: Path) -> None:
    threads = [threading.Thread(target=pull, args=(parse(MODEL), tmp_path, SHA256)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(model.seen) == len(server.seen) == 1 and stored(tmp_path) == ["model.gguf"]


# the cache of Hugging Face's own tools


def cache(home: Path, content: bytes, blob: str = SHA256, ref: str = "main", path: str = "quant/model.gguf") -> Path:
    """Lay `content` down as huggingface_hub does. Returns: the blob."""
    repo = home / "hub" / "models--owner--repo"
    file = repo / "snapshots" / COMMIT / path
    file.parent.mkdir(parents=True, exist_ok=True)
    for folder in (repo / "blobs", (repo / "refs" / ref).parent):
        folder.mkdir(parents=True, exist_ok=True)
    (repo / "blobs" / blob).write_bytes(content)
    (repo / "refs" / ref).write_text(COMMIT)
    file.symlink_to(os.path.relpath(repo / "blobs" / blob, file.parent))
    return repo / "blobs" / blob


@pytest.mark.parametrize("sha256", [None, SHA256])
@pytest.mark.parametrize("uri", [MODEL, f"hf:owner/repo@{COMMIT}/quant/model.gguf"])
def test_a_cached_file_is_used_and_nobody_is_asked(hub: Hub, tmp_path: Path, uri: str, sha256: str | None) -> None:
    blob = cache(tmp_path / "huggingface", BODY)
    file = files_of(parse(uri), tmp_path, sha256)[0]
    assert (file.status().state, "cache" in file.status().why) == ("missing", True)
    path = pull(parse(uri), tmp_path, sha256)
    assert path == path_of(parse(uri), tmp_path, sha256) and path.resolve() == blob.resolve()
    assert is_present(parse(uri), tmp_path, sha256) and file.status().is_verified and hub.seen == []


def test_another_revision_is_not_the_cached_one(model: Hub, tmp_path: Path) -> None:
    other = BODY[::-1]
    cache(tmp_path / "huggingface", other, blob=hashlib.sha256(other).hexdigest(), ref="refs/pr/1")
    assert pull(parse(MODEL), tmp_path).read_bytes() == BODY and len(model.seen) == 1
    assert pull(parse("hf:owner/repo@refs%2Fpr%2F1/quant/model.gguf"), tmp_path).read_bytes() == other
    assert len(model.seen) == 1


@pytest.mark.parametrize("sha256", [None, SHA256])
def test_a_torn_copy_in_the_cache_is_left_alone_and_not_used(model: Hub, tmp_path: Path, sha256: str | None) -> None:
    blob = cache(tmp_path / "huggingface", BODY[:1000])
    path = pull(parse(MODEL), tmp_path, sha256)
    assert not path.is_symlink() and path.read_bytes() == BODY and blob.read_bytes() == BODY[:1000]


def test_a_cached_copy_of_another_sha256_is_not_used(model: Hub, tmp_path: Path) -> None:
    old = BODY[::-1]
    cache(tmp_path / "huggingface", old, blob=hashlib.sha256(old).hexdigest())
    assert pull(parse(MODEL), tmp_path, SHA256).read_bytes() == BODY and len(model.seen) == 1


def test_a_copy_that_leaves_the_cache_is_fetched(model: Hub, tmp_path: Path) -> None:
    blob = cache(tmp_path / "huggingface", BODY)
    path = pull(parse(MODEL), tmp_path)
    blob.unlink()
    assert not is_present(parse(MODEL), tmp_path)
    assert "gone from" in files_of(parse(MODEL), tmp_path)[0].status().why
    assert pull(parse(MODEL), tmp_path) == path
    assert not path.is_symlink() and path.read_bytes() == BODY


def test_a_begun_download_is_dropped_once_the_cache_has_the_file(
    model: Hub, server: FileServer, tmp_path: Path
) -> None:
    server.cuts = [1000] + [0] * 5
    with pytest.raises(SourceError, match="1,000 bytes are kept"):
        pull(parse(MODEL), tmp_path)
    cache(tmp_path / "huggingface", BODY)
    pull(parse(MODEL), tmp_path)
    assert stored(tmp_path) == ["model.gguf"]


def test_offline_only_the_cache_is_used(model: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    complaint = f"HF_HUB_OFFLINE is set, and Hugging Face's cache .{tmp_path}/huggingface/hub. has no such file"
    with pytest.raises(SourceError, match=complaint):
        pull(parse(MODEL), tmp_path)
    cache(tmp_path / "huggingface", BODY)
    with pytest.raises(SourceError, match=f"{complaint} with sha256 {'0' * 64}$"):
        pull(parse(MODEL), tmp_path, "0" * 64)
    assert pull(parse(MODEL), tmp_path).read_bytes() == BODY and model.seen == []


def test_what_huggingface_hub_has_fetched_is_found(model: Hub, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    code = "from huggingface_hub import hf_hub_download as get; get('owner/repo', 'quant/model.gguf')"
    environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=60)
    model.seen.clear()
    path = pull(parse(MODEL), tmp_path)
    assert path.is_symlink() and sha256_of(path) == SHA256 and model.seen == []
