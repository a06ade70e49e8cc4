"""`hf:` sources: a file of a model repository on Hugging Face's Hub, or on a mirror that `HF_ENDPOINT` names."""

from __future__ import annotations

import re
import urllib.error
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, unquote, urlsplit

from gateway.errors import SourceError
from gateway.sources import hf_cache
from gateway.sources.download import Download, basic_login, status_text, without_login
from gateway.sources.split import nth_part
from gateway.sources.storage import Part, Progress, safe_filename

MAIN = "main"
_NAME = re.compile(r"[A-Za-z0-9_](?:[\w.-]{0,94}[\w-])?", re.ASCII)
_PASTED = re.compile(r"(?:resolve|blob)/[^/]+/.")


@dataclass(frozen=True)
class HfSource:
    """`path` is the file's in the repository; `revision` a branch, a tag or a commit."""

    shape: ClassVar[str] = "hf:owner/repo/path/to/file"

    owner: str
    repo: str
    revision: str
    path: str

    @classmethod
    def parse(cls, uri: str) -> HfSource:
        text = uri.partition(":")[2]
        owner, _, rest = text.partition("/")
        repo, _, path = rest.partition("/")
        repo, at, revision = repo.partition("@")
        if not all(_NAME.fullmatch(name) and "--" not in name and ".." not in name for name in (owner, repo)):
            raise SourceError(f"{uri!r} names no repository; write {cls.shape} or hf:owner/repo@REVISION/path")
        revision = unquote(revision) if at else MAIN
        if not _is_path(revision):
            raise SourceError(f"{uri!r} names no revision after its @; write hf:owner/repo@REVISION/path")
        if not _is_path(path) or not safe_filename(path):
            raise SourceError(f"{uri!r} names no file of {owner}/{repo}; write {cls.shape}")
        if _PASTED.match(path):
            hint = f"leave out {'/'.join(path.split('/')[:2])}; a revision other than {MAIN} goes after an @"
            raise SourceError(f"{uri!r} looks like a part of a web address: {hint}, hf:owner/repo@REVISION/path")
        return cls(owner, repo, revision, path)

    def __str__(self) -> str:
        revision = "" if self.revision == MAIN else f"@{quote(self.revision, safe='')}"
        return f"hf:{self.owner}/{self.repo}{revision}/{self.path}"

    @property
    def identity(self) -> str:
        return str(self)

    @property
    def file_path(self) -> str:
        return self.path

    def part(self, number: int) -> HfSource:
        return replace(self, path=nth_part(self.path, number))

    def place(self, folder: Path) -> Path:
        return folder / safe_filename(self.path)

    def cached(self) -> Path | None:
        """The file in Hugging Face's own cache, not yet looked at."""
        return hf_cache.cached_file(self.owner, self.repo, self.revision, self.path)

    def fetch(self, part: Part, on_progress: Progress) -> None:
        if hf_cache.is_offline():
            wanted = f" with sha256 {part.wanted}" if part.wanted else ""
            place = hf_cache.cache_folder()
            raise SourceError(
                f"{self}: HF_HUB_OFFLINE is set, and Hugging Face's cache ({place}) has no such file{wanted}"
            )
        endpoint, token = _checked(hf_cache.endpoint()), hf_cache.token()
        url = f"{endpoint}/{self.owner}/{self.repo}/resolve/{quote(self.revision, safe='')}/{quote(self.path)}"
        authorization = f"Bearer {token}" if token else basic_login(endpoint)
        host = urlsplit(endpoint).netloc.rpartition("@")[2]

        def explain(error: urllib.error.HTTPError) -> str:
            return self._explain(error, host, has_token=token is not None)

        Download(str(self), without_login(url), authorization, explain).fetch(part, on_progress)

    def _explain(self, error: urllib.error.HTTPError, host: str, *, has_token: bool) -> str:
        """The Hub's own words are in two headers. The hosts that it redirects to have none."""
        name = f"{self.owner}/{self.repo}"
        code, message = error.headers.get("X-Error-Code"), error.headers.get("X-Error-Message")
        if urlsplit(error.url).netloc != host:
            return status_text(error)
        if code == "GatedRepo":
            whose = "to a token of an account that has" if has_token else "to your token"
            return f"{name} is gated: accept its terms on the site ({host}/{name}) and set HF_TOKEN {whose}"
        if code == "RevisionNotFound":
            return f"{name} has no revision {self.revision!r}"
        if code == "EntryNotFound":
            return f"{name} has no file {self.path!r} at revision {self.revision!r}"
        if error.code == 401 and (message or "").startswith("Invalid credentials"):
            return "the Hugging Face token is not valid, or has expired: set HF_TOKEN to a new one"
        if message == "Access to this resource is disabled.":
            return f"access to {name} has been disabled on the site"
        if code == "RepoNotFound" or error.code == 401:
            may = "a token that may read it" if has_token else "your token"
            return f"there is no repository {name}, or it is private or gated: then set HF_TOKEN to {may}"
        if error.code == 403:
            return f"{status_text(error)}: the token in HF_TOKEN may lack the right to read {name}"
        if error.code == 429:
            hint = "" if has_token else "; with HF_TOKEN set more is allowed"
            return f"{status_text(error)}: too many were asked for in a short time{hint}"
        return status_text(error)


def _is_path(text: str) -> bool:
    """Fit to be joined to a folder: relative, and not leaving it."""
    parts = text.split("/")
    return text.isprintable() and "\\" not in text and all(part.strip() and part not in (".", "..") for part in parts)


def _checked(endpoint: str) -> str:
    """Raises: SourceError. http: is taken as it is: a mirror in the user's own network is the user's decision."""
    try:
        parts = urlsplit(endpoint)
        is_url = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
        (parts.hostname or "").encode("idna")
    except ValueError:
        is_url = False
    if not is_url or parts.scheme not in ("https", "http") or not endpoint.isascii() or not endpoint.isprintable():
        raise SourceError(f"HF_ENDPOINT is not a web address like {hf_cache.DEFAULT_ENDPOINT}")
    return endpoint
