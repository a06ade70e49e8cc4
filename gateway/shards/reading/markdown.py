"""Markdown as headings, paragraphs, lists and tables in plain words. Code and what only shapes the page go."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MAX_PARAGRAPH_CHARS = 20_000  # longer ones are taken in pieces: patterns look ahead within one


@dataclass(frozen=True)
class Paragraph:
    """What belongs together on a page: a paragraph, a list with the line that introduces it, or a table.

    Args:
        headings: above it, the outermost first.
        parts: the paragraph's text; of a list its items, of a table its rows.
        is_list: its parts are items or rows, each a statement of its own.
    """

    headings: tuple[str, ...]
    parts: tuple[str, ...]
    is_list: bool = False


@dataclass
class Outline:
    """Paragraphs under their headings, as they are read."""

    title: str = ""
    paragraphs: list[Paragraph] = field(default_factory=list)
    _headings: dict[int, str] = field(default_factory=dict)

    def heading(self, level: int, text: str) -> None:
        self._headings = {depth: name for depth, name in self._headings.items() if depth < level}
        if text:
            self._headings[level] = text
            self.title = self.title or text

    def add(self, *parts: str, is_list: bool = False) -> None:
        kept = tuple(part for part in parts if part)
        if kept:
            headings = tuple(self._headings[level] for level in sorted(self._headings))
            self.paragraphs.append(Paragraph(headings, kept, is_list))

    def add_list(self, items: list[str]) -> None:
        """With the line before that ends in a colon, which says what the list is of."""
        last = self.paragraphs[-1] if self.paragraphs else None
        headings = tuple(self._headings[level] for level in sorted(self._headings))
        if last is not None and not last.is_list and last.headings == headings and last.parts[-1].endswith(":"):
            self.paragraphs.pop()
            items = [*last.parts, *items]
        self.add(*items, is_list=True)


ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
UNDERLINE = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
RULE = re.compile(r" {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$")
FENCE = re.compile(r"\s{0,12}(`{3,}|~{3,})")
ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d{1,4}[.)])[ \t]+(?=\S)")
DELIMITERS = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")
DEFINITION = re.compile(r" {0,3}\[[^\]]{1,200}\]:[ \t]*\S")
QUOTE = re.compile(r" {0,3}(?:>[ \t]?)+")
BOLD_LINE = re.compile(r"(?:\*\*|__)([^*_]{1,120})(?:\*\*|__):?$")
FRONTMATTER_TITLE = re.compile(r"title:[ \t]*(.+)$", re.MULTILINE)


def read_markdown(text: str) -> Outline:
    """The title is the front matter's, or the first heading."""
    outline = Outline()
    lines = _body(without_comments(text), outline).split("\n")
    _MarkdownReader(outline).read(lines)
    return outline


def _body(text: str, outline: Outline) -> str:
    if text.startswith("---\n"):
        end = text.find("\n---", 3)
        if 0 < end < MAX_PARAGRAPH_CHARS:
            title = FRONTMATTER_TITLE.search(text, 0, end)
            outline.title = title.group(1).strip().strip("\"'") if title else ""
            return text[end + 4 :].partition("\n")[2]
    return text


class _MarkdownReader:
    def __init__(self, outline: Outline) -> None:
        self._outline = outline
        self._lines: list[str] = []  # of the paragraph or item that is being read
        self._items: list[str] = []
        self._in_list = False

    def read(self, lines: list[str]) -> None:
        n, is_after_blank = 0, True
        while n < len(lines):
            line = QUOTE.sub("", lines[n].expandtabs(4), count=1)
            if fence := FENCE.match(line):
                self._end_item()
                n = _after_fence(lines, n, fence.group(1))
            elif not line.strip():
                self._end_item()
                n += 1
            elif "|" in line and n + 1 < len(lines) and _is_table(line, QUOTE.sub("", lines[n + 1], count=1)):
                n = self._table(lines, n)
            else:
                is_code = line.startswith("    ") and is_after_blank and not self._in_list
                n += 1
                if not is_code:
                    self._line(line, is_after_blank)
            is_after_blank = not line.strip()
        self._end_list()

    def _line(self, line: str, is_after_blank: bool) -> None:
        if (found := ATX.match(line)) is not None:
            self._heading(len(found.group(1)), found.group(2) or "")
        elif not self._in_list and len(self._lines) == 1 and (found := UNDERLINE.match(line)) is not None:
            heading = self._lines.pop()
            self._heading(1 if found.group(1)[0] == "=" else 2, heading)
        elif RULE.match(line):
            self._end_list()
        elif DEFINITION.match(line):
            self._end_item()
        elif (found := ITEM.match(line)) is not None:
            self._end_item() if self._in_list else self._end_list()
            self._in_list = True
            self._lines.append(line[found.end() :])
        else:
            if self._in_list and is_after_blank and not line.startswith(" "):
                self._end_list()
            self._lines.append(line.strip())

    def _heading(self, level: int, text: str) -> None:
        self._end_list()
        self._outline.heading(level, plain(text))

    def _end_item(self) -> None:
        text = "\n".join(self._lines).strip()
        self._lines.clear()
        if not text:
            return
        if self._in_list:
            self._items.append(plain(re.sub(r"^\[[ xX]\]\s+", "", text)))
        elif (found := BOLD_LINE.fullmatch(text)) is not None:
            self._outline.heading(6, plain(found.group(1)))
        else:
            for piece in pieces(text):
                self._outline.add(plain(piece))

    def _end_list(self) -> None:
        self._end_item()
        if self._items:
            self._outline.add_list(self._items)
        self._items, self._in_list = [], False

    def _table(self, lines: list[str], start: int) -> int:
        """Reads one; returns the number of the line after it."""
        self._end_list()
        header, rows, n = _cells(lines[start]), [], start + 2
        while n < len(lines) and "|" in lines[n]:
            rows.append(_row(header, _cells(lines[n])))
            n += 1
        self._outline.add(*rows, is_list=True)
        return n


