"""What was verified, and what it looked like then: lets a restart trust 98 MB without reading them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.sources.storage import disk_errors


@dataclass(frozen=True)
class Marker:
    """The content of `.ok`, or of a part's `.ok-00002`. `is_promised`: the server had said this sha256 before."""

    size_bytes: int
    mtime_ns: int
    sha256: str
    is_promised: bool = False

    @classmethod
    def of(cls, path: Path, sha256: str, *, is_promised: bool = False) -> Marker:
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, sha256, is_promised)

    @classmethod
    def read(cls, file: Path) -> Marker | None:
        """None if there is none, or none that can be understood: then the file is verified again."""
        try:
            return cls(**json.loads(file.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, file: Path) -> None:
        with disk_errors(file.parent):
            file.write_text(json.dumps(asdict(self)))

    def describes(self, path: Path) -> bool:
        try:
            return self == Marker.of(path, self.sha256, is_promised=self.is_promised)
        except OSError:
            return False
