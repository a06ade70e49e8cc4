"""Learned files: diffable, written as a whole, and taken back."""

from pathlib import Path

import pytest

from gateway.errors import ConfigError, GatewayError
from gateway.learned_files import MOST_KEPT, Learned, LearnedFile, rounded


def file(value: float, name: str = "thresholds") -> LearnedFile:
    return LearnedFile(name, {"version": 1, "thresholds": {"b": value, "a": 0.123456789}}, ["from 7 rows"])


def test_what_is_written_is_sorted_rounded_and_says_where_from(tmp_path: Path) -> None:
    learned = Learned(tmp_path)
    learned.write([file(0.5)])
    text = learned.path("thresholds").read_text()
    assert text == "# from 7 rows\nthresholds:\n  a: 0.123457\n  b: 0.5\nversion: 1\n"
    assert learned.read("thresholds") == {"version": 1, "thresholds": {"a": 0.123457, "b": 0.5}}
    assert learned.read("nothing") is None


def test_small_numbers_keep_six_digits_that_count() -> None:
    assert rounded({"a": [0.00000123456789, 1234.56789012, 3, True, "x"]}) == {
        "a": [0.00000123457, 1234.56789, 3, True, "x"]
    }


def test_a_diff_shows_what_changes_and_nothing_else(tmp_path: Path) -> None:
    learned = Learned(tmp_path)
    learned.write([file(0.5)])
    assert learned.diff(file(0.5)) == ""
    lines = learned.diff(file(0.25)).splitlines()
    assert [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")] == [
        "-  b: 0.5",
        "+  b: 0.25",
    ]


def test_each_write_can_be_taken_back_to_nothing(tmp_path: Path) -> None:
    learned = Learned(tmp_path)
    for number in (1.0, 2.0, 3.0):
        learned.write([file(number)])
    learned.write([file(9.0, "other")])
    assert learned.names() == ["other", "thresholds"]
    assert learned.revert() == ["thresholds"]
    assert learned.revert(2) == ["thresholds"]
    assert learned.read("thresholds") == {"version": 1, "thresholds": {"a": 0.123457, "b": 1.0}}
    assert (tmp_path / "learned" / "reverted" / "thresholds.yaml").exists()
    assert learned.revert() == []
    with pytest.raises(GatewayError, match="0 former sets"):
        learned.revert()


def test_only_so_many_former_sets_are_kept(tmp_path: Path) -> None:
    learned = Learned(tmp_path)
    for number in range(MOST_KEPT + 5):
        learned.write([file(float(number))], now=1_800_000_000.0 + number // 2)
    assert len(learned.history()) == MOST_KEPT
    learned.revert(MOST_KEPT)
    assert learned.read("thresholds") == {"version": 1, "thresholds": {"a": 0.123457, "b": 4.0}}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    learned = Learned(tmp_path)
    learned.folder.mkdir()
    for text in ("[", "version: 2", "- 1"):
        learned.path("thresholds").write_text(text)
        with pytest.raises(ConfigError, match="thresholds.yaml"):
            learned.read("thresholds")
