"""Paths as clients write them, and the ones that are served."""

from __future__ import annotations

from urllib.parse import unquote

OURS = frozenset({"chat", "completions", "embeddings", "fim", "messages", "models", "rerank", "responses"})
"""First words of paths that are served under /v1 and asked for without it."""
AZURE = ("openai", "deployments")


FIRST_WORDS = OURS | {"api", "healthz", "metrics", "openai", "readyz", "v1"}


def is_root_path(path: str) -> bool:
    """Can the gateway be shown under this path? Not where it is taken for one of the gateway's own."""
    parts = path.strip("/").split("/")
    return parts == [""] or (all(parts) and parts[0] not in FIRST_WORDS and not set(path) & set("?#% "))


def canonical(path: str, prefix: str = "") -> tuple[str, str | None]:
    """The path that is meant, and the model where the path names it.

    `prefix`, without slashes around it, is what a reverse proxy may have put before it, or taken off again.
    Base URLs with a slash too many, with `/v1` twice or not at all, and Azure's `/openai/deployments/NAME/…` are
    common.
    """
    parts = [part for part in path.split("/") if part]
    ahead = prefix.split("/") if prefix else []
    if ahead and parts[: len(ahead)] == ahead:
        parts = parts[len(ahead) :]
    model = None
    if tuple(parts[:2]) == AZURE and len(parts) > 3:
        model, parts = unquote(parts[2]), ["v1", *parts[3:]]
    elif parts[:2] == ["openai", "v1"]:
        parts = parts[1:]
    elif parts and parts[0] in OURS:
        parts = ["v1", *parts]
    while parts[:2] == ["v1", "v1"]:
        parts = parts[1:]
    return "/" + "/".join(parts), model
