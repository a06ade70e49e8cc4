"""Process shards as Agent Skills, folders with a `SKILL.md` that other agent tools read too, and back.

Source: https://agentskills.io/specification. Ids, states, evidence and cases (which may hold what users asked) stay
here; so does whom a shard is for.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import yaml

from gateway.errors import InvalidRequest
from gateway.shards import Json, Kind, Shard
from gateway.shards.outside import read_shard
from gateway.shards.reading.documents import PLAIN, decode
from gateway.shards.reading.formats import Unreadable
from gateway.shards.reading.skill_body import ANSWER_FORMAT, Body, fenced, read_body
from gateway.shards.writing import as_json
from gateway.trace import new_id

FILE = "SKILL.md"
FILES = (FILE, "skill.md")
MAX_FILE_BYTES = 2 * 2**20
MAX_FRONTMATTER_CHARS = 256 * 1024
MAX_YAML_DEPTH, MAX_YAML_EVENTS = 16, 20_000
MAX_NAME, MAX_DESCRIPTION, MAX_TITLE = 64, 1024, 200
OURS = "onion-gateway."
"""Before the keys of `metadata` that are ours; their values are JSON, for the specification has strings there."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same in C, where there is one
TRAVELS = ("title", "trigger", "questions", "fact", "passage", "steps", "examples", "checks", "options", "schema")
EMPTY: Json = {"questions": [], "steps": [], "examples": [], "checks": [], "options": [], "schema": None}
PORTABLE_CHECKS = frozenset(
    """finish_reason json json_schema language length logprob no_loop not_echo not_empty not_refusal one_of regex
    tool_arguments""".split()
)
"""Those that only look at an answer. Others, which may run code or ask a server, are not taken from a file."""


@dataclass(frozen=True)
class Skill:
    """What a skill's folder comes to.

    Args:
        references: the documents beside it, which may be read as such. They are in no shard.
        left_out: what of it is not in the shard.
    """

    shard: Shard
    references: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()


def read_skill(path: Path, like: Shard | None = None) -> Skill:
    """A skill's folder, or its SKILL.md; scripts in it are never read nor run. Raises: InvalidRequest."""
    file = path if path.name in FILES else next((path / name for name in FILES if (path / name).exists()), path / FILE)
    skill = skill_of(_text_of(file), str(path), like)
    references: list[Path] = []
    left_out = list(skill.left_out)
    for beside in sorted(file.parent.iterdir()):
        if beside.name == "references" and beside.is_dir() and not beside.is_symlink():
            references = sorted(one for one in beside.iterdir() if one.suffix.lower() in PLAIN and _is_plain(one))
            left_out.append("references/: add them as documents")
        elif beside.name == "scripts":
            left_out.append("scripts/: code is never imported")
        elif beside.name not in FILES and not beside.name.startswith("."):
            left_out.append(beside.name + ("/" if beside.is_dir() else ""))
    return replace(skill, references=tuple(references), left_out=tuple(left_out))


def skill_of(text: str, source: str = "", like: Shard | None = None) -> Skill:
    """The text of a SKILL.md as a process shard; tenant, scope, writer, lot and the like are those of `like`.

    Raises: InvalidRequest.
    """
    frontmatter, markdown = _split(text)
    name, description = (_required(frontmatter, key) for key in ("name", "description"))
    body = read_body(markdown)
    left_out = list(body.left_out)
    fields = _said(name, description, body) | _ours(frontmatter.get("metadata"), left_out)
    if not any(fields.get(key) for key in ("steps", "examples", "options")):
        raise InvalidRequest("the skill has no steps (a list) and no examples: there is nothing to show a model")
    read = read_shard({**fields, "kind": "process"})
    shard = replace(
        like or Shard(id="", kind=Kind.PROCESS),
        **{field: getattr(read, field) for field in TRAVELS},
        id=new_id(),
        kind=Kind.PROCESS,
        source=source,
        source_hash=sha256(text.encode("utf-8", "replace")).hexdigest(),
    )
    return Skill(shard, left_out=tuple(left_out))


