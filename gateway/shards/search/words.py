"""The words of a question that are worth looking up, and what the full-text index makes of them."""

from __future__ import annotations

import re
import sqlite3
from functools import lru_cache

LOOKED_AT_CHARS = 8192  # of a question
LOOKED_AT_WORDS = 32  # different ones, stop words left out
LONGEST = 64  # characters; what is longer is no word
TOKENIZER = "porter unicode61 remove_diacritics 2"
"""As the migration that made `shard_fts` has it; a test compares the two."""

# what unicode61 takes for a token: letters and digits, with the accents that follow them
_WORD = re.compile(r"[^\W_](?:[^\W_]|[\u0300-\u036f])*")

STOP_WORDS = frozenset(
    """
    a about above after again against all am an and any are as at be because been before being below between both but
    by can could d did do does doing don down during each few for from further give had has have having he her here
    hers herself him himself his how i if in into is it its itself just ll m me more most my myself no nor not now of
    off on once only or other our ours ourselves out over own please re s same she should so some such t tell than that
    the their theirs them themselves then there these they this those through to too under until up us ve very was we
    were what when where which while who whom whose why will with would you your yours yourself yourselves
    """.split()
)
"""English. Half of the postings of a store are theirs, and they say nothing of what is asked for."""


def words_of(text: str) -> list[str]:
    """The different words in the order they come in: letters and digits only. A question of stop words alone keeps
    them."""
    every = dict.fromkeys(word.lower() for word in _WORD.findall(text[:LOOKED_AT_CHARS]) if len(word) <= LONGEST)
    return ([word for word in every if word not in STOP_WORDS] or list(every))[:LOOKED_AT_WORDS]


class Stemmer:
    """Asks the tokenizer of the full-text index itself, on an empty index of its own in memory. For one thread at a
    time."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.execute(f"CREATE VIRTUAL TABLE one USING fts5(text, content='', tokenize='{TOKENIZER}')")
        self._connection.execute("CREATE VIRTUAL TABLE terms USING fts5vocab(one, 'instance')")
        self.terms = lru_cache(maxsize=8192)(self._terms)

    def _terms(self, word: str) -> tuple[str, ...]:
        """What is stored for it: mostly one term; none where it is no word to the index."""
        self._connection.execute("INSERT INTO one (rowid, text) VALUES (1, ?)", (word,))
        rows = self._connection.execute("SELECT term FROM terms ORDER BY offset").fetchall()
        self._connection.execute("INSERT INTO one (one) VALUES ('delete-all')")
        return tuple(term for (term,) in rows)

    def close(self) -> None:
        self._connection.close()
