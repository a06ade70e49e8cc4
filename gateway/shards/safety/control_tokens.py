"""The marks of chat templates, and what is not to be seen: found whatever they are disguised as, and taken out.

A text is looked at as its *skeleton*: plain ASCII where a letter only looks like one, entities and escapes read, what
is invisible left out. Marks are found there, and what stands for them in the text goes.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass

PASSES = 8  # what is left then was nested on purpose

TAG_NAMES = frozenset(
    "bos eos pad unk sop eop eot eom eod think thinking tools tool_call tool_calls tool_response tool_result tool_code "
    "function_call functioncall function_calls function_results system assistant system-reminder end_of_utterance "
    "start_of_turn end_of_turn start_of_image end_of_image im_start im_end im_sep fim_prefix fim_suffix fim_middle "
    "fim_pad file_sep endoftext begin_of_text end_of_text start_header_id end_header_id eot_id eom_id python_tag "
    "message_sep user_token system_token".replace("_", "")
    .replace("-", "")
    .split()
)
PIPE_NAMES = TAG_NAMES | frozenset(
    "user human tool end start message channel turn return call constrain image audio video object box vision "
    "endofprompt diffmarker reponame startofrole endofrole startofturntoken endofturntoken chatbottoken "
    "startoftext beginofsentence endofsentence".split()
)
SECRET_LETTERS = {  # of other alphabets, that look like Latin ones
    **dict(zip("аеорсухіјѕԁһԛԝкмтвн", "aeopcyxijsdhqwkmtbh", strict=True)),
    **dict(zip("АВЕКМНОРСТУХІЈЅԌ", "ABEKMHOPCTYXIJSG", strict=True)),
    **dict(zip("οαερτυνικοχγΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "oaeptuvikoxyABEZHIKMNOPTYX", strict=True)),
    **dict(zip("▁∣│❘ǀ⏐¦‹›〈〉⟨⟩❮❯ıⅼ", "_||||||<><><><>il", strict=True)),
}
SEEN_FORMATS = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd]")
JOINERS = "\u200c\u200d"
FILLERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u3164\uffa0\u2800")

ESCAPED = re.compile(
    r"&(?:#x0*[0-9a-fA-F]{1,6}|#0*[0-9]{1,7}|lt|gt|LT|GT|vert|VerticalLine|verbar|lbrack|rbrack|"
    r"lsqb|rsqb|num|amp|lowbar|"
    r"sol|colon|nbsp|shy|zwnj|zwj|lrm|rlm|ZeroWidthSpace);|%(?:3c|3e|7c|5b|5d|20)|\\u00(?:3c|3e|7c|5b|5d)|"
    r"\\x(?:3c|3e|7c|5b|5d)",
    re.IGNORECASE,
)
ANSI = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
PLAIN = re.compile(r"[\n\t\x20-\x7e]*")

MARKS = re.compile(
    r"(?P<pipes><\s*\|\s*(?P<pipe>/?[A-Za-z_\"][\w\s./:\"-]{0,58}?)\s*\|\s*>)"
    r"|(?P<half><\s*\|\s*(?P<left>[a-z_]{2,30})\s*>|<\s*(?P<right>[a-z_]{2,30})\s*\|\s*>)"
    r"|(?P<exact>(?:<\s*/\s*s\s*>|<s>|</?(?:PRE|SUF|MID|EOT)>|<(?:unused|extra_id_|reserved_|SPECIAL_)\d{1,4}>))"
    r"|(?P<tag><\s*/?\s*(?P<name>[A-Za-z_][\w\s-]{1,40}?)\s*/?\s*>)"
    r"|(?P<call><\s*/?\s*(?:[\w-]{1,12}:)?(?:invoke|tool_?calls?|function_?calls?|tool_response|"
    r"function\s*=|parameter\s*=)"
    r"(?=[\s>:=\w])[^<>]{0,200}>)"
    r"|(?P<brackets>\[\s*/?\s*(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS?|TOOL_RESULTS?|"
    r"TOOL_CONTENT|THINK|gMASK"
    r"|control_\d+)\s*\]|<<\s*/?\s*SYS\s*>>|(?<![\w\])])\[(?:PREFIX|SUFFIX|MIDDLE)\]"
    r"|\[\s*\|\s*/?(?:user|assistant|human|system|ai|endofturn)\s*\|\s*\])"
    r"|(?P<line>(?:(?<=\n)|\A)(?:[ \t>*_]*(?:"
    r"\#{2,4}[ \t]*(?i:instructions?|response|input|system|user|assistant|human)[ \t]*:(?!//)"
    r"|(?:(?i:human|assistant)|USER|SYSTEM|ASSISTANT|GPT4(?: Correct)? (?:User|Assistant))[ \t]*:(?!//)[*_]*)[ \t]*)+)"
    r"|(?P<inline>(?<=[>\]\s.])GPT4(?: Correct)? (?:User|Assistant):)"
)
NESTED = re.compile(r"[<>|\[\]&%\\]")


def clean(text: str) -> str:
    """Without template marks, control characters and what cannot be seen; the rest as it was. What is clean stays as
    it is, however it came to be so."""
    for _ in range(PASSES):
        cleaned = _once(text)
        if cleaned == text:
            return text
        text = cleaned
    text = NESTED.sub("", _plain_marks(text))
    while (cleaned := _once(text)) != text:
        text = cleaned
    return text


def has_marks(text: str) -> bool:
    return _without_marks(visible(text)) != visible(text)


def _once(text: str) -> str:
    return _without_marks(visible(text))


def _plain_marks(text: str) -> str:
    """With marks that merely look like brackets and bars made such, for all of them to go."""
    return "".join(_letter(char) if _letter(char) in "<>|[]" else char for char in text)


def visible(text: str) -> str:
    """The same without control, format and filler characters, lines ended alike. Joiners stay where a script or an
    emoji has use for them."""
    if PLAIN.fullmatch(text):
        return text
    text = ANSI.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    out: list[str] = []
    for place, char in enumerate(text):
        if char in "\n\t" or "\x20" <= char <= "\x7e":
            out.append(char)
        elif char in "\u2028\u2029":
            out.append("\n")
        elif char in JOINERS:
            if out and _joins(out[-1]) and place + 1 < len(text) and _joins(text[place + 1]):
                out.append(char)
        elif not _is_hidden(char, out[-1] if out else ""):
            out.append(char)
    return "".join(out)


def _is_hidden(char: str, before: str) -> bool:
    if "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef":  # variants of what stands before
        return char not in "\ufe0e\ufe0f" or not (
            unicodedata.category(before or " ")[0] == "S" or before in "0123456789#*‼⁉"
        )
    category = unicodedata.category(char)
    return category in ("Cc", "Cs") or char in FILLERS or (category == "Cf" and not SEEN_FORMATS.match(char))


def _joins(char: str) -> bool:
    return unicodedata.category(char) in ("Lo", "Mn", "Mc", "So", "Sk") or char == "\ufe0f"


@dataclass(frozen=True)
class Skeleton:
    """`text` in ASCII as far as may be; `starts` and `ends`: where each of its characters stands in the original."""

    text: str
    starts: list[int]
    ends: list[int]


def skeleton_of(text: str) -> Skeleton:
    chars: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    place = 0
    while place < len(text):
        end = place + 1
        char = text[place]
        if char in "&%\\":
            found = ESCAPED.match(text, place)
            if found:
                end, char = found.end(), _read(found.group())
        for letter in _letter(char):
            chars.append(letter)
            starts.append(place)
            ends.append(end)
        place = end
    return Skeleton("".join(chars), starts, ends)


def _read(escaped: str) -> str:
    if escaped[0] == "&":
        return html.unescape(escaped.lower() if escaped[1] != "#" and escaped.isupper() else escaped)[:1]
    return chr(int(escaped.lstrip("%\\uxUX"), 16))


def _letter(char: str) -> str:
    """What it looks like, as one ASCII character; itself where it looks like none, nothing where it is an accent."""
    if "\x20" <= char <= "\x7e" or char in "\n\t":
        return char
    known = SECRET_LETTERS.get(char)
    if known:
        return known
    category = unicodedata.category(char)
    if category in ("Mn", "Me", "Cf"):
        return ""
    if category == "Zs":
        return " "
    base = unicodedata.normalize("NFKD", char)[:1]
    return SECRET_LETTERS.get(base, base) if base.isascii() or base in SECRET_LETTERS else char


def _without_marks(text: str) -> str:
    if not _may_have_marks(text):
        return text
    if PLAIN.fullmatch(text) and not ESCAPED.search(text):
        return MARKS.sub(lambda found: "" if _is_mark(found) else found.group(), text)
    skeleton = skeleton_of(text)
    kept: list[str] = []
    done = 0
    for found in MARKS.finditer(skeleton.text):
        if _is_mark(found) and found.end() > found.start():
            start, end = skeleton.starts[found.start()], skeleton.ends[found.end() - 1]
            kept.append(text[done:start])
            done = max(done, end)
    return "".join(kept) + text[done:]


def _may_have_marks(text: str) -> bool:
    return not text.isascii() or any(char in text for char in "<[&%\\:#")


def _is_mark(found: re.Match[str]) -> bool:
    kind = found.lastgroup
    if kind in ("pipe", "pipes"):
        name = found["pipe"]
        return not re.search(r"\s", found.group()) or _bare(name) in PIPE_NAMES  # F# and Elm have <| and |>
    if kind in ("half", "left", "right"):
        return _bare(found["left"] or found["right"]) in PIPE_NAMES
    if kind in ("tag", "name"):
        return _bare(found["name"]) in TAG_NAMES
    return True


def _bare(name: str) -> str:
    return re.sub(r"[\s_/.:\"-]", "", name).lower()
