"""Hugging Face's own settings and cache on this machine, as the huggingface_hub library reads and lays them out.

HF_HUB_CACHE/models--OWNER--REPO/refs/main            the commit that a name stands for
                                 snapshots/COMMIT/…   links to the blobs, under the files' names
                                 blobs/SHA256         what they are; named by another hash for small files
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from gateway.errors import SourceError

DEFAULT_ENDPOINT = "https://huggingface.co"


def endpoint() -> str:
    """Where the Hub is, without a slash at its end; may hold a login."""
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")


def is_offline() -> bool:
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def token() -> str | None:
    """The user's token: from HF_TOKEN, else from the file that `hf auth login` writes.

    Raises: SourceError, without the token, if it cannot be read or cannot be one.
    """
    where = "HF_TOKEN"
    text = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if text is None:
        path = _path("HF_TOKEN_PATH") or _home() / "token"
        where = str(path)
        try:
            text = path.read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as exc:
            raise SourceError(f"cannot read the Hugging Face token in {path}: {type(exc).__name__}") from None
    text = text.strip()
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise SourceError(f"{where} holds something that is not a Hugging Face token")
    return text or None


def cache_folder() -> Path:
    return _path("HF_HUB_CACHE") or _path("HUGGINGFACE_HUB_CACHE") or _home() / "hub"


def cached_file(owner: str, repo: str, revision: str, path: str) -> Path | None:
    """A file of a repository, if the cache has it at this revision. Its content is not looked at."""
    folder = cache_folder() / f"models--{owner}--{repo}"
    try:
        commit = (folder / "refs" / revision).read_text().strip()
    except (OSError, UnicodeDecodeError):  # not a name that the cache knows, so perhaps a commit
        commit = revision
    if not re.fullmatch(r"\w[\w.-]*", commit, re.ASCII):
        return None
    found = folder / "snapshots" / commit / path
    return found.resolve() if os.path.isfile(found) else None


def _home() -> Path:
    return _path("HF_HOME") or (_path("XDG_CACHE_HOME") or Path(os.path.expanduser("~")) / ".cache") / "huggingface"


def _path(variable: str) -> Path | None:
    text = os.environ.get(variable)
    return Path(os.path.expandvars(text)).expanduser() if text else None
