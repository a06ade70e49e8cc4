"""JSON that is still being written is failed as soon as nothing can mend it, and never sooner."""

from __future__ import annotations

import re
import tracemalloc

import jsonschema_rs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.chat import ChatRequest
from gateway.checks import growing_json as gj
from gateway.checks.growing_json import GrowingJson, Guide
from gateway.checks.json import Json
from gateway.checks.json_schema import JsonSchema
from gateway.checks.tool_arguments import ToolArguments
from gateway.chunks import Chunk

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
OPTIONS = st.sampled_from([None, orjson.OPT_INDENT_2])
JSONISH = st.text(st.sampled_from('{}[]",:\\u0123eE.+-tfnrulase \n`j'), max_size=24)


def first_fault(text: str, growing: GrowingJson) -> int | None:
    """How many characters it took."""
    for count, char in enumerate(text, 1):
        if growing.feed(char) is not None:
            return count
    return None


def is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


@settings(max_examples=60, deadline=None)
@given(value=VALUES, option=OPTIONS)
def test_no_beginning_of_valid_json_is_failed(value: object, option: int | None) -> None:
    text = orjson.dumps(value, option=option).decode()
    assert first_fault(text, GrowingJson()) is None
    assert first_fault(f" \n{text}\n", GrowingJson(fenced=True)) is None
    for fence in ("```json\n", "```JSON ", "``` "):
        assert first_fault(f"\n{fence}{text}\n```\n ", GrowingJson(fenced=True)) is None
        assert first_fault(f"{fence}{text}```", GrowingJson()) is not None


@settings(max_examples=40, deadline=None)
@given(text=JSONISH)
def test_what_is_failed_is_not_json(text: str) -> None:
    if first_fault(text, GrowingJson()) is not None:
        assert not is_json(text)


def ending(growing: GrowingJson) -> str:
    """What makes valid JSON of a beginning that is not at fault."""
    state, closing = growing._state, ""
    if state == gj.ESCAPE:
        closing = "n"
    elif state == gj.CODE:
        closing = "0" * growing._digits_left
    if state in (gj.STRING, gj.ESCAPE, gj.CODE):
        closing += '":0' if growing._is_key else '"'
    elif state == gj.NUMBER and growing._number not in gj.WHOLE_NUMBERS:
        closing = "0"
    elif state == gj.WORD:
        closing = growing._rest
    else:
        closing = {gj.START: "0", gj.VALUE: "0", gj.KEY: '"k":0', gj.COLON: ":0"}.get(state, "")
    return closing + "".join("}" if frame.is_object else "]" for frame in reversed(growing._open))


@settings(max_examples=120, deadline=None)
@given(value=VALUES, place=st.integers(0, 60), wrong=JSONISH, cut=st.integers(0, 80))
def test_what_is_not_failed_can_still_become_json(value: object, place: int, wrong: str, cut: int) -> None:
    text = orjson.dumps(value).decode()
    text = text[:place] + wrong + text[place:]
    growing = GrowingJson()
    growing.feed(text[:cut])
    # Half a surrogate pair and a number too large for a float are left to the whole draft.
    if growing.feed(text[cut:]) is None and not re.search(r"\\ud|e\+?\d{3}", text.lower()):
        assert is_json(text + ending(growing))


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("Sure! Here is the JSON", 1),
        ("```json\n{}", 1),
        ('{"a": 1,}', 9),
        ("{'a': 1}", 2),
        ('{"a": nope}', 8),
        ('{"a": "one\ntwo"}', 11),
        ('{"a": 1} Note that', 10),
        ("[1 2]", 4),
        ("[01]", 3),
        ('{"a" 1}', 6),
        ('{"a": \\"b\\"}', 7),
        ('["\\x41"]', 4),
        ("[" * 1025, 1025),
        ("[1, // one\n", 5),
        ("[.5]", 2),
        ("[1.]", 4),
        ("[NaN]", 2),
    ],
)
def test_where_a_fault_is_found(text: str, after: int) -> None:
    assert first_fault(text, GrowingJson()) == after
    assert not is_json(text)


@pytest.mark.parametrize(
    "text", ["```jsonc\n{}", "```json\n{}``x", "```\n{} ```\nand more", "```json\n{} x", "``x", "```json\n```json\n{}"]
)
def test_a_fence_is_one_fence(text: str) -> None:
    assert first_fault(text, GrowingJson(fenced=True)) is not None
    assert Json(fenced=True).fault(choice_of(text)) is not None


