"""What is stored is always the whole right file: own files, full disks, several at once."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from gateway.errors import SourceError
from gateway.sources import is_present, parse, path_of, pull, sha256_of
from tests.sources.servers import BODY, SHA256, FileServer, stored

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
