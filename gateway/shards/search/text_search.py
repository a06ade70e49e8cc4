"""Search by words: BM25 over SQLite's FTS5 index of the keys' texts, the audience first.

FTS5 finds the rows; the ranking is made here. Its own `bm25()` counts all rows of every phrase of a query, the audience
among them: 50 to 140 ms for one rare word where an audience has a million keys, against 2 to 9 ms. And it would count
what other tenants wrote. As keys are short, how often a word stands in one is not looked at.

One statement gives one row, made into JSON by SQLite: see `rows`.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.shards.search.rows import SqliteRows
from gateway.shards.search.vectors import Ids, members
from gateway.shards.search.words import Stemmer, words_of

AUDIENCE = re.compile(r"[a-z0-9]{1,40}")
FREQUENT = 64  # rows; for terms with more the count is kept, as FTS5 walks over them to count
REMEMBERED = 200_000  # terms
MOST_TERMS = 16
LARGE, BUDGET_US, BUDGET_US_OF_LARGE = 50_000, 3000, 12_000
"""What the rows of one search may cost, in stores of fewer keys than `LARGE` and of more. The rarest word is looked up
whatever it costs."""

MOST_ROWS = 4000  # that are read of one word
WEIGHED = 48  # rows whose texts' lengths are looked up
K1, B = 1.2, 0.75

ROWIDS = f"(SELECT group_concat(rowid) FROM (SELECT rowid FROM shard_fts WHERE shard_fts MATCH ? LIMIT {MOST_ROWS}))"
ROWS_OF_TERM = "(SELECT doc FROM shard_terms WHERE term = ?)"
LENGTHS = (
    "SELECT json_group_array(json_array(f.rowid, length(f.text)))"
    " FROM json_each(?) j CROSS JOIN shard_fts f ON f.rowid = j.value"
)


class TextSearch:
    """Blocking. `find` is for one thread, `count_words` may run in another beside it."""

    def __init__(self) -> None:
        self._stemmer = Stemmer()
        self._rows_of: dict[str, int] = {}

    def close(self) -> None:
        self._stemmer.close()

    def count_words(self, rows: SqliteRows) -> None:
        """Learn which terms are frequent: one walk through the whole index, 1 s for a million keys."""
        self._rows_of = dict(rows.read("SELECT term, doc FROM shard_terms WHERE doc > ?", FREQUENT))

    def find(
        self, rows: SqliteRows, audiences: Sequence[str], text: str, size: int, total: int, limit: int
    ) -> list[int]:
        """Numbers of keys, best first.

        Args:
            size, total: keys that the audiences and the store have, about.
        Raises: ValueError for an audience that cannot be one.
        """
        who, connection = audience_filter(audiences), rows.connection
        counts = self._counts(connection, words_of(text))
        words, at_once = chosen(counts, size, BUDGET_US if total < LARGE else BUDGET_US_OF_LARGE)
        if not words:
            return []
        found = _rows_by_word(connection, who, words, at_once)
        best, scores = best_rows(found, size)
        lengths = dict(_json(connection, LENGTHS, [orjson.dumps(best.tolist()).decode()]))
        return by_length(lengths, best, scores)[:limit]

    def _counts(self, connection: sqlite3.Connection, words: Sequence[str]) -> dict[str, int]:
        """Rows that have each word, in the whole store; words that none has are left out."""
        terms = {word: self._stemmer.terms(word) for word in words}
        asked = [term for term in dict.fromkeys(t for own in terms.values() for t in own) if term not in self._rows_of]
        counts = self._rows_of_each(connection, asked) if asked else {}
        rows = {
            word: min(self._rows_of.get(term) or counts.get(term, 0) for term in own)
            for word, own in terms.items()
            if own
        }
        return {word: count for word, count in rows.items() if count}

    def _rows_of_each(self, connection: sqlite3.Connection, terms: Sequence[str]) -> dict[str, int]:
        counts = _json(connection, f"SELECT json_array({', '.join([ROWS_OF_TERM] * len(terms))})", terms)
        found = {term: count for term, count in zip(terms, counts, strict=True) if count}
        if len(self._rows_of) < REMEMBERED:
            self._rows_of |= found  # good enough to say what is rare; a term that is new today is not to be missed
        return found


def is_audience(audience: str) -> str:
    """The same. Raises: ValueError for what cannot be an audience."""
    if not AUDIENCE.fullmatch(audience):
        raise ValueError(f"{audience!r} is no audience")
    return audience


def audience_filter(audiences: Sequence[str]) -> str:
    """Raises: ValueError for what cannot be an audience."""
    return "who : (" + " OR ".join(f'"{is_audience(audience)}"' for audience in audiences) + ")"


def chosen(counts: Mapping[str, int], size: int, budget_us: float) -> tuple[list[str], bool]:
    """The rarest words, as many as are cheap, the first one always; and whether it is cheaper to walk through the
    audience once for all of them, and through the words' rows in the whole store besides."""
    words: list[str] = []
    rows, each_us, at_once = 0, 0.0, False
    for word in sorted(counts, key=counts.__getitem__)[:MOST_TERMS]:
        rows += counts[word]
        each_us += _cost_us(counts[word], size)
        once_us = _cost_us(rows, size) + rows
        if words and min(each_us, once_us) > budget_us:
            break
        words.append(word)
        at_once = once_us < each_us
    return words, at_once


