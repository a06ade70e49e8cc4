"""The log: lines of text or of JSON, without secrets, at a level that can be changed while the server runs."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

import orjson

from gateway.errors import InvalidRequest

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error", "critical"]

REQUEST: ContextVar[tuple[str, str] | None] = ContextVar("request", default=None)
"""Ids of the request that is being answered here: the client's or our own, and the trace's."""

LEVELS = {name: logging.getLevelNamesMapping()[name.upper()] for name in ("debug", "info", "warning", "error")}
LEVELS["critical"] = logging.CRITICAL
OURS = "gateway"
CHATTY = ("alembic", "uvicorn")  # at info they say what the banner says
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
HIDDEN = "***"
MIN_SECRET = 8  # characters; hiding shorter ones would spoil words that only look like them
UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)  # and what turns text round
PATTERNS = (
    (re.compile(r"\bogw_[A-Za-z0-9_-]{8,}"), f"ogw_{HIDDEN}"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{8,}"), f"sk-{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"""(?i)\b((?:x-)?api[-_]?key["']?\s*[:=]\s*["']?)[^\s"',&}]{4,}"""), rf"\1{HIDDEN}"),
    (re.compile(r"://([^/\s:@]*):[^/\s@]+@"), rf"://\1:{HIDDEN}@"),
)


class Scrubber:
    """Takes out what looks like a key, and the secrets that it has been told of."""

    def __init__(self) -> None:
        self._known: re.Pattern[str] | None = None

    def learn(self, secrets: Iterable[str]) -> None:
        """These, in place of those before."""
        longest_first = sorted({one for one in secrets if len(one) >= MIN_SECRET}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def scrub(self, text: str) -> str:
        for pattern, instead in PATTERNS:
            text = pattern.sub(instead, text)
        return self._known.sub(HIDDEN, text) if self._known is not None else text


class TextFormatter(logging.Formatter):
    def __init__(self, scrubber: Scrubber) -> None:
        super().__init__(TEXT)
        self._scrubber = scrubber

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = in_one_line(record.message)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return self._scrubber.scrub(super().format(record))


def in_one_line(text: str) -> str:
    """What clients write (paths, names) stands in messages too: it must not pass for lines of ours, nor move a
    terminal's cursor."""
    return text if text.isprintable() else UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


class JsonFormatter(logging.Formatter):
    """One object a line. What a record holds in `fields` stands beside the message."""

    def __init__(self, scrubber: Scrubber) -> None:
        super().__init__()
        self._scrubber = scrubber

    def format(self, record: logging.LogRecord) -> str:
        scrub = self._scrubber.scrub
        out: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": scrub(record.getMessage()),
        }
        if (ids := REQUEST.get()) is not None:
            out["request_id"], out["trace_id"] = ids
        fields: dict[str, object] = getattr(record, "fields", {})
        out |= {name: scrub(value) if isinstance(value, str) else value for name, value in fields.items()}
        if record.exc_info:
            out["error"] = scrub(self.formatException(record.exc_info))
        return orjson.dumps(out, default=str).decode()


class Log:
    """What this process logs. `scrubber` hides the secrets of the configuration."""

    def __init__(self) -> None:
        self.scrubber = Scrubber()
        self._before: int | None = None  # debugging began

    def start(self, format: Format, level: Level) -> None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter((JsonFormatter if format == "json" else TextFormatter)(self.scrubber))
        logging.basicConfig(handlers=[handler])
        self.set(level)

    def set(self, level: Level | None, logger: str | None = None) -> None:
        """The gateway's own level, or that of one logger, for which None means: as the one above it.

        Others' libraries say at most what is information: to debug them, name them.
        Raises: InvalidRequest for a logger that there is not.
        """
        number = LEVELS[level] if level is not None else logging.NOTSET
        if logger is not None and logger != OURS:
            if logger not in logging.root.manager.loggerDict:
                raise InvalidRequest(f"there is no logger '{logger[:100]}'", param="logger")
            logging.getLogger(logger).setLevel(number)
            return
        if level is None:
            raise InvalidRequest(f"'{OURS}' needs a level: one of {', '.join(LEVELS)}", param="level")
        logging.getLogger(OURS).setLevel(number)
        logging.root.setLevel(max(number, logging.INFO))
        for name in CHATTY:
            logging.getLogger(name).setLevel(max(number, logging.WARNING))
        self._before = None

    def toggle(self) -> None:
        """To debug, and back."""
        now = logging.getLogger(OURS).getEffectiveLevel()
        if now == logging.DEBUG:
            self.set(level_name(self._before if self._before is not None else logging.INFO))
        else:
            self.set("debug")
            self._before = now
        logging.getLogger(__name__).warning("log level: %s", self.shown()["level"])

    def shown(self) -> dict[str, object]:
        """The level, and those loggers that have one of their own."""
        loggers = {
            name: level_name(logger.level)
            for name, logger in sorted(logging.root.manager.loggerDict.items())
            if isinstance(logger, logging.Logger) and logger.level and name != OURS
        }
        return {"level": level_name(logging.getLogger(OURS).getEffectiveLevel()), "loggers": loggers}


def level_name(number: int) -> Level:
    """The nearest that is not above it."""
    names: dict[int, Level] = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
    return names[max(10, min(50, number // 10 * 10))]
