"""JSON that is still being written: can it become valid, and can it still match its schema?

Fails only what no continuation can mend, a key that is said again with another value aside (the last one counts, and
few write one). What a schema says in other words than `type`, `enum`, `const`, `properties`, `required`, `items`,
`additionalProperties` and local `$ref` is left to the whole draft. Memory does not grow with the text: strings are not
kept, except keys and the candidates of an `enum`.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from gateway.checks.schema import SchemaError, target_of

MAX_DEPTH = 1024  # orjson's
MAX_REFERENCES = 16  # followed from one place
MAX_KEPT = 4096  # characters of a key, or of a candidate
MAX_LISTED = 1000  # longer lists of options and keys are not looked at

SPACE = " \t\n\r"
SPACES = re.compile("[ \t\n\r]+")
PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
HEX = frozenset("0123456789abcdefABCDEF")
ESCAPES = frozenset('"\\/bfnrtu')
WORDS = {"t": ("rue", "boolean"), "f": ("alse", "boolean"), "n": ("ull", "null")}
FENCES = ("```", "```json")

# What comes next.
START, VALUE, ITEM_OR_END, KEY, KEY_OR_END, COLON, COMMA_OR_END = range(7)  # where white space may stand
STRING, ESCAPE, CODE, NUMBER, WORD, OPENING, CLOSING, END = range(7, 15)

# Of a number: by what has been read of it, what each character leads to.
MINUS, ZERO, INTEGER, POINT, FRACTION, E, SIGN, EXPONENT = range(8)
DIGITS = "0123456789"
NUMBERS: dict[int, dict[str, int]] = {
    MINUS: {"0": ZERO, **dict.fromkeys("123456789", INTEGER)},
    ZERO: {".": POINT, "e": E, "E": E},
    INTEGER: {**dict.fromkeys(DIGITS, INTEGER), ".": POINT, "e": E, "E": E},
    POINT: dict.fromkeys(DIGITS, FRACTION),
    FRACTION: {**dict.fromkeys(DIGITS, FRACTION), "e": E, "E": E},
    E: {**dict.fromkeys(DIGITS, EXPONENT), "+": SIGN, "-": SIGN},
    SIGN: dict.fromkeys(DIGITS, EXPONENT),
    EXPONENT: dict.fromkeys(DIGITS, EXPONENT),
}
WHOLE_NUMBERS = frozenset({ZERO, INTEGER, FRACTION, EXPONENT})
KINDS = frozenset({"string", "number", "object", "array", "boolean", "null"})


class Broken(Exception):
    pass


class Rules:
    """What a schema says for certain of a value in one place."""

    __slots__ = ("items", "kinds", "longest", "options", "others", "properties", "required")

    def __init__(self, schema: dict[str, Any]) -> None:
        said = schema.get("type")
        types = strings([said]) or strings(said)
        self.kinds = frozenset("number" if one == "integer" else one for one in types) if types else KINDS
        self.options: frozenset[str] | None = None
        listed = [schema["const"]] if "const" in schema else schema.get("enum")
        if isinstance(listed, list) and len(listed) <= MAX_LISTED:
            self.kinds &= {kind_of(option) for option in listed}
            self.options = strings(listed)
        self.longest = max(map(len, self.options), default=0) if self.options is not None else 0
        properties, others = schema.get("properties"), schema.get("additionalProperties")
        self.properties: dict[str, Any] = properties if isinstance(properties, dict) else {}
        self.others = True if "patternProperties" in schema else others
        self.required = strings(schema.get("required"))
        self.items = schema.get("items") if "prefixItems" not in schema else None


def strings(items: object) -> frozenset[str]:
    """Those in a list that is short enough."""
    if not isinstance(items, list) or len(items) > MAX_LISTED:
        return frozenset()
    return frozenset(item for item in items if isinstance(item, str))


ANYTHING = Rules({})
NOTHING = Rules({"enum": []})


class Guide:
    """The rules of a schema, each read when a value first stands in its place."""

    def __init__(self, root: dict[str, Any] | bool) -> None:
        self._root = root
        self._known: dict[int, Rules] = {}
        # Before draft 6 there was no `const`, and what is not known is not obeyed.
        self._has_const = not (isinstance(root, dict) and "draft-04" in str(root.get("$schema")))
        self.top = self.rules(root)

    def rules(self, schema: object) -> Rules:
        """`schema` is a part of the root, which lives as long as this."""
        if not isinstance(schema, dict):
            return NOTHING if schema is False else ANYTHING
        known = self._known.get(id(schema))
        if known is None:
            known = self._known[id(schema)] = self._read(schema)
        return known

    def _read(self, schema: dict[str, Any]) -> Rules:
        target: object = schema
        for _ in range(MAX_REFERENCES):
            if not isinstance(target, dict):
                return NOTHING if target is False else ANYTHING
            reference = target.get("$ref")
            if not isinstance(reference, str):
                is_known = self._has_const or "const" not in target
                return Rules(target if is_known else {name: target[name] for name in target if name != "const"})
            try:
                target = target_of(reference, self._root)
            except SchemaError:
                return ANYTHING
        return ANYTHING


class Frame:
    """An object or an array that is open."""

    __slots__ = ("is_object", "missing", "rules")

    def __init__(self, rules: Rules, is_object: bool) -> None:
        self.rules, self.is_object = rules, is_object
        self.missing: set[str] | None = set(rules.required) if is_object else None  # of the keys that it must have


class GrowingJson:
    """Reads one JSON text in pieces.

    Args:
        guide: of the schema that it is to match; None: any.
        fenced: one Markdown code fence around it is accepted too.
        only_object: nothing but an object will do.
    """

    def __init__(self, guide: Guide | None = None, *, fenced: bool = False, only_object: bool = False) -> None:
        self._guide, self._fenced, self._only_object = guide, fenced, only_object
        self._state = START
        self._open: list[Frame] = []
        self._rules = guide.top if guide is not None else ANYTHING  # of the value that comes
        self._is_key = self._is_bare = False
        self._kept: list[str] | None = None  # of a string, as it was written; None: it does not matter
        self._kept_chars = 0
        self._digits_left = 0  # of an escape
        self._number = MINUS
        self._rest = ""  # of a word or a fence
        self._in_fence = False
        self._read = 0
        self.fault: str | None = None

    def feed(self, text: str) -> str | None:
        """What is wrong with it, once that is certain."""
        if self.fault is None:
            at = 0
            try:
                while at < len(text):
                    at = self._step(text, at)
            except Broken as exc:
                self.fault = f"{exc} after {self._read + at} characters"
            self._read += len(text)
        return self.fault

    def _step(self, text: str, at: int) -> int:
        """Reads something at this place; returns the next one."""
        state = self._state
        if state == STRING:
            return self._in_string(text, at)
        char = text[at]
        if state == NUMBER:
            after = NUMBERS[self._number].get(char)
            if after is not None:
                self._number = after
                return at + 1
            if self._number not in WHOLE_NUMBERS:
                raise Broken("not JSON: a number is wrong")
            self._value_ends()
            return at
        if state <= COMMA_OR_END and (spaces := SPACES.match(text, at)):
            return spaces.end()
        READERS[state](self, char)
        return at + 1

    # -- between strings and numbers -----------------------------------------------------------------------------

    def _start(self, char: str) -> None:
        if char == "`" and self._fenced:
            self._state, self._rest = OPENING, char
        elif not char.isspace():
            self._value(char)

    def _opening(self, char: str) -> None:
        if char.isspace() and self._rest.lower() in FENCES:
            self._in_fence, self._state = True, VALUE
            return
        self._rest += char
        if not FENCES[-1].startswith(self._rest.lower()):
            raise Broken("not JSON")

    def _value(self, char: str) -> None:
        if char == '"':
            self._admit("string")
            self._open_string(is_key=False, keeps=self._rules.options is not None)
        elif char == "{":
            self._open_frame("object")
            self._state = KEY_OR_END
        elif char == "[":
            self._open_frame("array")
            self._rules, self._state = self._rules_of_items(), ITEM_OR_END
        elif char in WORDS:
            self._rest, kind = WORDS[char]
            self._admit(kind)
            self._state = WORD
        elif char == "-" or char in DIGITS:
            self._admit("number")
            self._number, self._state = MINUS if char == "-" else NUMBERS[MINUS][char], NUMBER
        else:
            raise Broken("not JSON: no value")

    def _item_or_end(self, char: str) -> None:
        if char == "]":
            self._close()
        else:
            self._value(char)

    def _key(self, char: str) -> None:
        if char != '"':
            raise Broken("not JSON: no key")
        self._open_string(is_key=True, keeps=self._guide is not None)

    def _key_or_end(self, char: str) -> None:
        if char == "}":
            self._close()
        else:
            self._key(char)

    def _colon(self, char: str) -> None:
        if char != ":":
            raise Broken("not JSON: no colon")
        self._state = VALUE

    def _comma_or_end(self, char: str) -> None:
        is_object = self._open[-1].is_object
        if char == ",":
            self._state = KEY if is_object else VALUE
            if not is_object:
                self._rules = self._rules_of_items()
        elif char == ("}" if is_object else "]"):
            self._close()
        else:
            raise Broken("not JSON: no comma")

    def _word(self, char: str) -> None:
        if char != self._rest[0]:
            raise Broken("not JSON: an unknown word")
        self._rest = self._rest[1:]
        if not self._rest:
            self._value_ends()

    def _end(self, char: str) -> None:
        if char == "`" and self._in_fence:
            self._state, self._rest = CLOSING, char
        elif char not in SPACE:
            raise Broken("not JSON: something follows it")

    def _closing(self, char: str) -> None:
        if len(self._rest) < len(FENCES[0]) and char == "`":
            self._rest += char
        elif len(self._rest) < len(FENCES[0]) or not char.isspace():
            raise Broken("not JSON: something follows it")

    # -- strings -------------------------------------------------------------------------------------------------

    def _open_string(self, *, is_key: bool, keeps: bool) -> None:
        self._state, self._is_key, self._is_bare = STRING, is_key, True
        self._kept, self._kept_chars = [] if keeps else None, 0

    def _in_string(self, text: str, at: int) -> int:
        end = PLAIN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        if self._kept is not None and end > at:
            self._keep(text[at:end])
        if end == len(text):
            return end
        char = text[end]
        if char == '"':
            self._string_ends()
        elif char == "\\":
            self._state, self._is_bare = ESCAPE, False
        else:
            raise Broken("not JSON: a line ends inside a string" if char in "\r\n" else "not JSON: a control character")
        return end + 1

    def _escape(self, char: str) -> None:
        if char not in ESCAPES:
            raise Broken("not JSON: an unknown escape")
        self._state, self._digits_left = (CODE, 4) if char == "u" else (STRING, 0)
        self._keep("\\" + char)

    def _code(self, char: str) -> None:
        if char not in HEX:
            raise Broken("not JSON: an unknown escape")
        self._keep(char)
        self._digits_left -= 1
        if not self._digits_left:
            self._state = STRING

    def _keep(self, piece: str) -> None:
        if self._kept is None:
            return
        self._kept.append(piece)
        self._kept_chars += len(piece)
        if not self._is_key and self._is_bare:
            self._admit_beginning()
        if self._kept_chars > MAX_KEPT:
            self._kept = None

    def _admit_beginning(self) -> None:
        assert self._kept is not None and self._rules.options is not None  # else nothing is kept
        said = "".join(self._kept) if self._kept_chars <= self._rules.longest else None
        if said is None or not any(option.startswith(said) for option in self._rules.options):
            raise Broken("does not match the schema: none of the options")

    def _string_ends(self) -> None:
        said = self._said()
        if self._is_key:
            self._key_ends(said)
            return
        if said is not None and self._rules.options is not None and said not in self._rules.options:
            raise Broken("does not match the schema: none of the options")
        self._value_ends()

    def _said(self) -> str | None:
        if self._kept is None:
            return None
        written = "".join(self._kept)
        if self._is_bare:
            return written
        try:
            said: str = orjson.loads(f'"{written}"')
        except orjson.JSONDecodeError:
            raise Broken("not JSON: half a surrogate pair") from None
        return said

    def _key_ends(self, key: str | None) -> None:
        self._state, self._rules = COLON, ANYTHING
        if self._guide is None:
            return
        frame = self._open[-1]
        if key is None:  # too long to be known
            frame.missing = None
        elif key in frame.rules.properties:
            self._rules = self._guide.rules(frame.rules.properties[key])
        elif frame.rules.others is False:
            raise Broken("does not match the schema: a key that it does not have")
        elif isinstance(frame.rules.others, dict):
            self._rules = self._guide.rules(frame.rules.others)
        if frame.missing is not None and key is not None:
            frame.missing.discard(key)

    # -- values --------------------------------------------------------------------------------------------------

    def _admit(self, kind: str) -> None:
        if self._only_object and not self._open and kind != "object":
            raise Broken("not a JSON object")
        if kind not in self._rules.kinds:
            raise Broken(f"does not match the schema: {kind} in the wrong place")

    def _open_frame(self, kind: str) -> None:
        self._admit(kind)
        if len(self._open) >= MAX_DEPTH:
            raise Broken("not JSON: nested too deeply")
        self._open.append(Frame(self._rules, kind == "object"))

    def _rules_of_items(self) -> Rules:
        rules = self._open[-1].rules
        return self._guide.rules(rules.items) if self._guide is not None and rules.items is not None else ANYTHING

    def _close(self) -> None:
        if self._open.pop().missing:
            raise Broken("does not match the schema: a required key is missing")
        self._value_ends()

    def _value_ends(self) -> None:
        self._state = COMMA_OR_END if self._open else END


READERS = {
    START: GrowingJson._start,
    VALUE: GrowingJson._value,
    ITEM_OR_END: GrowingJson._item_or_end,
    KEY: GrowingJson._key,
    KEY_OR_END: GrowingJson._key_or_end,
    COLON: GrowingJson._colon,
    COMMA_OR_END: GrowingJson._comma_or_end,
    ESCAPE: GrowingJson._escape,
    CODE: GrowingJson._code,
    WORD: GrowingJson._word,
    OPENING: GrowingJson._opening,
    CLOSING: GrowingJson._closing,
    END: GrowingJson._end,
}


def kind_of(value: object) -> str:
    if value is None:
        return "null"
    for kind, types in (("boolean", bool), ("string", str), ("number", (int, float)), ("array", list)):
        if isinstance(value, types):
            return kind
    return "object"
