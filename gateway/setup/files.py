"""Model files on this machine: where people and other programs keep GGUF files, searched with a bound on everything."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.sources.gguf import BrokenGguf, GgufHeader, read_header

MAX_ENTRIES = 50_000  # of folders looked at
TIME_LIMIT_S = 8.0
PART = re.compile(r"^(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)
QUANTIZATION = re.compile(r"(?i)(?:^|[-._])((?:I?Q\d(?:_[A-Z0-9]+)*|BF16|F16|F32|MXFP4))(?=[-._]|$)")
SIZE_LABEL = re.compile(r"(?i)(?:(\d+)x)?(\d+(?:\.\d+)?)\s*([KMBT])")
UNITS = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


@dataclass(frozen=True, slots=True)
class Folder:
    """`depth`: how many folders below it are looked into."""

    path: Path
    depth: int


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A whole model: `path` is the file, or the first of its parts; `size_bytes` is that of all parts together."""

    path: Path
    size_bytes: int
    header: GgufHeader
    projector: Path | None = None

    @property
    def parameters(self) -> float:
        """Weights: counted, or as the label says where the header speaks of a part only."""
        label = _labelled(self.header.size_label)
        return label if label and (self.header.parts > 1 or not self.header.parameters) else self.header.parameters

    @property
    def stem(self) -> str:
        part = PART.match(self.path.name)
        return part["stem"] if part else self.path.stem

    @property
    def quantization(self) -> str | None:
        found = QUANTIZATION.search(self.stem)
        return found[1].upper() if found else self.header.quantization


@dataclass(frozen=True, slots=True)
class BrokenFile:
    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """`notes`: what was not looked at, and why."""

    models: tuple[ModelFile, ...] = ()
    embedders: tuple[ModelFile, ...] = ()
    broken: tuple[BrokenFile, ...] = ()
    notes: tuple[str, ...] = ()


def usual_folders(here: Path, home: Path, gateway_home: Path, environ: Mapping[str, str]) -> list[Folder]:
    """Where model files lie by habit. Ollama's blobs are not among them: they are Ollama's to serve."""
    cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub = environ.get("HF_HUB_CACHE") or Path(environ.get("HF_HOME") or cache / "huggingface") / "hub"
    return [
        Folder(here, 0),
        Folder(here / "models", 3),
        Folder(gateway_home / "models", 2),
        Folder(home / "models", 3),
        Folder(Path(environ.get("LLAMA_CACHE") or cache / "llama.cpp"), 1),
        Folder(home / "Library" / "Caches" / "llama.cpp", 1),
        Folder(Path(hub), 5),
        Folder(home / ".lmstudio" / "models", 3),
        Folder(cache / "lm-studio" / "models", 3),
        Folder(home / "Downloads", 1),
    ]


def find_files(folders: list[Folder], time_limit_s: float = TIME_LIMIT_S) -> FoundFiles:
    """Each file once, however many links lead to it; the path found first is kept."""
    notes: list[str] = []
    models: list[ModelFile] = []
    projectors: list[Path] = []
    broken: list[BrokenFile] = []
    seen: set[tuple[int, int]] = set()
    for path in _gguf_files(folders, time.monotonic() + time_limit_s, notes):
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if not _is_writable_in_yaml(path):
                broken.append(BrokenFile(path, "its path cannot be written in models.yaml; give it a plainer name"))
                continue
            part = PART.match(path.name)
            if part and int(part["number"]) != 1:
                continue
            header = read_header(path)
            if header.is_projector or "mmproj" in path.name.lower():
                projectors.append(path)
            else:
                models.append(ModelFile(path, _size_of(path, part), header))
        except BrokenGguf as exc:
            broken.append(BrokenFile(path, str(exc)))
        except OSError as exc:
            broken.append(BrokenFile(path, f"cannot be read: {exc.strerror}"))
    models = [_with_projector(model, models, projectors) for model in models]
    return FoundFiles(
        tuple(model for model in models if model.header.chats),
        tuple(model for model in models if not model.header.chats),
        tuple(broken),
        tuple(notes),
    )


def _gguf_files(folders: list[Folder], give_up_at: float, notes: list[str]) -> Iterator[Path]:
    entries_left = MAX_ENTRIES
    for folder in folders:
        waiting = [(folder.path.absolute(), folder.depth)]
        while waiting:
            here, depth = waiting.pop(0)
            if time.monotonic() > give_up_at or entries_left <= 0:
                notes.append(f"the search for model files stopped at {here}: there is too much to look through")
                return
            try:
                with os.scandir(here) as listing:
                    entries = sorted(_first(listing, entries_left), key=lambda entry: entry.name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                notes.append(f"{here} was not looked into: {exc.strerror}")
                continue
            entries_left -= len(entries)
            for entry in entries:
                if entry.name.lower().endswith(".gguf"):
                    if time.monotonic() < give_up_at:  # reading the last one may have taken long
                        yield Path(entry.path)
                elif depth and not entry.name.startswith(".") and _is_folder(entry):
                    waiting.append((Path(entry.path), depth - 1))


def _first(listing: Iterator[os.DirEntry[str]], count: int) -> list[os.DirEntry[str]]:
    return [entry for entry, _ in zip(listing, range(count), strict=False)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _size_of(path: Path, part: re.Match[str] | None) -> int:
    """Raises: BrokenGguf where a part is missing."""
    if part is None:
        return path.stat().st_size
    count, size = int(part["count"]), 0
    for number in range(1, count + 1):
        piece = path.with_name(f"{part['stem']}-{number:05d}-of-{part['count']}{path.suffix}")
        if not piece.is_file():
            raise BrokenGguf(f"is in {count} parts, and part {number} is not beside it")
        size += piece.stat().st_size
    return size


def _with_projector(model: ModelFile, models: list[ModelFile], projectors: list[Path]) -> ModelFile:
    """With the projector beside it; where several models share a folder, only one that is named like this model."""
    folder = model.path.parent
    beside = [path for path in projectors if path.parent == folder]
    is_alone = sum(other.path.parent == folder for other in models) == 1
    if not beside:
        return model
    words = _name_words(model.stem)
    best = max(beside, key=lambda path: len(words & _name_words(path.stem)))
    if not is_alone and len(words & _name_words(best.stem)) < 2:
        return model
    return replace(model, projector=best)


def _name_words(stem: str) -> set[str]:
    return set(re.split(r"[-._]", QUANTIZATION.sub("", stem).lower())) - {"gguf", "mmproj", "model", ""}


def _is_writable_in_yaml(path: Path) -> bool:
    """A `${NAME}` in it would be filled in from the environment; what is not UTF-8 cannot be written down."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return "${" not in str(path) and str(path).isprintable()


def _labelled(label: str | None) -> float | None:
    """`1.5B` is 1.5e9, `8x7B` is 56e9."""
    found = SIZE_LABEL.match(label or "")
    return int(found[1] or 1) * float(found[2]) * UNITS[found[3].upper()] if found else None
