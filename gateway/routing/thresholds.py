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

from gateway.learned_file import damaged, read_learned_file

FILE = Path("learned") / "thresholds.yaml"
WHAT = "thresholds"


def read_thresholds(home: Path) -> dict[str, float]:
    """By name; none where nothing was learned. Raises: ConfigError naming the file."""
    path = home / FILE
    data = read_learned_file(path, WHAT)
    if data is None:
        return {}
    named = data.get("thresholds") or {}
    if not isinstance(named, Mapping):
        raise damaged(path, "'thresholds' is no mapping", WHAT)
    found = {str(name): _number(value) for name, value in named.items()}
    wrong = next((name for name, number in found.items() if number is None), None)
    if wrong is not None:
        raise damaged(path, f"'{wrong}' is no number", WHAT)
    return {name: number for name, number in found.items() if number is not None}


def _number(value: Any) -> float | None:
    if isinstance(value, Mapping):
        value = value.get("value")
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None
