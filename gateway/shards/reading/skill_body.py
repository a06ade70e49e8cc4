"""The body of a SKILL.md: its title, its steps and its worked examples. Anything goes there, so this looks for the
forms that people use."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gateway.shards import Example
from gateway.shards.reading.markdown import ATX, IMAGE, LINK, without_comments

MAX_STEPS, MAX_STEP_CHARS = 16, 500
MAX_EXAMPLES, MAX_SIDE_CHARS = 40, 4000  # as shards may have
ANSWER_FORMAT = "Answer format"

FENCE = re.compile(r"[ ]{0,12}(`{3,}|~{3,})[ \t]*([^`\n]*)$")
ITEM = re.compile(r"([ \t]*)(?:[-*+•]|(\d{1,4})[.)])[ \t]+(\S.*)$")
LABEL = re.compile(
    r"[ \t]*(?:[-*+][ \t]+)?(?:\*\*|__)?(input|user|question|prompt|request|q|output|assistant|answer|response|a)"
    r"(?:[ \t]+\d{1,3})?(?:\*\*|__)?:(?:\*\*|__)?[ \t]*(.*)$",
    re.IGNORECASE,
)
ASKS = frozenset(("input", "user", "question", "prompt", "request", "q"))
NUMBERED_HEADING = re.compile(r"(?:step[ \t]+)?\d{1,2}[.:)]?[ \t]*[-–—:]?[ \t]+(\S.*)$", re.IGNORECASE)
STEP_WORDS = re.compile(
    r"\b(?:steps?|instructions?|workflow|process|procedure|how to|method|guidelines?|what to do|rules|checklist)\b",
    re.IGNORECASE,
)
OTHER_WORDS = re.compile(
    rf"\b(?:examples?|references?|resources?|see also|when (?:not )?to use|when this|requirements|prerequisites|"
    rf"{ANSWER_FORMAT}|overview|table of contents|license|links|files|scripts|directory structure)\b",
    re.IGNORECASE,
)
BOLD = re.compile(r"(\*\*|__)(?=\S)([^*_\n]{1,1000})(?<=\S)\1")


@dataclass(frozen=True)
class Body:
    """`title`: None where there is no heading of the first level."""

    title: str | None
    steps: tuple[str, ...]
    examples: tuple[Example, ...]
    left_out: tuple[str, ...]


def read_body(markdown: str) -> Body:
    """Steps are the items of a list called so; else numbered headings, else numbered items, else all items. Examples
    are what follows labels such as "Input:" and "Output:", or pairs of code blocks under a heading with "example"."""
    reader = _Reader()
    reader.read(without_comments(markdown).split("\n"))
    steps, examples = reader.steps(), reader.examples
    left_out = [f"code blocks: {reader.code_blocks}"] if reader.code_blocks else []
    left_out += [f"paragraphs: {reader.paragraphs}"] if reader.paragraphs else []
    kept = [step for step in steps if len(step) <= MAX_STEP_CHARS][:MAX_STEPS]
    shown = [one for one in examples if _fits(one)][:MAX_EXAMPLES]
    for what, some, most in (("steps", kept, steps), ("examples", shown, examples)):
        left_out += [f"{what}: {len(most) - len(some)}, too many or too long"] if len(some) < len(most) else []
    return Body(reader.title, tuple(kept), tuple(shown), tuple(left_out))


def _fits(example: Example) -> bool:
    return all(side.strip() and len(side) <= MAX_SIDE_CHARS for side in (example.user, example.assistant))


def fenced(text: str, language: str = "text") -> str:
    """A code block that holds the text whatever is in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


@dataclass
class _Item:
    text: str
    is_numbered: bool
    heading: str
    indent: int


