"""One file of `$GATEWAY_HOME/learned/`: YAML of a known version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gateway.errors import ConfigError, Problem

VERSION = 1
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


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


def damaged(path: Path, why: str, what: str = "") -> ConfigError:
    return ConfigError([Problem(str(path), 0, "", f"cannot be read{f' as {what}' if what else ''}: {why}")])
