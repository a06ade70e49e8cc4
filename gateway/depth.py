"""JSON that is nested more deeply than it can be written again: orjson reads 1,024 levels and writes 254."""

from __future__ import annotations

HALF = 120  # of the brackets that it takes, less what a request or an answer is wrapped in


def may_be_deep(raw: bytes) -> bool:
    """False of nearly all, at the price of a look for brackets: then it need not be written to know."""
    return _has_many(raw, b"{") or _has_many(raw, b"[")


def _has_many(raw: bytes, bracket: bytes) -> bool:
    """A count in steps, for `bytes.count` looks at every byte, at 1 us a kilobyte."""
    at = -1
    for _ in range(HALF):
        at = raw.find(bracket, at + 1)
        if at < 0:
            return False
    return True
