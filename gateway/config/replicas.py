"""What several gateways share: the addresses of a database and of Redis, from models.yaml or the environment."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.config.lines import Document, read
from gateway.config.secrets import secret_of, written_out
from gateway.errors import ConfigError, Problem

VARIABLES = {"database_url": "GATEWAY_DATABASE_URL", "redis_url": "GATEWAY_REDIS_URL"}
PACKAGES = {"database_url": ("psycopg", "postgres"), "redis_url": ("redis", "redis")}  # and the extra that brings it


def shared(document: Document, problems: list[Problem], warnings: list[Problem]) -> dict[str, Any]:
    """The keys as they are meant. A variable that is not set is a fault: without it a gateway would begin a database of
    its own."""
    found: dict[str, Any] = {}
    for key, variable in VARIABLES.items():
        written = document.data.get(key)
        value = os.environ.get(variable) if written is None else secret_of(document, key, problems)
        if value:
            found[key] = value
            problems.extend(_without_package(document, key))
            if written == value and _has_password(value):
                written_out(document, (key,), "password", warnings)
    return found


def _without_package(document: Document, key: str) -> list[Problem]:
    package, extra = PACKAGES[key]
    if find_spec(package) is not None:
        return []
    hint = f"pip install 'onion-gateway[{extra}]'"
    return [document.problem((key,), f"wants the package '{package}', which is not installed", hint)]


def _has_password(url: object) -> bool:
    try:
        return isinstance(url, str) and bool(urlsplit(url).password)
    except ValueError:
        return False  # said where its form is checked


def database_url_in(models: Path) -> str | None:
    """Where a command finds the database: None for the file under GATEWAY_HOME. Raises: ConfigError."""
    if not models.exists():
        return os.environ.get(VARIABLES["database_url"]) or None
    document = read(models)
    if not isinstance(document.data, dict):
        return None
    problems: list[Problem] = []
    found = shared(document, problems, [])
    if problems:
        raise ConfigError(problems)
    url = found.get("database_url")
    return None if url is None else str(url)
