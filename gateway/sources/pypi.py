"""`pypi:` sources: one file out of a wheel. pip fetches the wheel, so the user's index, proxy and login hold."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

from gateway.errors import SourceError
from gateway.sources.split import nth_part
from gateway.sources.storage import CHUNK_BYTES, Part, Progress, disk_errors, safe_filename

POLL_S = 0.2
_PIP = (sys.executable, "-P", "-m", "pip", "download")  # -P: a pip.py in the working directory is not pip
_OPTIONS = ("--no-deps", "--only-binary", ":all:", "--no-input", "--no-color", "--progress-bar", "off")
_NOT_INSTALLED = ("--ignore-requires-python", "--disable-pip-version-check")  # the wheel is unzipped, never installed
_WHEEL_SIZE = re.compile(r"(?:Downloading|Using cached) \S+\.whl \(([\d.]+) (bytes|kB|MB|GB)\)")
_UNIT_BYTES = {"bytes": 1, "kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
_ADDRESS = re.compile(r"\S*://\S*|\S+@\S+|host='[^']*'|url: \S+")


@dataclass(frozen=True)
class PypiSource:
    """`member` is a path inside the wheel; only its last component names a file here."""

    shape: ClassVar[str] = "pypi:NAME==VERSION#path/in/wheel"

    uri: str
    requirement: str
    member: str

    @classmethod
    def parse(cls, uri: str) -> PypiSource:
        requirement, hash_, member = uri.partition(":")[2].partition("#")
        shown = repr(_ADDRESS.sub("…", uri))
        if not re.fullmatch(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9.!+_-]*", requirement, re.ASCII):
            raise SourceError(f"{shown} needs a package and its exact version, like {cls.shape}")
        if not hash_ or not member:
            raise SourceError(f"{shown} does not say which file of the wheel is meant; write {cls.shape}")
        if member.endswith("/") or "\\" in member or not all(member.split("/")) or ".." in member.split("/"):
            raise SourceError(f"{member!r} in {shown} is not a path of a file inside a wheel; write {cls.shape}")
        return cls(uri, requirement, member)

    def __str__(self) -> str:
        return self.uri

    @property
    def identity(self) -> str:
        return self.uri

    @property
    def file_path(self) -> str:
        return self.member

    def part(self, number: int) -> PypiSource:
        return replace(self, uri=nth_part(self.uri, number), member=nth_part(self.member, number))

    def place(self, folder: Path) -> Path:
        return folder / (safe_filename(self.member) or "file")

    def fetch(self, part: Part, on_progress: Progress) -> None:
        folder = part.path.parent
        with disk_errors(folder):
            for stale in folder.glob("wheel-*"):  # left by a process that was killed
                shutil.rmtree(stale, ignore_errors=True)
            work = TemporaryDirectory(prefix="wheel-", dir=folder, ignore_cleanup_errors=True)
        with work:
            self.extract(self._download(Path(work.name), on_progress), part)

    def _download(self, work: Path, on_progress: Progress) -> Path:
        """pip cannot say how far it is in a form that all its versions share, so the file it writes is watched."""
        if importlib.util.find_spec("pip") is None:
            raise SourceError(f"{self} is fetched by pip, which {sys.executable} does not have; install pip there")
        command = [*_PIP, *_OPTIONS, *_NOT_INSTALLED, "--dest", str(work), self.requirement]
        environment = {**os.environ, "TMPDIR": str(work), "PYTHONUNBUFFERED": "1"}
        said = work / "said"
        with disk_errors(work), said.open("wb") as out:  # why it failed goes through a pipe: the disk may be full
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, env=environment
            )
        with process:
            try:
                while True:
                    try:
                        _, why = process.communicate(timeout=POLL_S)
                        break
                    except subprocess.TimeoutExpired:
                        _report(work, said, on_progress)
            finally:
                process.kill()  # nothing, if it has ended
        wheels = list(work.glob("*.whl"))
        if process.returncode or not wheels:
            raise SourceError(f"{self}: {_reason(why.decode(errors='replace'))}")
        size_bytes = wheels[0].stat().st_size
        on_progress(size_bytes, size_bytes)
        return wheels[0]

    def extract(self, wheel: Path, part: Part) -> None:
        part.restart(None)
        try:
            with zipfile.ZipFile(wheel) as archive:
                if self.member not in archive.namelist():
                    raise SourceError(f"{self}: {wheel.name} holds no such file{_nearest(self.member, archive)}")
                part.expect(archive.getinfo(self.member).file_size)
                with archive.open(self.member) as file:
                    while chunk := file.read(CHUNK_BYTES):
                        part.write(chunk)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as exc:
            raise SourceError(f"{self}: {wheel.name} cannot be unpacked: {exc}") from exc


def _report(work: Path, said: Path, on_progress: Progress) -> None:
    done = 0
    for folder, _, names in os.walk(work):  # pip writes below TMPDIR, then copies to --dest
        for name in names:  # os.walk passes over folders that pip removes meanwhile; pathlib's rglob raises
            if name.endswith(".whl"):
                with contextlib.suppress(FileNotFoundError):
                    done = max(done, os.stat(os.path.join(folder, name)).st_size)
    size = _WHEEL_SIZE.search(said.read_text(errors="replace")) if done else None
    on_progress(done, max(done, round(float(size[1]) * _UNIT_BYTES[size[2]])) if size else None)


def _reason(stderr: str) -> str:
    """pip's last word on what went wrong, without addresses: they may hold a login, and always say where from."""
    if "No space left on device" in stderr:
        return "pip found the disk full; make room where models are kept and in pip's cache, and try again"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    others = [line for line in lines if not line.startswith(("WARNING:", "[notice]", "hint:"))]
    reason = _ADDRESS.sub("…", (errors or others or ["it did not say why"])[-1])
    reach = " (the package index did not answer: is this machine offline?)" if "Retrying (" in stderr else ""
    return f"pip failed: {reason}{reach}"


def _nearest(member: str, archive: zipfile.ZipFile) -> str:
    names = [name for name in archive.namelist() if not name.endswith("/")]
    same = [name for name in names if name.rpartition("/")[2] == member.rpartition("/")[2]]
    near = list(dict.fromkeys(same + difflib.get_close_matches(member, names, n=3, cutoff=0.4)))[:3]
    return f"; did you mean {' or '.join(near)}?" if near else f"; it holds {', '.join(names[:5])}"
