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


AS_IT_IS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/messages", "/v1/responses"})


def canonical(path: str, prefix: str = "") -> tuple[str, str | None]:
    """The path that is meant, and the model where the path names it.

    `prefix`, without slashes around it, is what a reverse proxy may have put before it, or taken off again.
    Base URLs with a slash too many, with `/v1` twice or not at all, and Azure's `/openai/deployments/NAME/…` are
    common.
    """
    if path in AS_IT_IS and not prefix:
        return path, None
    parts = [part for part in path.split("/") if part]
    ahead = prefix.split("/") if prefix else []
    if ahead and parts[: len(ahead)] == ahead:
        parts = parts[len(ahead) :]
    model = None
    if tuple(parts[:2]) == AZURE and len(parts) > 3:
        end = next((place for place in range(3, len(parts)) if parts[place] in OURS), 3)  # names may have slashes
        model, parts = unquote("/".join(parts[2:end])), ["v1", *parts[end:]]
    elif len(parts) > 1 and parts[0] == "openai" and parts[1] in OURS | {"v1"}:
        parts = parts[1:]  # Azure's without a deployment
    if parts and parts[0] in OURS:
        parts = ["v1", *parts]
    while parts[:2] == ["v1", "v1"]:
        parts = parts[1:]
    return "/" + "/".join(parts), model
