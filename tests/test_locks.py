"""The lock files hold what pyproject.toml wants, each with its hashes, and name no place to get it from."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", re.MULTILINE)
EXTRAS = PROJECT["optional-dependencies"]
LOCKS = {
    "requirements.lock": PROJECT["dependencies"] + EXTRAS["postgres"] + EXTRAS["redis"],  # as the image has it
    "requirements-dev.lock": PROJECT["dependencies"] + EXTRAS["dev"],
}


def locked(name: str) -> dict[str, Version]:
    text = (ROOT / name).read_text()
    return {canonicalize_name(package): Version(number) for package, number in PINNED.findall(text)}


@pytest.mark.parametrize("name", LOCKS)
def test_it_has_all_that_is_wanted(name: str) -> None:
    found = locked(name)
    for line in LOCKS[name]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(found[canonicalize_name(wanted.name)]), f"{line}: run `make lock`"


@pytest.mark.parametrize("name", LOCKS)
def test_each_package_has_hashes_and_none_a_place(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", text.strip())
    assert len(entries) == len(PINNED.findall(text)) > 50
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry[:80]
    assert re.findall(r"://|--index-url|--extra-index|--find-links|@ ", text) == []


def test_both_agree() -> None:
    installed, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert installed.items() <= dev.items()
    assert version("pip") and "pip" in installed
