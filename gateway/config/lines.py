"""YAML with the line of every key kept, so that a fault can be pointed at."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from gateway.errors import ConfigError, Problem

Loc = tuple[str | int, ...]
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass
class Document:
    """A parsed file: `data`, and the line (from 1) of each value by its path."""

    file: str
    data: Any
    lines: dict[Loc, int] = field(default_factory=dict)

    def line_of(self, loc: Loc) -> int:
        """Line of the value, or of the nearest thing around it."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return self.lines.get(loc, 0)

    def problem(self, loc: Loc, message: str, hint: str = "") -> Problem:
        return Problem(self.file, self.line_of(loc), dotted(loc), message, hint)


def dotted(loc: Loc) -> str:
    """A path for people: `routes[0].when.has`."""
    out = ""
    for part in loc:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else str(part))
    return out


def read(path: Path, shown_as: str | None = None) -> Document:
    """Raises: ConfigError for a file that cannot be read, is not YAML, or has a key twice."""
    name = shown_as or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError([Problem(name, 0, "", f"cannot be read: {exc.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem(name, 0, "", "is not UTF-8 text")]) from None
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        document = Document(name, None)
        problems: list[Problem] = []
        if node is not None:
            document.data = _construct(loader, node, (), document, problems)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 0
        raise ConfigError([Problem(name, line, "", f"is not YAML: {exc.problem or exc.context}")]) from None
    except yaml.YAMLError as exc:
        raise ConfigError([Problem(name, 0, "", f"is not YAML: {exc}")]) from None
    finally:
        loader.dispose()
    if problems:
        raise ConfigError(problems)
    return document


def _construct(loader: Any, node: yaml.Node, loc: Loc, document: Document, problems: list[Problem]) -> Any:
    document.lines.setdefault(loc, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        loader.flatten_mapping(node)  # anchors merged with <<
        out: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = loader.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                problems.append(
                    Problem(document.file, line, dotted(loc), f"key {key!r} is not text", "put it in quotes")
                )
                continue
            here = (*loc, key)
            if key in out:
                problems.append(Problem(document.file, line, dotted(here), "this key is there twice"))
            document.lines[here] = line
            out[key] = _construct(loader, value_node, here, document, problems)
        return out
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*loc, i), document, problems) for i, item in enumerate(node.value)]
    return loader.construct_object(node, deep=True)


def fill_variables(value: Any, missing: set[str]) -> Any:
    """`${NAME}` in every string replaced from the environment; names that are not set (or empty) go into `missing`."""
    if isinstance(value, str):

        def variable(match: re.Match[str]) -> str:
            found = os.environ.get(match[1], "")
            if not found:
                missing.add(match[1])
            return found

        return VARIABLE.sub(variable, value)
    if isinstance(value, dict):
        return {key: fill_variables(item, missing) for key, item in value.items()}
    if isinstance(value, list):
        return [fill_variables(item, missing) for item in value]
    return value


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint with the known word that is most like this one, or with all of them where none is."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(words)}" if words else ""
