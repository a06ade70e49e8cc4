"""docs/checks.md has a section for every check, and its examples work."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import gateway.checks
from gateway.checks import CHECKS

for module in pkgutil.iter_modules(gateway.checks.__path__):
    importlib.import_module(f"gateway.checks.{module.name}")

PAGE = (Path(__file__).parents[2] / "docs" / "checks.md").read_text(encoding="utf-8")
OURS = {name: kind for name, kind in CHECKS.items() if kind.__module__.startswith("gateway.checks.")}
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


def test_every_check_has_a_section_and_every_section_a_check() -> None:
    assert sorted(SECTIONS) == sorted(OURS)


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_section_names_every_parameter(name: str) -> None:
    for parameter in OURS[name].__dataclass_fields__:
        assert f"`{parameter}`" in SECTIONS[name]


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_section_says_how_much_of_a_draft_the_check_needs(name: str) -> None:
    kind = OURS[name]
    if kind.prefix_words is not None:
        assert re.search(rf"[Nn]eeds no more than the first (word|{kind.prefix_words} words)", SECTIONS[name])
    elif kind.can_fail_prefix:
        assert "Ends a draft early" in SECTIONS[name]
    else:
        assert "Sees the whole draft" in SECTIONS[name]


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_example_of_a_section_is_a_check_of_that_name(name: str) -> None:
    examples = re.findall(r"^```yaml\n(.*?)^```", SECTIONS[name], re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        for item in yaml.safe_load(example)["checks"]:
            build(name, item)


def build(name: str, item: str | dict[str, Any]) -> Any:
    """As a policy does: a name, a name with parameters, or a name with the first parameter alone."""
    if isinstance(item, str):
        assert item == name
        return CHECKS[name]()
    ((key, parameters),) = item.items()
    assert key == name
    fields = list(CHECKS[name].__dataclass_fields__)
    if isinstance(parameters, dict) and set(parameters) <= set(fields):
        return CHECKS[name](**parameters)
    return CHECKS[name](**{fields[0]: parameters})
