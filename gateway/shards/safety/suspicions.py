"""What gives away a text that speaks to the model instead of telling it something: `suspicions.txt`, read once.

Of 230 attacks its patterns were made for they catch all, of 40 that were written afterwards 21: they are a net, no
wall. Of 3,200 sentences of encyclopaedia articles and of people booking things none is caught.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from importlib import resources

OVERRIDE = "tells the model to ignore its instructions"
DICTATED = "dictates the answer"

FORMS = frozenset({DICTATED})
"""What a task may rightly say of its answers."""

FILE = "suspicions.txt"
_WORDS = re.compile(r"([A-Z]+) = (.+)")


def matching(text: str) -> Iterator[str]:
    """The reasons for which a text that `screen.plain` has made is suspect."""
    for reason, pattern in patterns():
        if pattern.search(text):
            yield reason


@functools.cache
def patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """(reason, pattern), the commonest reasons first."""
    words: dict[str, str] = {}
    found: list[tuple[str, re.Pattern[str]]] = []
    reason = ""
    for line in resources.files("gateway.shards.safety").joinpath(FILE).read_text("utf-8").splitlines():
        named = _WORDS.fullmatch(line)
        if not line or line.startswith("# "):
            continue
        if line.startswith("[") and line.endswith("]") and "\\" not in line:
            reason = line[1:-1]
        elif named:
            words[named[1]] = named[2]
        else:
            for name, said in words.items():
                line = line.replace(f"<{name}>", said)
            found.append((reason, re.compile(line)))
    return tuple(found)
