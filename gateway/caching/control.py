"""What a request says of caches, in `Cache-Control` (RFC 9111)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Control:
    """Args:
    no_store: the answer is neither looked for nor kept.
    no_cache: it is made anew, and kept.
    max_age_s: no older one will do.
    only_if_cached: nobody is to be asked for it.
    """

    no_store: bool = False
    no_cache: bool = False
    max_age_s: float = float("inf")
    only_if_cached: bool = False


SILENT = Control()


def control_of(headers: Mapping[str, str]) -> Control:
    said = headers.get("cache-control")
    if said is None:
        return SILENT
    told = dict(_directive(part) for part in said.lower().split(","))
    return Control(
        no_store="no-store" in told,
        no_cache="no-cache" in told,
        max_age_s=_seconds(told["max-age"]) if "max-age" in told else float("inf"),
        only_if_cached="only-if-cached" in told,
    )


def _directive(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return name.strip(), value.strip().strip('"')


def _seconds(text: str) -> float:
    """What is no number asks for a fresh one, as RFC 9111 has it."""
    return float(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0.0
