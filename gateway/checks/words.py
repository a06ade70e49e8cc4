"""Words of a text in any script. Han and Kana are written without spaces: each of their characters counts as a word."""

from __future__ import annotations

import re

SPACELESS = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def words_of(text: str) -> list[str]:
    """What stands between white space, punctuation with it; tokens without a letter or digit are no words."""
    if SPACELESS.search(text):
        text = SPACELESS.sub(r" \g<0> ", text)
    return [token for token in text.split() if any(map(str.isalnum, token))]
