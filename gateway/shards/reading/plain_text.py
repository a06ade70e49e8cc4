"""Plain text and reStructuredText as headings, paragraphs and lists."""

from __future__ import annotations

import re

from gateway.shards.reading.markdown import ITEM, Outline, pieces, readable

MAX_HEADING_WORDS = 10
ADORNMENT = re.compile(r"([=\-~^\"'`*+#:._])\1{2,}\s*$")
DIRECTIVE = re.compile(r"(\s*)\.\.(?:\s|$)")
FIELD = re.compile(r":[A-Za-z][\w -]{0,40}:\s")
ROLE = re.compile(r":[a-z]{1,20}(?::[a-z]{1,20})?:`(?:([^`<]{1,200}?)\s*<[^`>]{0,300}>|([^`]{1,200}))`")
LINKED = re.compile(r"`([^`<]{1,200}?)\s*<[^`>]{1,500}>`__?|`([^`]{1,200})`__?")
LITERAL = re.compile(r"``([^`]{1,500})``")
EMPHASIS = re.compile(r"(?<![\w*])(\*{1,2})(?=\S)([^*]{1,500})(?<=\S)\1(?![\w*])")
REPLACED = re.compile(r"(?<!\w)\|([^|\s][^|]{0,60})\|(?!\w)|\[[#\d*]{1,4}\]_")
NUMBERED = re.compile(r"\d{1,2}(?:\.\d{1,2}){0,3}\.?\s+[A-Z]")


def read_text(text: str) -> Outline:
    outline = Outline()
    _TextReader(outline).read(text.replace("\f", "\n\n").split("\n"))
    return outline


def read_rst(text: str) -> Outline:
    """Without directives, comments and literal blocks."""
    outline = Outline()
    _TextReader(outline, is_rst=True).read(_without_directives(text.expandtabs(8).split("\n")))
    return outline


def _without_directives(lines: list[str]) -> list[str]:
    out: list[str] = []
    skip_deeper_than: int | None = None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if skip_deeper_than is not None and line.strip() and indent <= skip_deeper_than:
            skip_deeper_than = None
        if skip_deeper_than is not None:
            continue
        if DIRECTIVE.match(line):
            skip_deeper_than = indent
            out.append("")
            continue
        if line.rstrip().endswith("::"):
            skip_deeper_than = indent
            out += [line.rstrip()[:-1], ""]
        else:
            out.append(line)
    return out


class _TextReader:
    def __init__(self, outline: Outline, is_rst: bool = False) -> None:
        self._outline, self._is_rst = outline, is_rst
        self._lines: list[str] = []
        self._items: list[str] = []
        self._in_list = False
        self._levels: dict[str, int] = {}  # of headings, by the sign under them, in the order they come

    def read(self, lines: list[str]) -> None:
        is_after_blank = True
        for line in lines:
            if not line.strip():
                self._end_item()
            else:
                self._line(line, is_after_blank)
            is_after_blank = not line.strip()
        self._end_list()

    def _line(self, line: str, is_after_blank: bool) -> None:
        if (found := ADORNMENT.match(line)) is not None:
            if len(self._lines) == 1 and not self._in_list:
                level = self._levels.setdefault(found.group(1), len(self._levels) + 1)
                self._outline.heading(level, self._plain(self._lines.pop()))
            else:
                self._end_list()
        elif (found := ITEM.match(line)) is not None and (is_after_blank or self._in_list):
            self._end_item() if self._in_list else self._end_list()
            self._in_list = True
            self._lines.append(line[found.end() :])
        elif not (self._is_rst and FIELD.match(line)):
            if self._in_list and is_after_blank and not line.startswith(" "):
                self._end_list()
            self._lines.append(line.strip())

    def _end_item(self) -> None:
        lines, text = len(self._lines), "\n".join(self._lines)
        self._lines.clear()
        if not text:
            return
        if self._in_list:
            self._items.append(self._plain(text))
        elif lines == 1 and not self._is_rst and is_heading(text):
            self._outline.heading(2 if self._outline.title else 1, readable(text))
        else:
            for piece in pieces(text):
                self._outline.add(self._plain(piece))

    def _end_list(self) -> None:
        self._end_item()
        if self._items:
            self._outline.add_list(self._items)
        self._items, self._in_list = [], False

    def _plain(self, text: str) -> str:
        return readable(_plain_rst(text) if self._is_rst else text)


def is_heading(line: str) -> bool:
    """Does a line that stands alone read like a heading: short, no end of a sentence, most words large?"""
    words = line.split()
    if not 1 <= len(words) <= MAX_HEADING_WORDS or line.rstrip()[-1] in ".!?:;,…。！？":
        return False
    if line.isupper() or NUMBERED.match(line):
        return any(char.isalpha() for char in line)
    long = [word for word in words if len(word) > 3 and word[0].isalpha()]
    return words[0][0].isupper() and (len(words) < 4 or all(word[0].isupper() for word in long))


def _plain_rst(text: str) -> str:
    text = LITERAL.sub(r"\1", ROLE.sub(lambda found: found.group(1) or found.group(2).lstrip("~!"), text))
    text = LINKED.sub(lambda found: found.group(1) or found.group(2), text)
    return EMPHASIS.sub(r"\2", REPLACED.sub(lambda found: found.group(1) or "", text))
