"""Inputs that fuzzing found, and faults that it had found before they were mended, as plain tests: docs/security.md."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fuzz.targets import Targets, corpus_of


@pytest.fixture(scope="module")
def targets() -> Iterator[Targets]:
    targets = Targets()
    yield targets
    targets.close()


def test_every_target_has_inputs(targets: Targets) -> None:
    assert [name for name in targets.all if not list(corpus_of(name))] == []


@pytest.mark.parametrize("name", list(Targets.NAMES))
def test_no_kept_input_breaks_anything(targets: Targets, name: str) -> None:
    for file in corpus_of(name):
        try:
            targets.all[name](file.read_bytes())
        except Exception as exc:
            exc.add_note(str(file))
            raise