@dataclass
class _Reader:
    title: str | None = None
    examples: list[Example] = field(default_factory=list)
    code_blocks: int = 0
    paragraphs: int = 0
    _heading: str = ""
    _numbered_headings: list[str] = field(default_factory=list)
    _items: list[_Item] = field(default_factory=list)
    _role: str = ""  # whose words the next ones are, of an example
    _asked: str | None = None
    _said: list[str] = field(default_factory=list)
    _unlabelled: list[str] = field(default_factory=list)  # code blocks of examples
    _in_item: bool = False
    _in_paragraph: bool = False

    def read(self, lines: list[str]) -> None:
        n = 0
        while n < len(lines):
            fence = FENCE.match(lines[n])
            if fence is None:
                self._line(lines[n])
                n += 1
                continue
            end = _closing(lines, n, fence.group(1))
            indent = len(lines[n]) - len(lines[n].lstrip(" "))
            self._code("\n".join(line[min(indent, len(line) - len(line.lstrip(" "))) :] for line in lines[n + 1 : end]))
            n = end + 1
        self._end_value()
        self._pair_blocks()

    def steps(self) -> list[str]:
        named = [
            one for one in self._items if STEP_WORDS.search(one.heading) and not NUMBERED_HEADING.match(one.heading)
        ]
        if not named and len(self._numbered_headings) > 1:
            return self._numbered_headings
        numbered = [item for item in self._items if item.is_numbered]
        return [text for item in named or numbered or self._items if (text := _inline(item.text))]

    def _line(self, line: str) -> None:
        if not line.strip():
            if self._said:
                self._end_value()
            self._in_item = self._in_paragraph = False
        elif (found := ATX.match(line)) is not None:
            self._end_value()
            self._head(len(found.group(1)), (found.group(2) or "").strip())
        elif (found := LABEL.match(line)) is not None and self._may_be_label(found):
            self._label(found.group(1).lower(), found.group(2))
        elif self._role:
            self._said.append(line.strip())
        elif (found := ITEM.match(line)) is not None:
            self._item(len(found.group(1).expandtabs(4)), found.group(2) is not None, found.group(3))
        elif self._items and (self._in_item or line.startswith("  ")):
            self._items[-1].text += " " + line.strip()
        else:
            self.paragraphs += not self._in_paragraph and self._heading != ANSWER_FORMAT
            self._in_paragraph = True

    def _may_be_label(self, found: re.Match[str]) -> bool:
        """An answer needs a question before it; within an item, "User: …" may be about a user."""
        if found.group(1).lower() not in ASKS:
            return self._asked is not None or self._role == "user"
        return self._in_examples() or not self._in_item or not found.group(2).strip()

    def _in_examples(self) -> bool:
        return "example" in self._heading.lower()

    def _head(self, level: int, text: str) -> None:
        self._pair_blocks()
        self._in_item = False
        if (found := LABEL.match(text + ":")) is not None and not found.group(2):
            self._label(found.group(1).lower(), "")
            return
        self._asked = None
        self._heading = text
        if level == 1 and self.title is None:
            self.title = _inline(text)
        elif level > 1 and (found := NUMBERED_HEADING.match(text)) is not None:
            self._numbered_headings.append(_inline(found.group(1)))

    def _label(self, word: str, rest: str) -> None:
        self._end_value()
        self._role = "user" if word in ASKS else "assistant"
        if rest.strip():
            self._said.append(rest.strip())

    def _code(self, text: str) -> None:
        if self._role:
            if self._said:  # "Input: as follows" and then the block
                self._said.clear()
            self._say(text)
        elif self._in_examples():
            self._unlabelled.append(text)
        else:
            self.code_blocks += self._heading != ANSWER_FORMAT

    def _end_value(self) -> None:
        if self._said:
            text = "\n".join(self._said)
            self._said.clear()
            self._say(text)

    def _say(self, text: str) -> None:
        if self._role == "user":
            self._asked = text
        elif self._asked is not None:
            self.examples.append(Example(self._asked, text))
            self._asked = None
        self._role = ""

    def _pair_blocks(self) -> None:
        if len(self._unlabelled) % 2 == 0:
            pairs = zip(self._unlabelled[::2], self._unlabelled[1::2], strict=True)
            self.examples += [Example(asked, said) for asked, said in pairs]
        else:
            self.code_blocks += len(self._unlabelled)
        self._unlabelled.clear()

    def _item(self, indent: int, is_numbered: bool, text: str) -> None:
        last = self._items[-1] if self._items else None
        self._in_item = True
        if last is not None and last.heading == self._heading and indent > last.indent + 1:
            last.text += (" " if last.text.endswith((":", ".", ";", ",")) else "; ") + text
        elif not OTHER_WORDS.search(self._heading) or STEP_WORDS.search(self._heading):
            self._items.append(_Item(text, is_numbered, self._heading, indent))


def _closing(lines: list[str], start: int, fence: str) -> int:
    """The number of the line that ends a code block; past the last one where nothing does."""
    for n in range(start + 1, len(lines)):
        bare = lines[n].strip()
        if bare.startswith(fence) and not bare.strip(fence[0]):
            return n
    return len(lines)


def _inline(text: str) -> str:
    text = BOLD.sub(r"\2", LINK.sub(r"\1", IMAGE.sub("", text)))
    return " ".join(text.split())
