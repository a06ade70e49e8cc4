"""Writing: whole or not at all, and nothing that was there is lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gateway.errors import GatewayError
from gateway.setup.disk import NewFile, put_in_place, without_secrets


def test_each_overwriting_keeps_the_old_under_the_next_number(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_bytes(b"first\xff\r\n")
    path.chmod(0o640)
    for number, text in ((1, "second"), (2, "third")):
        written = put_in_place([NewFile.of(path, text)])
        assert written.backups == {path: tmp_path / f"models.yaml.bak-{number}"}
    assert (tmp_path / "models.yaml.bak-1").read_bytes() == b"first\xff\r\n"
    assert (tmp_path / "models.yaml.bak-2").read_text() == "second"
    assert path.read_text() == "third" and path.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["models.yaml", "models.yaml.bak-1", "models.yaml.bak-2"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("old")
    (tmp_path / "models.yaml").symlink_to("real.yaml")
    put_in_place([NewFile.of(tmp_path / "models.yaml", "new")])
    assert (tmp_path / "models.yaml").is_symlink() and (tmp_path / "real.yaml").read_text() == "new"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    (tmp_path / "a").write_text("old a")
    (tmp_path / "b").write_text("old b")
    files = [NewFile.of(tmp_path / name, "new") for name in "ab"]

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(GatewayError, match="No space left"):
        put_in_place(files)
    assert [(tmp_path / name).read_text() for name in "ab"] == ["old a", "old b"]
    assert not list(tmp_path.glob(".*.new"))


def test_a_folder_in_the_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").mkdir()
    with pytest.raises(GatewayError, match=r"models\.yaml.*directory"):
        NewFile.of(tmp_path / "models.yaml", "x")


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "policies").write_text("a file")
    with pytest.raises(GatewayError, match=r"policies.*cannot be"):
        put_in_place([NewFile.of(tmp_path / "policies" / "default.yaml", "x")])


@pytest.mark.parametrize(
    "line",
    [
        "    api_key: sk-hidden",
        "  a: {engine: openai, api_key: 'sk-hidden', model: x}",
        "headers: {x-api-key: sk-hidden, authorization: Bearer sk-hidden}",
        "base_url: https://me:sk-hidden@example.com/v1",
        "source: hf:a/b/c  # token=sk-hidden",
    ],
)
def test_a_diff_shows_no_secret(tmp_path: Path, line: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(f"models:\n{line}\n")
    assert "sk-hidden" not in "\n".join(NewFile.of(path, "models: {}\n").diff())


def test_variables_are_no_secret() -> None:
    assert without_secrets("-  api_key: ${OPENAI_API_KEY}  # x") == "-  api_key: ${OPENAI_API_KEY}  # x"
    assert "\x1b" not in without_secrets("a\x1b[2Jb")
