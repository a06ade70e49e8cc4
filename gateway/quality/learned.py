"""What `gateway learn` has found out about drafts: `learned/combiners.yaml` and `learned/promises.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.learned_file import VERSION, damaged, read_learned_file
from gateway.quality.combiner import Combiner

FOLDER = "learned"
Json = dict[str, Any]


def read_combiners(home: Path) -> dict[str, Combiner]:
    """By arm, or by model. Raises: ConfigError naming the file."""
    found = {}
    for name, data in _section(home, "combiners").items():
        try:
            found[str(name)] = Combiner.from_json(data)
        except ValueError as exc:
            raise damaged(home / FOLDER / "combiners.yaml", f"'{name}' is {exc}") from None
    return found


def read_promises(home: Path) -> dict[str, Json]:
    """States by arm. Raises: ConfigError naming the file."""
    return {str(name): dict(state) for name, state in _section(home, "promises").items() if isinstance(state, Mapping)}


def _section(home: Path, name: str) -> Mapping[str, Any]:
    path = home / FOLDER / f"{name}.yaml"
    data = read_learned_file(path)
    if data is None:
        return {}
    if not isinstance(data.get(name), Mapping):
        raise damaged(path, f"it is not of version {VERSION}, with '{name}'")
    section: Mapping[str, Any] = data[name]
    return section
