"""Where model files are looked for, and what counts as one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.setup.files import Folder, FoundFiles, find_files, usual_folders
from tests.sources.gguf_files import write_gguf


def names(found: FoundFiles) -> list[str]:
    return [model.path.name for model in found.models]


def everywhere(tmp_path: Path, **environ: str) -> FoundFiles:
    return find_files(usual_folders(tmp_path / "here", tmp_path / "home", tmp_path / "gw", environ))


@pytest.mark.parametrize(
    "place",
    [
        "here/a.gguf",
        "here/models/x/a.gguf",
        "gw/models/0123456789ab/a.gguf",
        "home/models/a.gguf",
        "home/.cache/llama.cpp/a.gguf",
        "home/.cache/huggingface/hub/models--org--repo/snapshots/abc/a.gguf",
        "home/.lmstudio/models/org/repo/a.gguf",
        "home/.cache/lm-studio/models/org/repo/a.gguf",
        "home/Downloads/a.gguf",
    ],
)
def test_each_usual_place_is_looked_into(tmp_path: Path, place: str) -> None:
    write_gguf(tmp_path / place)
    assert names(everywhere(tmp_path)) == ["a.gguf"]


def test_the_environment_moves_the_caches(tmp_path: Path) -> None:
    write_gguf(tmp_path / "hub" / "models--o--r" / "snapshots" / "1" / "a.gguf")
    write_gguf(tmp_path / "llama" / "b.gguf")
    found = everywhere(tmp_path, HF_HUB_CACHE=str(tmp_path / "hub"), LLAMA_CACHE=str(tmp_path / "llama"))
    assert sorted(names(found)) == ["a.gguf", "b.gguf"]


def test_ollamas_blobs_and_far_folders_are_left_alone(tmp_path: Path) -> None:
    write_gguf(tmp_path / "home/.ollama/models/blobs/sha256-1.gguf")
    write_gguf(tmp_path / "home/Downloads/1/2/3/far.gguf")
    assert names(everywhere(tmp_path)) == []


def test_one_file_behind_two_links_is_one_model(tmp_path: Path) -> None:
    write_gguf(tmp_path / "home/models/a.gguf")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "b.gguf").symlink_to(tmp_path / "home/models/a.gguf")
    assert names(everywhere(tmp_path)) == ["b.gguf"]


def test_a_loop_of_folders_ends(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    (tmp_path / "again").symlink_to(tmp_path)
    assert names(find_files([Folder(tmp_path, 50)])) == ["a.gguf"]


def test_parts_count_once_and_a_missing_one_is_named(tmp_path: Path) -> None:
    for number in (1, 2):
        write_gguf(tmp_path / f"big-Q4_K_M-0000{number}-of-00002.gguf", {"split.count": 2, "general.size_label": "70B"})
    write_gguf(tmp_path / "cut-00001-of-00003.gguf")
    found = find_files([Folder(tmp_path, 0)])
    (model,) = found.models
    assert (model.stem, model.quantization, model.parameters) == ("big-Q4_K_M", "Q4_K_M", 70e9)
    assert model.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("big*"))
    assert "part 2" in found.broken[0].reason


def test_projectors_go_with_the_model_beside_them(tmp_path: Path) -> None:
    write_gguf(tmp_path / "one/llava-7b.gguf")
    write_gguf(tmp_path / "one/mmproj-f16.gguf", {"general.architecture": "clip"})
    write_gguf(tmp_path / "many/gemma-3-4b-it-Q4_0.gguf")
    write_gguf(tmp_path / "many/qwen3-8b-Q4_0.gguf")
    write_gguf(tmp_path / "many/mmproj-gemma-3-4b-it-f16.gguf", {"general.architecture": "clip"})
    found = find_files([Folder(tmp_path, 2)])
    beside = {model.path.name: model.projector and model.projector.name for model in found.models}
    assert beside == {
        "llava-7b.gguf": "mmproj-f16.gguf",
        "gemma-3-4b-it-Q4_0.gguf": "mmproj-gemma-3-4b-it-f16.gguf",
        "qwen3-8b-Q4_0.gguf": None,
    }


def test_embedders_are_listed_apart_and_broken_files_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "nomic.gguf", {"general.architecture": "nomic-bert"})
    (tmp_path / "bad.gguf").write_bytes(b"GGUF")
    (tmp_path / "gone.gguf").symlink_to(tmp_path / "nowhere")
    found = find_files([Folder(tmp_path, 0)])
    assert not found.models and [file.path.name for file in found.embedders] == ["nomic.gguf"]
    assert {broken.path.name for broken in found.broken} == {"bad.gguf", "gone.gguf"}


@pytest.mark.parametrize("name", [b"${HOME}.gguf", b"a\nb.gguf", b"\xff.gguf"])
def test_paths_that_yaml_would_change_are_refused(tmp_path: Path, name: bytes) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    try:
        write_gguf(path)
    except OSError:
        pytest.skip("this file system takes no such name")
    found = find_files([Folder(tmp_path, 0)])
    assert not found.models and "plainer name" in found.broken[0].reason


def test_the_search_stops_in_time_and_says_so(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    found = find_files([Folder(tmp_path, 5)], time_limit_s=0)
    assert not found.models and "stopped" in found.notes[0]
