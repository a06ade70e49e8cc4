"""What `gateway learn` has found out about drafts: `learned/combiners.yaml` and `learned/promises.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gateway.errors import ConfigError, Problem
from gateway.quality.combiner import Combiner

FOLDER = "learned"
VERSION = 1
Json = dict[str, Any]


def read_combiners(home: Path) -> dict[str, Combiner]:
    """By arm, or by model. Raises: ConfigError naming the file."""
    found = {}
    for name, data in _section(home, "combiners").items():
        try:
            found[str(name)] = Combiner.from_json(data)
        except ValueError as exc:
            raise _damaged(home / FOLDER / "combiners.yaml", f"'{name}' is {exc}") from None
    return found


def read_promises(home: Path) -> dict[str, Json]:
    """States by arm. Raises: ConfigError naming the file."""
    return {str(name): dict(state) for name, state in _section(home, "promises").items() if isinstance(state, Mapping)}


def _section(home: Path, name: str) -> Mapping[str, Any]:
    path = home / FOLDER / f"{name}.yaml"
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise _damaged(path, " ".join(str(exc).split())) from None
    if not isinstance(data, Mapping) or data.get("version") != VERSION or not isinstance(data.get(name), Mapping):
        raise _damaged(path, f"it is not of version {VERSION}, with '{name}'")
    section: Mapping[str, Any] = data[name]
    return section


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError([Problem(str(path), 0, "", f"cannot be read: {why}")])