def _cost_us(rows: int, size: int) -> float:
    """To find those of an audience among the rows of a word, as measured: FTS5 goes through the shorter list and looks
    for each row in the longer one, by steps within a page of it."""
    shorter, longer = sorted((max(1, rows), max(1, size)))
    return 100 + shorter * (2 + min(8.0, 0.01 * longer / shorter))


def _rows_by_word(connection: sqlite3.Connection, who: str, words: Sequence[str], at_once: bool) -> list[Ids]:
    """Of the audience, for each word."""
    texts = [f'text : "{word}"' for word in words]
    if not at_once:
        return _rowids(connection, [f"{who} AND {text}" for text in texts])
    allowed, *found = _rowids(connection, [f"{who} AND ({' OR '.join(texts)})", *texts])
    is_allowed = members(np.concatenate(found), allowed)
    ends = np.cumsum([len(rows) for rows in found])[:-1]
    return [rows[own] for rows, own in zip(found, np.split(is_allowed, ends), strict=True)]


def _rowids(connection: sqlite3.Connection, matches: Sequence[str]) -> list[Ids]:
    found = _json(connection, f"SELECT json_array({', '.join([ROWIDS] * len(matches))})", matches)
    return [np.array(orjson.loads(f"[{rows or ''}]"), np.int64) for rows in found]


def best_rows(found: Sequence[Ids], size: int) -> tuple[Ids, NDArray[np.float64]]:
    """Rows, best first, and their scores. Args: `found`: the rows that have each word; `size`: rows that there are."""
    weights = [math.log1p((max(0, size - len(one)) + 0.5) / (len(one) + 0.5)) for one in found]
    rows, places = np.unique(np.concatenate(found), return_inverse=True)
    scores = np.bincount(places, np.repeat(weights, [len(one) for one in found]), len(rows)).astype(np.float64)
    best = np.lexsort((-rows, -scores))[:WEIGHED]  # the newest of equals
    return rows[best], scores[best]


def by_length(known: Mapping[int, int], rows: Ids, scores: NDArray[np.float64]) -> list[int]:
    """Rows, those that say it in fewer words before others that have the same.

    Args: `known`: lengths of their texts.
    """
    lengths = np.array([known.get(row, 0) for row in rows.tolist()], np.float64)
    average = max(1.0, sum(known.values()) / max(1, len(known)))
    worth = scores / (1 + K1 * (1 - B + B * lengths / average))
    return [row for row in rows[np.lexsort((-rows, -worth))].tolist() if row in known]


def _json(connection: sqlite3.Connection, sql: str, values: Sequence[str]) -> Any:
    """The JSON of the only row."""
    return orjson.loads(connection.execute(sql, values).fetchone()[0])
