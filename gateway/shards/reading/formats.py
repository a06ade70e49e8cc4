"""Documents that are not plain text (PDF, Word, HTML and the like) as text: markitdown reads them, in a child process
with limits, for a document may be made to do harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec

import orjson

from gateway.shards.reading.formats_child import MAX_OUTPUT_BYTES

TIMEOUT_S = 60.0
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
CONVERTED = (".html", ".htm", ".pdf", ".docx", ".pptx", ".xlsx", ".epub")
INSTALL = "pip install 'onion-gateway[documents]'"


class Unreadable(Exception):
    """A document cannot be read. The message says why, in words for the user."""


@dataclass(frozen=True)
class Converted:
    """Markdown; of a PDF plain text."""

    text: str
    title: str


def convert(data: bytes, suffix: str, timeout_s: float = TIMEOUT_S) -> Converted:
    """Raises: Unreadable."""
    if find_spec("markitdown") is None:
        raise Unreadable(f"'{suffix}' files are read by markitdown, which is not installed: {INSTALL}")
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out:
        given.write(data)
        given.seek(0)
        argv = [sys.executable, "-P", "-m", "gateway.shards.reading.formats_child", suffix]
        env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}  # it has no use for secrets
        child = subprocess.Popen(
            argv, stdin=given, stdout=out, stderr=subprocess.DEVNULL, env=env, start_new_session=True
        )
        status = _wait(child, timeout_s)
        out.seek(0)
        reply = out.read(MAX_OUTPUT_BYTES + 1)
    return _read(reply, status, suffix)


def _wait(child: subprocess.Popen[bytes], timeout_s: float) -> int:
    try:
        return child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise Unreadable(f"it was not read within {timeout_s:g} s") from None
    finally:
        with suppress(ProcessLookupError, PermissionError):  # nothing is left; macOS says so of zombies
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _read(reply: bytes, status: int, suffix: str) -> Converted:
    try:
        said = orjson.loads(reply)
    except orjson.JSONDecodeError:
        raise Unreadable(f"it cannot be read: its reader ended ({_how(status)})") from None
    if "missing" in said:
        raise Unreadable(f"'{suffix}' files need more of markitdown: pip install 'markitdown[{said['missing']}]'")
    if "error" in said:
        raise Unreadable(f"it cannot be read as '{suffix}': {said['error']}")
    if not said["text"].strip():
        raise Unreadable("there is no text in it; pictures of text are not read")
    return Converted(said["text"], said["title"])


def _how(status: int) -> str:
    if status < 0:
        with suppress(ValueError):
            return signal.Signals(-status).name
    return f"exit status {status}"
