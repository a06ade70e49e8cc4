"""`python -m gateway.shards.reading.formats_child .pdf < FILE`: one document as JSON with its text, title or error."""

from __future__ import annotations

import io
import logging
import re
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import orjson

MAX_MEMORY_BYTES = 2 * 2**30
MAX_OUTPUT_BYTES = 64 * 2**20
MAX_CPU_S = 90
CONVERTERS = {
    ".html": ("HtmlConverter", ""),
    ".htm": ("HtmlConverter", ""),
    ".pdf": ("PdfConverter", "pdf"),
    ".docx": ("DocxConverter", "docx"),
    ".pptx": ("PptxConverter", "pptx"),
    ".xlsx": ("XlsxConverter", "xlsx"),
    ".epub": ("EpubConverter", ""),
}
"""By suffix: markitdown's class, and its extra with what that class imports. Only that one is asked: its own way of
guessing by content would take a file for whatever it looks like."""

RUNNING_LINES = 3  # a short line that stands on so many pages is the page's, not the text's
MAX_RUNNING_CHARS = 100
CHARSET = re.compile(rb"charset\s*=\s*[\"']?([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)


def main() -> None:
    suffix = sys.argv[1]
    sys.stdout.buffer.write(orjson.dumps(_answer(sys.stdin.buffer.read(), suffix)))


def _answer(data: bytes, suffix: str) -> dict[str, str]:
    warnings.simplefilter("ignore")
    logging.disable()
    try:
        converter, stream, info = _reader(data, suffix)
        _limit()
        result = converter.convert(stream, info)
        text = result.markdown.encode("utf-8", "replace").decode()
        title = (result.title or "").encode("utf-8", "replace").decode()
        return {"text": TIDIED.get(suffix, str)(text), "title": " ".join(title.split())}
    except MemoryError:
        return {"error": "it takes too much memory"}
    except RecursionError:
        return {"error": "it is nested too deeply"}
    except Exception as exc:  # of any of the libraries, on a file that is not what its name says
        if type(exc).__name__ == "MissingDependencyException":
            return {"missing": CONVERTERS[suffix][1]}
        return {"error": type(exc).__name__}


def _reader(data: bytes, suffix: str) -> tuple[Any, io.BytesIO, Any]:
    markitdown, converters = import_module("markitdown"), import_module("markitdown.converters")
    name, _ = CONVERTERS[suffix]
    charset = _charset(data) if name == "HtmlConverter" else None
    info = markitdown.StreamInfo(extension=suffix, charset=charset)
    return getattr(converters, name)(), io.BytesIO(data), info


def _charset(data: bytes) -> str:
    """Of a web page: what it says, if that is true, else UTF-8 or Windows' Latin 1."""
    found = CHARSET.search(data[:4096])
    for name in (*([found.group(1).decode()] if found else []), "utf-8", "utf-16"):
        with suppress(LookupError, UnicodeDecodeError):
            data.decode(name)
            return name
    return "cp1252"


def _limit() -> None:
    """Set when the libraries are loaded. macOS knows no limit of memory."""
    limits = [(resource.RLIMIT_CPU, MAX_CPU_S), (resource.RLIMIT_FSIZE, MAX_OUTPUT_BYTES), (resource.RLIMIT_CORE, 0)]
    for which, limit in (*limits, (resource.RLIMIT_AS, MAX_MEMORY_BYTES)):
        with suppress(ValueError, OSError):
            resource.setrlimit(which, (limit, limit))


def without_running_lines(text: str) -> str:
    """A PDF's text without the lines that head or foot its pages."""
    lines = text.split("\n")
    counts = Counter(key for line in lines if (key := _running(line)))
    return "\n".join(line for line in lines if counts[_running(line)] < RUNNING_LINES)


def with_lines_apart(text: str) -> str:
    """A presentation's text with each line a paragraph: they seldom end in a full stop."""
    return re.sub(r"\n(?!\|)", "\n\n", text)


def _running(line: str) -> str:
    """What a line has in common with the same one on other pages; "" where it is too long for one."""
    bare = line.strip()
    return re.sub(r"\d+", "#", bare) if len(bare) <= MAX_RUNNING_CHARS and not bare.startswith("|") else ""


TIDIED: dict[str, Callable[[str], str]] = {".pdf": without_running_lines, ".pptx": with_lines_apart}

if __name__ == "__main__":
    main()
