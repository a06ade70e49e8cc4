"""Files of what slots hold: found again, kept within bounds, private, and never those of another model."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gateway.engines import stored_prefixes as stored

NOW = time.time()
DAY_S = 86_400.0


def put(folder: Path, conversation: str, content: bytes = b"keys and values", tokens: int = 700) -> stored.Stored:
    stored.make(folder)
    name = stored.unfinished_name(conversation)
    (folder / name).write_bytes(content)
    return stored.adopt(folder, name, conversation, tokens)


def touch(path: Path, when: float) -> None:
    os.utime(path, (when, when))


def names(root: Path) -> set[str]:
    return {path.name for path in root.glob("*/*")}


def test_what_is_stored_is_found_by_its_conversation(tmp_path: Path) -> None:
    put(tmp_path / "m", "a", tokens=700)
    put(tmp_path / "m", "b", tokens=900)
    found = stored.find(tmp_path / "m", "b")
    assert found is not None and found.tokens == 900 and found.path.read_bytes() == b"keys and values"
    assert stored.find(tmp_path / "m", "c") is None
    assert stored.find(tmp_path / "nowhere", "a") is None


def test_names_tell_nothing_of_the_conversation(tmp_path: Path) -> None:
    put(tmp_path / "m", "key\0\0my secret")
    assert not any("secret" in name for name in names(tmp_path))


def test_only_this_user_may_read_it(tmp_path: Path) -> None:
    root = tmp_path / "home" / "prefixes"
    file = put(root / "m", "a")
    assert [path.stat().st_mode & 0o777 for path in (root, root / "m", file.path)] == [0o700, 0o700, 0o600]


def test_a_newer_one_takes_the_place_of_the_older(tmp_path: Path) -> None:
    put(tmp_path / "m", "a", b"old", 600)
    newer = put(tmp_path / "m", "a", b"new", 650)
    assert names(tmp_path) == {newer.path.name}
    assert put(tmp_path / "m", "a", b"new", 650) == newer
    assert names(tmp_path) == {newer.path.name}


@pytest.mark.parametrize("damage", [b"", b"keys and", b"keys and values and more", b"keys_and values"])
def test_a_damaged_file_is_not_used_and_goes(tmp_path: Path, damage: bytes) -> None:
    file = put(tmp_path / "m", "a")
    file.path.write_bytes(damage)
    assert stored.find(tmp_path / "m", "a") is None
    assert names(tmp_path) == set()


def test_what_was_not_finished_is_not_found_and_goes_after_a_while(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    stored.make(folder)
    (folder / stored.unfinished_name("a")).write_bytes(b"keys")
    assert stored.find(folder, "a") is None
    stored.trim(tmp_path, 1000, time.time())
    assert len(names(tmp_path)) == 1
    stored.trim(tmp_path, 1000, time.time() + stored.UNFINISHED_S + 1)
    assert names(tmp_path) == set()


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    files = {name: put(tmp_path / folder, name, bytes(100)) for name, folder in zip("abcd", "mmnn", strict=True)}
    for age_s, name in enumerate("abcd"):
        touch(files[name].path, NOW - 100 - age_s)
    stored.trim(tmp_path, 400, NOW)
    assert len(names(tmp_path)) == 4
    assert stored.find(tmp_path / "n", "d") is not None  # used now
    stored.trim(tmp_path, 299, NOW)
    assert {name for name in "abcd" if files[name].path.exists()} == {"a", "d"}
    stored.trim(tmp_path, 99, NOW)
    assert names(tmp_path) == set()


def test_after_seven_days_they_go(tmp_path: Path) -> None:
    old, young = put(tmp_path / "m", "old"), put(tmp_path / "m", "young")
    touch(old.path, NOW - 7.01 * DAY_S)
    touch(young.path, NOW - 6.99 * DAY_S)
    stored.trim(tmp_path, 10**9, NOW)
    assert names(tmp_path) == {young.path.name}


def test_switched_off_nothing_is_left(tmp_path: Path) -> None:
    root = tmp_path / "prefixes"
    put(root / "m", "a")
    (root / "n").mkdir()
    stored.trim(root, 0, NOW)
    assert list(root.iterdir()) == []
    stored.trim(tmp_path / "nowhere", 0, NOW)


def test_what_is_not_ours_is_not_taken_for_a_prefix(tmp_path: Path) -> None:
    file = put(tmp_path / "m", "a")
    stem = file.path.name.split(".")[0]
    file.path.unlink()
    for name in (f"{stem}.kv", f"{stem}.many.0.kv", f"{stem}.1.2.3.kv"):
        (tmp_path / "m" / name).write_bytes(b"")
    assert stored.find(tmp_path / "m", "a") is None


def test_another_model_has_another_folder(tmp_path: Path) -> None:
    model, other = tmp_path / "model.gguf", tmp_path / "other.gguf"
    model.write_bytes(b"weights")
    other.write_bytes(b"weights")
    folder = stored.folder_of(tmp_path, [model], ["xllamacpp 1"])
    assert folder is not None and folder.parent == tmp_path
    assert stored.folder_of(tmp_path, [model], ["xllamacpp 1"]) == folder
    others = [
        stored.folder_of(tmp_path, [other], ["xllamacpp 1"]),
        stored.folder_of(tmp_path, [model], ["xllamacpp 2"]),
        stored.folder_of(tmp_path, [model, other], ["xllamacpp 1"]),
    ]
    link = tmp_path / "link.gguf"
    link.symlink_to(model)
    assert stored.folder_of(tmp_path, [link], ["xllamacpp 1"]) == folder
    touch(model, NOW)
    others.append(stored.folder_of(tmp_path, [model], ["xllamacpp 1"]))
    model.write_bytes(b"other weights")
    touch(model, NOW)
    others.append(stored.folder_of(tmp_path, [model], ["xllamacpp 1"]))
    assert len({folder, *others}) == 6 and None not in others
    assert stored.folder_of(tmp_path, [tmp_path / "missing.gguf"]) is None
