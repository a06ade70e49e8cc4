"""Files put in place whole or not at all. What stood there before is kept beside it, to the last byte."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import GatewayError

SECRET = re.compile(
    r"(?i)((?:key|token|secret|password|authorization)[\w-]*[\"']?\s*[:=]\s*)(?!\s*[\"']?\$\{)[^\s,}#][^,}#]*"
)
IN_URL = re.compile(r"://[^/\s@]+@")


@dataclass(frozen=True)
class NewFile:
    """`old` is what is there now; None for nothing."""

    path: Path
    text: str
    old: bytes | None

    @staticmethod
    def of(path: Path, text: str) -> NewFile:
        """Raises: GatewayError where something is there that cannot be read."""
        try:
            return NewFile(path, text, path.read_bytes())
        except FileNotFoundError:
            return NewFile(path, text, None)
        except OSError as exc:
            raise GatewayError(f"{path}: cannot be read: {exc.strerror}") from None

    @property
    def is_same(self) -> bool:
        return self.old == self.text.encode()

    def diff(self, limit: int = 40) -> list[str]:
        """What would change, a secret in the old file made unreadable: counts, then lines as `diff -u` writes them."""
        old = (self.old or b"").decode("utf-8", "replace").splitlines()
        lines = list(difflib.unified_diff(old, self.text.splitlines(), n=1, lineterm=""))[2:]
        added, removed = (sum(line.startswith(sign) for line in lines) for sign in "+-")
        shown = [f"{self.path}: {added} lines more, {removed} lines less", *map(without_secrets, lines[:limit])]
        return [*shown, f"… and {len(lines) - limit} lines of difference"] if len(lines) > limit else shown


def without_secrets(line: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in line)
    return IN_URL.sub("://…@", SECRET.sub(r"\1…", printable))


@dataclass
class Written:
    """`backups`: by file, where its old self now is."""

    files: list[Path] = field(default_factory=list)
    backups: dict[Path, Path] = field(default_factory=dict)


def put_in_place(files: Sequence[NewFile]) -> Written:
    """All are written beside their places first, so that a full disk or a closed folder changes nothing.

    Raises: GatewayError.
    """
    ready: list[tuple[NewFile, Path, Path]] = []
    written = Written()
    file = files[0].path if files else Path()
    try:
        try:
            for new in files:
                file = new.path
                target = new.path.resolve()  # a link stays a link
                target.parent.mkdir(parents=True, exist_ok=True)
                ready.append((new, target, _beside(target, new)))
            for new, target, _ in ready:
                file = new.path
                if new.old is not None:
                    written.backups[new.path] = _keep(target)
            for new, target, draft in ready:
                file = new.path
                os.replace(draft, target)
                written.files.append(new.path)
        except OSError as exc:
            done = (
                f"; written before: {', '.join(map(str, written.files))}" if written.files else "; nothing was changed"
            )
            raise GatewayError(f"{file}: cannot be written: {exc.strerror}{done}") from None
    finally:
        for _, _, draft in ready:
            draft.unlink(missing_ok=True)
    return written


def _beside(target: Path, new: NewFile) -> Path:
    draft = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        with open(draft, "xb") as file:
            file.write(new.text.encode())
            file.flush()
            os.fsync(file.fileno())
        if new.old is not None:
            draft.chmod(target.stat().st_mode & 0o7777)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return draft


def _keep(target: Path) -> Path:
    """A copy named FILE.bak-N, with the first N that is free."""
    data, number = target.read_bytes(), 1
    while True:
        backup = target.with_name(f"{target.name}.bak-{number}")
        try:
            descriptor = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            number += 1
            continue
        try:
            with open(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            backup.chmod(target.stat().st_mode & 0o7777)
        except OSError:
            backup.unlink(missing_ok=True)  # half a copy is none
            raise
        return backup
