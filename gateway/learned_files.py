"""`$GATEWAY_HOME/learned/*.yaml`: written together, diffable, and with the former sets kept to go back to."""

from __future__ import annotations

import difflib
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gateway.errors import GatewayError
from gateway.learned_file import read_learned_file

FOLDER = "learned"
HISTORY, REVERTED = "history", "reverted"
MOST_KEPT = 20  # former sets
DIGITS = 6
WIDTH = 120
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
Json = dict[str, Any]


@dataclass(frozen=True)
class LearnedFile:
    """One of them. `said`: lines for people at its top. `is_sorted`: the order of its keys says nothing."""

    name: str
    document: Json
    said: Sequence[str] = ()
    is_sorted: bool = True

    def text(self) -> str:
        header = "".join(f"# {line}\n" for line in self.said)
        body = yaml.dump(
            rounded(self.document), Dumper=DUMPER, sort_keys=self.is_sorted, width=WIDTH, allow_unicode=True
        )
        return header + str(body)


class Learned:
    """The folder of them in a home."""

    def __init__(self, home: Path) -> None:
        self.folder = home / FOLDER

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.yaml"))

    def read(self, name: str) -> Json | None:
        """None where it is not there. Raises: ConfigError naming the file."""
        return read_learned_file(self.path(name))

    def diff(self, file: LearnedFile) -> str:
        """What writing it would change, as `diff -u` shows it; lines for people aside."""
        path = self.path(file.name)
        before = path.read_text("utf-8") if path.exists() else ""
        old, new = ([line for line in text.splitlines() if line[:1] != "#"] for text in (before, file.text()))
        return "\n".join(difflib.unified_diff(old, new, f"{path.name} (in use)", f"{path.name} (learned)", lineterm=""))

    def write(self, written: Iterable[LearnedFile], now: float | None = None) -> None:
        """Each as a whole or not at all; the set as it was goes to the history. Raises: GatewayError."""
        try:
            self._keep(time.time() if now is None else now)
            for file in written:
                self._replace(self.path(file.name), file.text().encode())
            for old in self.history()[MOST_KEPT:]:
                shutil.rmtree(old)
        except OSError as exc:
            raise GatewayError(f"cannot write into {self.folder}: {exc.strerror or exc}") from None

    def replace(self, file: LearnedFile) -> None:
        """As a whole or not at all; it is no new set. Raises: GatewayError."""
        try:
            self._replace(self.path(file.name), file.text().encode())
        except OSError as exc:
            raise GatewayError(f"cannot write into {self.folder}: {exc.strerror or exc}") from None

    def history(self) -> list[Path]:
        """Former sets, the newest first."""
        return sorted((path for path in (self.folder / HISTORY).glob("[!.]*") if path.is_dir()), reverse=True)

    def revert(self, steps: int = 1) -> list[str]:
        """Back to the set of so many writes ago. What is taken back lies in `learned/reverted` until the next time.

        Returns: the names of the files that are there now. Raises: GatewayError.
        """
        former = self.history()
        if not 1 <= steps <= len(former):
            raise GatewayError(f"there are {len(former)} former sets to go back to, not {steps}")
        wanted, aside = former[steps - 1], self.folder / REVERTED
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            for path in self.folder.glob("*.yaml"):
                shutil.copy2(path, aside / path.name)
            kept = {path.name for path in wanted.glob("*.yaml")}
            for name in kept:
                self._replace(self.folder / name, (wanted / name).read_bytes())
            for path in self.folder.glob("*.yaml"):
                if path.name not in kept:
                    path.unlink()
            for path in former[:steps]:
                shutil.rmtree(path)
        except OSError as exc:
            raise GatewayError(f"cannot write into {self.folder}: {exc.strerror or exc}") from None
        return self.names()

    def _keep(self, now: float) -> None:
        stamp = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime(now))
        history = self.folder / HISTORY
        history.mkdir(parents=True, exist_ok=True)
        place, number = history / stamp, 1
        while place.exists():  # twice in a second
            number += 1
            place = history / f"{stamp}-{number:02}"
        beside = place.with_name(f".{place.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        for path in self.folder.glob("*.yaml"):
            shutil.copy2(path, beside / path.name)
        beside.rename(place)

    def _replace(self, path: Path, data: bytes) -> None:
        beside = path.with_name(f".{path.name}.{os.getpid()}.new")
        beside.write_bytes(data)
        beside.replace(path)


def rounded(value: Any) -> Any:
    """Numbers to six digits after the point, or six that count where they are small."""
    if isinstance(value, Mapping):
        return {str(key): rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if abs(value) < 1e-3 else round(value, DIGITS)
    return value