TICKET = {
    "type": "object",
    "properties": {
        "queue": {"enum": ["billing", "sales", "déjà vu"]},
        "urgent": {"type": "boolean"},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        "note": {"type": ["string", "null"]},
        "kind": {"const": "ticket"},
    },
    "required": ["queue", "urgent"],
    "additionalProperties": False,
    "$defs": {"line": {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}},
}


@pytest.mark.parametrize(
    "text",
    [
        '{"queue": "billing", "urgent": true}',
        '{"queue": "d\\u00e9j\\u00e0 vu", "urgent": false, "note": null, "lines": [{"count": 1}]}',
        '{"urgent": true, "kind": "ticket", "lines": [], "queue": "sales"}',
    ],
)
def test_what_matches_the_schema_passes(text: str) -> None:
    assert jsonschema_rs.validator_for(TICKET).is_valid(orjson.loads(text))
    assert first_fault(text, GrowingJson(Guide(TICKET))) is None


@pytest.mark.parametrize(
    ("begins", "wrong"),
    [
        ('{"queue": "', "returns"),
        ('{"queue": "bill', "s"),
        ('{"queue": "sales', " "),
        ('{"queue": "sale', '"'),
        ('{"queue": ', "3"),
        ('{"urgent": ', '"yes"'),
        ('{"priority', '"'),
        ('{"queue": "sales"', "}"),
        ('{"lines": ', "{"),
        ('{"lines": [{"count": ', '"two"'),
        ('{"lines": [{', "}"),
        ('{"note": ', "1"),
        ('{"kind": "', "order"),
        ("", "["),
        ("", '"billing"'),
    ],
)
def test_what_does_not_match_the_schema_is_found_where_it_stands(begins: str, wrong: str) -> None:
    assert first_fault(begins + wrong, GrowingJson(Guide(TICKET))) == len(begins) + 1


KEYS = st.sampled_from(["a", "b", "c", "é"])
SMALL = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, "a", "b", "long"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["string", "number", "integer", "object", "array", "boolean", "null"])
SCHEMAS = st.recursive(
    st.booleans()
    | st.fixed_dictionaries({}, optional={"type": TYPES | st.lists(TYPES, min_size=1, unique=True)})
    | st.builds(lambda options: {"enum": options}, st.lists(SMALL, min_size=1, max_size=3))
    | st.builds(lambda option: {"const": option}, SMALL)
    | st.just({"$ref": "#/$defs/shared"}),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES,
            "properties": st.dictionaries(KEYS, inner, max_size=3),
            "required": st.lists(KEYS, unique=True, max_size=2),
            "additionalProperties": inner,
            "patternProperties": st.just({"^a": True}),
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
        },
    ),
    max_leaves=5,
)


@settings(max_examples=80, deadline=None)
@given(schema=SCHEMAS, shared=SCHEMAS, value=SMALL)
def test_what_matches_its_schema_is_never_failed(schema: object, shared: object, value: object) -> None:
    root = {**schema, "$defs": {"shared": shared}} if isinstance(schema, dict) and "$ref" not in schema else schema
    if isinstance(root, dict) and "$ref" in root:
        root = {"properties": {"a": schema}, "$defs": {"shared": shared if shared != schema else True}}
    try:
        validator = jsonschema_rs.validator_for(root)  # type: ignore[arg-type]
    except ValueError:  # a reference that only leads to itself, or into a schema that is `true`
        return
    fault = first_fault(orjson.dumps(value).decode(), GrowingJson(Guide(root)))  # type: ignore[arg-type]
    if fault is not None:
        assert not validator.is_valid(value)


@settings(max_examples=40, deadline=None)
@given(
    schema=st.recursive(
        VALUES,
        lambda inner: st.dictionaries(
            st.sampled_from(
                ["type", "enum", "const", "properties", "required", "items", "additionalProperties", "$ref"]
            ),
            inner | st.lists(inner, max_size=2),
            max_size=4,
        ),
        max_leaves=6,
    )
)
def test_no_schema_makes_it_crash(schema: object) -> None:
    guide = Guide(schema if isinstance(schema, (dict, bool)) else {"properties": schema, "items": schema})
    for text in ('{"a": {"b": [1, "x"]}, "c": null}', '["a", {"b": true}]', "1"):
        GrowingJson(guide).feed(text)


def test_a_long_string_is_not_kept() -> None:
    growing = GrowingJson(Guide({"properties": {"a": {"type": "string"}}}))
    growing.feed('{"a": "')
    piece = "lorem ipsum " * 100
    tracemalloc.start()
    try:
        for _ in range(500):
            assert growing.feed(piece) is None
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()
    assert growing.feed('"}') is None


