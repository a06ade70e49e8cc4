"""Numbers that rules compare with by name: `learned.NAME`, from `learned/thresholds.yaml`.

version: 1
thresholds:
  code_difficulty: 0.412
  rest_difficulty: {value: 0.37, share: 0.2}    # what else stands there is for people
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gateway.errors import ConfigError, Problem

FILE = Path("learned") / "thresholds.yaml"
VERSION = 1


def read_thresholds(home: Path) -> dict[str, float]:
    """By name; none where nothing was learned. Raises: ConfigError naming the file."""
    path = home / FILE
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise _damaged(path, " ".join(str(exc).split())) from None
    if not isinstance(data, Mapping) or data.get("version") != VERSION:
        raise _damaged(path, f"it is not of version {VERSION}")
    named = data.get("thresholds") or {}
    if not isinstance(named, Mapping):
        raise _damaged(path, "'thresholds' is no mapping")
    found = {str(name): _number(value) for name, value in named.items()}
    wrong = next((name for name, number in found.items() if number is None), None)
    if wrong is not None:
        raise _damaged(path, f"'{wrong}' is no number")
    return {name: number for name, number in found.items() if number is not None}


def _number(value: Any) -> float | None:
    if isinstance(value, Mapping):
        value = value.get("value")
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError([Problem(str(path), 0, "", f"cannot be read as thresholds: {why}")])
