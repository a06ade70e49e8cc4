"""One file of `$GATEWAY_HOME/learned/`: YAML of a known version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gateway.errors import ConfigError, Problem

VERSION = 1
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
T = TypeVar("T")


def read_learned_file(path: Path, what: str = "") -> dict[str, Any] | None:
    """None where it is not there. `what`: as which it is read, for the message. Raises: ConfigError naming the file."""
    try:
        data = yaml.load(path.read_text("utf-8"), Loader=LOADER)
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise damaged(path, " ".join(str(exc).split()), what) from None
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise damaged(path, f"it is not of version {VERSION}", what)
    return data


def parsed_file(path: Path, what: str, parse: Callable[[dict[str, Any]], T]) -> T | None:
    """As `read_learned_file`, parsed. `parse` may raise KeyError, TypeError, ValueError and AttributeError for what is
    not as it should be. Raises: ConfigError naming the file."""
    data = read_learned_file(path, what)
    if data is None:
        return None
    try:
        return parse(data)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        words = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise damaged(path, f"it has no {words}" if isinstance(exc, KeyError) else words, what) from None


def existing_file(path: Path, what: str, parse: Callable[[dict[str, Any]], T]) -> T:
    """As `parsed_file`, of one that must be there."""
    found = parsed_file(path, what, parse)
    if found is None:
        raise damaged(path, "there is no such file", what)
    return found


def damaged(path: Path, why: str, what: str = "") -> ConfigError:
    return ConfigError([Problem(str(path), 0, "", f"cannot be read{f' as {what}' if what else ''}: {why}")])