# --- the checks


def choice_of(text: str):  # type: ignore[no-untyped-def]
    from gateway.draft import ChoiceDraft

    choice = ChoiceDraft(0)
    choice.add({"delta": {"content": text}})
    return choice


def words(text: str, index: int = 0) -> Chunk:
    return Chunk({"choices": [{"index": index, "delta": {"content": text}}]})


def calls(*pieces: dict[str, object]) -> Chunk:
    return Chunk({"choices": [{"index": 0, "delta": {"tool_calls": list(pieces)}}]})


def piece(index: int, **function: str) -> dict[str, object]:
    return {"index": index, "function": function}


REQUEST = ChatRequest({"messages": []})


def test_each_choice_is_read_by_itself() -> None:
    watch = Json().watch(REQUEST)
    assert watch.take(words('{"a": ')) is None
    assert watch.take(words("[", 1)) is None
    assert watch.take(words("1}")) is None
    assert watch.take(words("1]", 1)) is None
    assert watch.take(words("so", 1)) is not None


def test_reasoning_and_white_space_are_no_json_and_no_fault() -> None:
    watch = Json().watch(REQUEST)
    assert watch.take(Chunk({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})) is None
    assert watch.take(Chunk({"choices": [{"index": 0, "delta": {"reasoning_content": "so: "}}]})) is None
    assert watch.take(words("\n")) is None
    assert watch.take(words("nul")) is None
    assert watch.take(words("!")) is not None


def test_the_schema_may_be_the_requests_own() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "t", "schema": {"type": "array"}}}
    assert JsonSchema().watch(REQUEST) is None
    watch = JsonSchema().watch(ChatRequest({"messages": [], "response_format": wanted}))
    assert watch is not None and watch.take(words("{")) is not None
    own = JsonSchema(schema={"type": "object"}).watch(REQUEST)
    assert own is not None and own.take(words("{")) is None


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "parameters": {"properties": {"city": {"type": "string"}}, "additionalProperties": False},
        },
    },
    {"type": "function", "function": {"name": "now"}},
    {"type": "custom", "custom": {"name": "shell"}},
]
WITH_TOOLS = ChatRequest({"messages": [], "tools": TOOLS})


def test_arguments_are_read_as_they_come() -> None:
    watch = ToolArguments().watch(WITH_TOOLS)
    assert watch.take(calls(piece(0, name="look_up", arguments=""))) is None
    assert watch.take(calls(piece(0, arguments='{"city"'))) is None
    assert watch.take(calls(piece(1, name="now", arguments="{}"), piece(0, arguments=': "Paris"}'))) is None
    assert watch.take(calls({"index": 2, "type": "custom", "custom": {"name": "shell", "input": "ls }"}})) is None
    assert watch.take(words("some words, no JSON")) is None


@pytest.mark.parametrize(
    "pieces",
    [
        [piece(0, name="look_down", arguments="{")],
        [piece(0, name="look_up"), piece(0, arguments='{"town"')],
        [piece(0, name="look_up"), piece(0, arguments='{"city": 3')],
        [piece(0, name="now", arguments="[")],
        [piece(0, name="now", arguments="{}"), piece(1, name="now", arguments="{} {")],
        [piece(0, name="now", arguments='"half a string')],
    ],
)
def test_arguments_that_cannot_fit_are_found(pieces: list[dict[str, object]]) -> None:
    watch = ToolArguments().watch(WITH_TOOLS)
    faults = [watch.take(calls(one)) for one in pieces]
    assert faults[-1] is not None and faults[:-1] == [None] * (len(pieces) - 1)


def test_a_legacy_call_is_read_too() -> None:
    request = ChatRequest({"messages": [], "functions": [{"name": "f", "parameters": {"required": ["x"]}}]})
    watch = ToolArguments().watch(request)
    assert watch.take(Chunk({"choices": [{"index": 0, "delta": {"function_call": {"name": "f"}}}]})) is None
    call = {"function_call": {"arguments": "{}"}}
    assert watch.take(Chunk({"choices": [{"index": 0, "delta": call}]})) is not None


def test_pieces_that_nobody_has_numbered_are_left_to_the_whole_draft() -> None:
    watch = ToolArguments().watch(WITH_TOOLS)
    for _ in range(2):
        assert watch.take(calls({"function": {"name": "now", "arguments": "{}"}})) is None