def write_skill(shard: Shard, folder: Path, taken: Collection[str] = (), overwrite: bool = False) -> Path:
    """Write `folder/NAME/SKILL.md`; returns its path. `taken`: names that others have. Raises: InvalidRequest."""
    name = skill_name(shard, taken)
    text = skill_text(shard, name)
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    if target.is_symlink():
        raise InvalidRequest(f"'{target}' is a link, and is not written through")
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_TRUNC if overwrite else os.O_EXCL)
    try:
        number = os.open(target / FILE, flags, 0o644)
    except FileExistsError:
        raise InvalidRequest(f"'{target / FILE}' is there already") from None
    except OSError as exc:
        raise InvalidRequest(f"'{target / FILE}' cannot be written: {exc.strerror}") from None
    with os.fdopen(number, "wb") as file:
        file.write(text.encode())
    return target / FILE


def skill_name(shard: Shard, taken: Collection[str] = ()) -> str:
    """As the specification has it: 1 to 64 of a-z, 0-9 and single hyphens between them. None of those taken."""
    words = next((found for text in (shard.title, shard.trigger) if (found := _slug(text))), "")
    name, number = words or f"skill-{_digest(shard)}", 2
    unique = name
    while unique in taken:
        unique = f"{name[: MAX_NAME - 1 - len(str(number))].rstrip('-')}-{number}"
        number += 1
    return unique


def _digest(shard: Shard) -> str:
    own = as_json(shard)
    return sha256(_json([own.get(field) for field in TRAVELS]).encode()).hexdigest()[:8]


def _slug(text: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))[:MAX_NAME].strip("-")


def skill_text(shard: Shard, name: str | None = None) -> str:
    """A process shard as the text of a SKILL.md. What Markdown cannot say exactly is in `metadata` as well.

    Raises: InvalidRequest.
    """
    if shard.kind is not Kind.PROCESS:
        raise InvalidRequest("only process shards are skills: facts and memories are not", param="kind")
    name = name or skill_name(shard)
    words = (" ".join(text.split()) for text in (shard.trigger, shard.title, *shard.steps[:1]))
    description = next((text for text in words if text), "Worked examples of one task.")[:MAX_DESCRIPTION]
    markdown = _markdown(shard)
    own, said = as_json(shard), _said(name, description, read_body(markdown))
    fields = {field: own.get(field, EMPTY.get(field, "")) for field in TRAVELS}
    exact = {field: value for field, value in fields.items() if value != said.get(field, EMPTY.get(field, ""))}
    metadata = {OURS + field: _json(value) for field, value in exact.items()}
    head = {"name": name, "description": description, **({"metadata": metadata} if metadata else {})}
    frontmatter = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=2**31)
    text = f"---\n{frontmatter}---\n\n{markdown}"
    if len(frontmatter) > MAX_FRONTMATTER_CHARS or len(text.encode()) > MAX_FILE_BYTES:
        raise InvalidRequest("the shard is too large for a skill; export it as a bundle")
    return text


def _said(name: str, description: str, body: Body) -> Json:
    """The fields that a skill tells every tool, as JSON."""
    examples = [{"user": one.user, "assistant": one.assistant} for one in body.examples]
    title = (name if body.title is None else body.title)[:MAX_TITLE]
    return {"title": title, "trigger": description, "steps": list(body.steps), "examples": examples}


def _markdown(shard: Shard) -> str:
    parts = [f"# {' '.join(shard.title.split())}"] if shard.title.strip() else []
    if shard.steps:
        steps = (f"{number}. {' '.join(step.split())}" for number, step in enumerate(shard.steps, start=1))
        parts += ["## Steps", "\n".join(steps)]
    if shard.options or shard.schema is not None:
        parts.append(f"## {ANSWER_FORMAT}")
    if shard.options:
        parts += ["The answer is one of these:", "\n".join(f"- {' '.join(one.split())}" for one in shard.options)]
    if shard.schema is not None:
        schema = orjson.dumps(shard.schema, option=orjson.OPT_INDENT_2).decode()
        parts += ["The answer is JSON of this schema:", fenced(schema, "json")]
    if shard.examples:
        parts.append("## Examples")
        for one in shard.examples:
            parts += ["Input:", fenced(one.user), "Output:", fenced(one.assistant)]
    return "\n\n".join(parts) + "\n"


