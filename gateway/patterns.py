"""Regular expressions that the authors of policies write, searched in text that anybody may write.

Python's own matcher has no limit: `(a|aa)+$` on 60 letters takes longer than anybody waits, `\\s+$` on a megabyte of
spaces too, and nobody else is answered meanwhile. The package `regex` reads the same language, and gives up in time.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import lru_cache

import regex

log = logging.getLogger(__name__)
SEARCH_S = 0.1  # for one search; what is found at all is mostly found within microseconds


class TookTooLong(Exception):
    """Whether the pattern is in the text is not known."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One that Python's `re` takes too; made by `pattern_of`."""

    source: str
    ignores_case: bool = False

    @property
    def shown(self) -> str:
        return self.source

    def find_end(self, text: str) -> int | None:
        """Where the first match ends; None where there is none. Raises: TookTooLong."""
        try:
            found = _compiled(self.source, self.ignores_case).search(text, timeout=SEARCH_S)
        except TimeoutError:
            log.warning("the pattern %r takes too long: it was given up after %g s", self.source[:100], SEARCH_S)
            raise TookTooLong from None
        return None if found is None else int(found.end())

    def is_in(self, text: str) -> bool:
        """Raises: TookTooLong."""
        return self.find_end(text) is not None


def pattern_of(source: str, *, ignores_case: bool = False) -> Pattern:
    """Raises: ValueError where it is no regular expression."""
    try:
        re.compile(source, re.IGNORECASE if ignores_case else 0)
        _compiled(source, ignores_case)
    except (re.error, regex.error) as exc:
        raise ValueError(f"not a regular expression: {exc}") from exc
    return Pattern(source, ignores_case)


@lru_cache(maxsize=1024)
def _compiled(source: str, ignores_case: bool) -> regex.Pattern[str]:
    return regex.compile(source, regex.IGNORECASE if ignores_case else 0)