def _after_fence(lines: list[str], start: int, fence: str) -> int:
    for n in range(start + 1, len(lines)):
        bare = QUOTE.sub("", lines[n], count=1).strip()
        if bare.startswith(fence) and not bare.strip(fence[0]):
            return n + 1
    return len(lines)


def _is_table(line: str, after: str) -> bool:
    return "-" in after and DELIMITERS.match(after) is not None and len(_cells(line)) == len(_cells(after))


def _cells(line: str) -> list[str]:
    bare = QUOTE.sub("", line, count=1).strip().removeprefix("|").removesuffix("|")
    return [plain(cell.replace("\\|", "|")) for cell in re.split(r"(?<!\\)\|", bare)]


def _row(header: list[str], cells: list[str]) -> str:
    """As "Header: value; Header: value"; "" where there are not two values."""
    named = [(name, cell) for name, cell in zip(header, cells, strict=False) if cell.strip("-–— ") and cell != "NaN"]
    if len(named) < 2:
        return ""
    return "; ".join(f"{name}: {cell}" if name and not name.startswith("Unnamed: ") else cell for name, cell in named)


def pieces(text: str) -> Iterator[str]:
    """A text in pieces that are not too long, cut at white space."""
    while len(text) > MAX_PARAGRAPH_CHARS:
        cut = max(text.rfind(" ", 0, MAX_PARAGRAPH_CHARS), text.rfind("\n", 0, MAX_PARAGRAPH_CHARS))
        cut = cut if cut > 0 else MAX_PARAGRAPH_CHARS
        yield text[:cut]
        text = text[cut:]
    yield text


def without_comments(text: str) -> str:
    """Without HTML comments, scripts and styles."""
    for opening, closing in (("<!--", "-->"), ("<script", "</script>"), ("<style", "</style>")):
        out, at = [], 0
        while (start := text.find(opening, at)) >= 0 and (end := text.find(closing, start)) >= 0:
            out.append(text[at:start])
            at = end + len(closing)
        text = "".join([*out, text[at:]])
    return text


IMAGE = re.compile(r"!\[[^\]]{0,500}\](?:\([^()]{0,2000}\)|\[[^\]]{0,200}\])")
LINK = re.compile(r"\[([^\[\]]{0,1000})\]\((?:[^()]|\([^()]{0,500}\)){0,2000}\)")
REFERENCE = re.compile(r"\[([^\[\]]{1,500})\]\[[^\[\]]{0,200}\]")
WIKI_LINK = re.compile(r"\[\[(?:[^|\[\]]{0,300}\|)?([^\[\]]{0,300})\]\]")
CITATION = re.compile(
    r"\[(?:\^[^\]\s]{1,80}|\d{1,3}|update|vague|dubious|who\?|when\?|note \d+|not in citation given|"
    r"[a-z ]{1,40} needed)\]"
)
PAGES = re.compile(r"(?<=[.,;)”\"])(?::\d{1,4}(?:[-–]\d{1,4})*)+(?=\s|$)")  # of a citation
TAG = re.compile(r"</?[a-zA-Z][^<>]{0,1000}>")
BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
AUTOLINK = re.compile(r"<((?:https?|mailto|ftp):[^<>\s]{1,2000})>")
CODE = re.compile(r"(?<!`)(`{1,3})(?!`)([^`]{1,1000})(?<!`)\1(?!`)")
STARS = re.compile(r"(\*{1,3})(?=\S)([^*]{1,2000})(?<=\S)\1")
UNDERSCORES = re.compile(r"(?<!\w)(_{1,3})(?=\S)([^_]{1,2000})(?<=\S)\1(?!\w)")
STRUCK = re.compile(r"~~[^~]{1,1000}~~")
ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
HIDDEN = re.compile("[\ue021-\ue07e]")


def _hide(found: re.Match[str]) -> str:
    return "".join(chr(0xE000 + ord(char)) if char in "\\`*_{}[]()#+-.!|<>~" else char for char in found.group(1))


def _hide_code(found: re.Match[str]) -> str:
    return re.sub(r"(.)", _hide, found.group(2).strip(), flags=re.DOTALL)


def plain(text: str) -> str:
    """Markdown within a line as the words that are read: links keep their text, images and footnote marks go."""
    text = CODE.sub(_hide_code, ESCAPED.sub(_hide, text))
    text = AUTOLINK.sub(r"\1", IMAGE.sub("", text))
    for pattern in (WIKI_LINK, LINK, REFERENCE):
        text = pattern.sub(r"\1", text)
    text = TAG.sub("", BREAK.sub(" ", text))
    text = PAGES.sub("", CITATION.sub("", text))
    text = STRUCK.sub("", text)
    for pattern in (STARS, UNDERSCORES, STARS, UNDERSCORES):
        text = pattern.sub(r"\2", text)
    text = HIDDEN.sub(lambda found: chr(ord(found.group()) - 0xE000), text)
    return readable(html.unescape(text))


UNSEEN = dict.fromkeys([*map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff\x7f"), *range(9), *range(14, 28)])
LIGATURES = str.maketrans({"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl"})


def readable(text: str) -> str:
    """White space made single; without what is not seen."""
    return " ".join(text.translate(UNSEEN).translate(LIGATURES).split())
