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
MAX_NODES = 200_000
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

    def value_at(self, loc: Loc) -> Any:
        data = self.data
        for part in loc:
            data = data[part]
        return data

    def problem(self, loc: Loc, message: str, hint: str = "") -> Problem:
        return Problem(self.file, self.line_of(loc), dotted(loc), message, hint)


def dotted(loc: Loc) -> str:
    """A path for people: `routes[0].when.has`."""
    out = ""
    for part in loc:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else str(part))
    return out


def read(path: Path) -> Document:
    """Raises: ConfigError for a file that cannot be read, is not YAML, or has a key twice."""
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError([Problem(name, 0, "", f"cannot be read: {exc.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem(name, 0, "", "is not UTF-8 text")]) from None
    document = Document(name, None)
    problems: list[Problem] = []
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            document.data = _Constructor(loader, document, problems).construct(node, (), frozenset())
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line = mark.line + 1 if mark else 0
        raise ConfigError([Problem(name, line, "", f"is not YAML: {exc.problem or exc.context}")]) from None
    except yaml.YAMLError as exc:
        raise ConfigError([Problem(name, 0, "", f"is not YAML: {' '.join(str(exc).split())}")]) from None
    except RecursionError:
        raise ConfigError([Problem(name, 0, "", "is nested too deep")]) from None
    if problems:
        raise ConfigError(problems)
    return document


class _Constructor:
    """Nodes to plain data, noting where each stood."""

    def __init__(self, loader: yaml.SafeLoader, document: Document, problems: list[Problem]) -> None:
        self._loader, self._document, self._problems = loader, document, problems
        self._nodes_left = MAX_NODES

    def construct(self, node: yaml.Node, loc: Loc, around: frozenset[int]) -> Any:
        """`around`: the ids of the nodes that this one stands in."""
        self._document.lines.setdefault(loc, node.start_mark.line + 1)
        self._nodes_left -= 1
        if self._nodes_left < 0:
            raise yaml.YAMLError("anchors and aliases unfold to too much")
        if id(node) in around:
            return self._wrong(node, loc, "refers to itself")
        around = around | {id(node)}
        if isinstance(node, yaml.MappingNode):
            self._loader.flatten_mapping(node)  # anchors merged with <<
            return self._mapping(node, loc, around)
        if isinstance(node, yaml.SequenceNode):
            return [self.construct(item, (*loc, i), around) for i, item in enumerate(node.value)]
        return self._scalar(node, loc)

    def _mapping(self, node: yaml.MappingNode, loc: Loc, around: frozenset[int]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node, loc) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                self._wrong(key_node, loc, f"key {key!r} is not text", "put it in quotes")
                continue
            here = (*loc, key)
            if key in out:
                self._wrong(key_node, here, "this key is there twice")
            self._document.lines[here] = key_node.start_mark.line + 1
            out[key] = self.construct(value_node, here, around)
        return out

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        try:
            return self._loader.construct_object(node, deep=True)
        except (ValueError, AttributeError):  # a date that is none, a number that is none
            return self._wrong(node, loc, f"is not a {node.tag.rpartition(':')[2]}", "put text in quotes")

    def _wrong(self, node: yaml.Node, loc: Loc, message: str, hint: str = "") -> None:
        self._problems.append(Problem(self._document.file, node.start_mark.line + 1, dotted(loc), message, hint))


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


def variables_in(value: Any) -> frozenset[str]:
    """Names of the `${NAME}` in every string."""
    if isinstance(value, str):
        return frozenset(VARIABLE.findall(value))
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return frozenset[str]().union(*map(variables_in, inner))


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint with the known word that is most like this one, or with all of them where none is."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(words)}" if words else ""
