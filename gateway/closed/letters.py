"""`(A) … (B) …` under a question, to be answered with a letter or a number."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.closed.wording import wants_more

LINE = re.compile(r"^ ?\(?(?P<letter>[A-Z]|\d{1,2})[).:] (?P<text>\S.*)$", re.MULTILINE)
INLINE = re.compile(
    r"\((?P<letter>[A-Z]|\d{1,2})\)\s*(?P<text>[^()\n]{1,300}?)[\s,;]{0,4}(?=\((?:[A-Z]|\d{1,2})\)|$)", re.MULTILINE
)
ABOUT_LETTERS = re.compile(
    r"\b(?:letters?|multiple[- ]choice|(?:right|correct|best) (?:option|choice)|"
    r"which (?:of the (?:following|above|options|choices)|option|choice))\b",
    re.IGNORECASE,
)
ABOUT_NUMBERS = re.compile(
    r"\b(?:number of the (?:\w+ )?(?:option|choice|answer)|(?:option|choice) number|number alone|"
    r"only (?:with )?the number)\b",
    re.IGNORECASE,
)
ASKS_BELOW = re.compile(r"\n\s*(?:the )?(?:correct |right |best )?answer(?: is)?\s*:?\s*$", re.IGNORECASE)
WANTS_TEXT = re.compile(r"\b(?:text|words?) of (?:the|your)\b|\bfull (?:text|answer|option)\b", re.IGNORECASE)
ANSWERED = re.compile(r"\(?(?P<letter>[A-Z]|\d{1,2})[).]{0,2}")


def lettered(told: str, asked: str, said: Sequence[str]) -> tuple[str, ...]:
    """The letters, in the shape of those that were answered so far; none where no letter is wanted.

    Args: `told` by the operator, `asked` by the user just now, `said` by the model before.
    """
    letters, block = _listed(asked)
    if not letters:
        return ()
    question = asked.replace(block, " ")
    is_wanted = ABOUT_NUMBERS if letters[0] == "1" else ABOUT_LETTERS
    if is_wanted.search(told):
        words = told  # what the question is about is not for its words to change
    elif is_wanted.search(question) or (letters[0] == "A" and ASKS_BELOW.search(asked)):
        words = f"{told}\n\n{question}"
    else:
        return ()
    if WANTS_TEXT.search(words) or wants_more(words):
        return ()
    before = [found for text in said if (found := ANSWERED.fullmatch(text.strip())) is not None]
    return tuple(_like(before[-1], letter) for letter in letters) if before else tuple(letters)


def _listed(text: str) -> tuple[list[str], str]:
    """The letters of the last list in a text, and the text of the whole list."""
    for pattern in (LINE, INLINE):
        found = list(pattern.finditer(text))
        starts = [i for i, one in enumerate(found) if one["letter"] in ("A", "1")]
        run = found[starts[-1] :] if starts else []
        if not 2 <= len(run) <= 26:
            continue
        names = [chr(ord("A") + i) if run[0]["letter"] == "A" else str(i + 1) for i in range(len(run))]
        gaps = [text[a.end() : b.start()] for a, b in zip(run, run[1:], strict=False)]
        if [one["letter"] for one in run] == names and not any(gap.strip() for gap in gaps):
            return names, text[run[0].start() : run[-1].end()]
    return [], ""


def _like(shape: re.Match[str], letter: str) -> str:
    start, end = shape.span("letter")
    return shape.string[:start] + letter + shape.string[end:]
