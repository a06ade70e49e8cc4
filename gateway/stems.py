"""Words without their commonest English endings: "bridges" and "bridge" are one."""

from __future__ import annotations

ENDINGS = ("ing", "ied", "ies", "ed", "es", "s", "e")
SHORTEST = 3  # letters of a stem


def stem(word: str) -> str:
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST:
            return word[: -len(ending)]
    return word
