"""Small JSON files under `GATEWAY_HOME/shards`: what was imported, and how far each subscription has come."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import orjson

from gateway.errors import GatewayError
from gateway.shards import Json

FOLDER = "shards"


def read_json(path: Path) -> Json:
    """{} where there is no file, or none that can be made sense of: its owner then begins anew, which is harmless."""
    try:
        data = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    except OSError as exc:
        raise GatewayError(f"{path} cannot be read: {exc.strerror}") from exc
    return data if isinstance(data, dict) else {}


def write_json(path: Path, data: Json) -> None:
    write_file(path, orjson.dumps(data))


def write_file(path: Path, data: bytes) -> None:
    """All of it or nothing, for the owner only. Raises: GatewayError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as exc:
        raise GatewayError(f"{path} cannot be written: {exc.strerror}") from exc
