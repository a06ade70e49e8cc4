"""What was verified, and what it looked like then: lets a restart trust 98 MB without reading them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.sources.storage import disk_errors


@dataclass(frozen=True)
class Marker:
    """The content of a folder's `.ok`."""

    size_bytes: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path, sha256: str) -> Marker:
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, sha256)

    @classmethod
    def read(cls, folder: Path) -> Marker | None:
        """None if there is none, or none that can be understood: then the file is verified again."""
        try:
            return cls(**json.loads((folder / ".ok").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        with disk_errors(folder):
            (folder / ".ok").write_text(json.dumps(asdict(self)))

    def describes(self, path: Path) -> bool:
        try:
            return self == Marker.of(path, self.sha256)
        except OSError:
            return False