# -- the file ----------------------------------------------------------------------------------------------------------


def _text_of(file: Path) -> str:
    try:
        number = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(number, "rb") as opened:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise InvalidRequest(f"'{file}' is not a file")
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise InvalidRequest(f"'{file}' has more than {MAX_FILE_BYTES // 2**20} MB")
        return decode(data)
    except FileNotFoundError:
        raise InvalidRequest(f"there is no '{file}'") from None
    except OSError as exc:
        why = "it is a link" if file.is_symlink() else exc.strerror
        raise InvalidRequest(f"'{file}' cannot be read: {why}") from None
    except Unreadable as exc:
        raise InvalidRequest(f"'{file}': {exc}") from None


def _is_plain(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()


def _split(text: str) -> tuple[Json, str]:
    """The front matter and what follows it."""
    found = re.match(r"\ufeff?\s*---[ \t]*\n", text[:1024])
    end = re.compile(r"^---[ \t]*$", re.MULTILINE).search(text, found.end()) if found else None
    if found is None or end is None:
        raise InvalidRequest(f"a {FILE} begins with front matter: YAML between two lines '---'")
    source = text[found.end() : end.start()]
    if len(source) > MAX_FRONTMATTER_CHARS:
        raise InvalidRequest(f"the front matter has more than {MAX_FRONTMATTER_CHARS // 1024} KB")
    frontmatter = _yaml(source)
    if not isinstance(frontmatter, dict):
        raise InvalidRequest("the front matter is a mapping, with 'name' and 'description'")
    return frontmatter, text[end.end() :]


def _yaml(source: str) -> object:
    """Without aliases, which can make much of little, and not nested deeply."""
    depth = count = 0
    try:
        for event in yaml.parse(source, LOADER):
            count += 1
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > MAX_YAML_DEPTH or count > MAX_YAML_EVENTS:
                raise InvalidRequest("the front matter is too intricate: no aliases, at most 16 levels")
        return yaml.load(source, LOADER)  # a safe one
    except yaml.MarkedYAMLError as exc:
        line = f" in its line {exc.problem_mark.line + 1}" if exc.problem_mark else ""
        raise InvalidRequest(f"the front matter is not YAML: {exc.problem}{line}") from None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date or a number out of range
        raise InvalidRequest("the front matter is not YAML that can be read") from None


def _required(frontmatter: Json, key: str) -> str:
    value = frontmatter.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InvalidRequest(f"the front matter needs '{key}', a text", param=key)
    return value.strip()


# -- what is ours in `metadata` ----------------------------------------------------------------------------------------


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        raise InvalidRequest("the shard has a value that JSON cannot hold") from None


def _ours(metadata: object, left_out: list[str]) -> Json:
    """What a gateway has written, not yet looked at but for the checks."""
    if not isinstance(metadata, dict):
        return {}
    out = {name: _read(name, metadata[OURS + name]) for name in TRAVELS if OURS + name in metadata}
    if isinstance(out.get("checks"), list):
        refused = [one for one in out["checks"] if _check_name(one) not in PORTABLE_CHECKS]
        left_out += [f"check '{_check_name(one)}': it is not taken from a file" for one in refused]
        out["checks"] = [one for one in out["checks"] if one not in refused]
    return out


def _read(name: str, written: object) -> Any:
    try:
        return orjson.loads(written) if isinstance(written, str) else written
    except orjson.JSONDecodeError:
        raise InvalidRequest(f"'{OURS}{name}' is not JSON", param=f"metadata.{OURS}{name}") from None


def _check_name(check: object) -> str:
    """Of a check as a policy writes it: its name, or a mapping of it to its parameters; "" where it is neither."""
    if isinstance(check, dict) and len(check) == 1:
        check = next(iter(check))
    return check if isinstance(check, str) else ""
