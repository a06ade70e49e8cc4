"""JSON Schema for checks. Clients send schemas, so nothing here may fetch, hang, crash or fill memory.

- No `$ref` is fetched: only those into the schema itself are followed, and the library runs offline.
- `jsonschema_rs.is_valid` remembers recursive parts but not shared ones: two references a level make 2**level steps. So
  a schema is weighed first (its subschemas, every `$ref` unfolded; 17 ns a step) and refused when too heavy.
- Its error messages carry every branch of `anyOf` and `oneOf`, with the instance in each: 25,000 of them took 0.7 s and
  70 MB. So a fault is found with `is_valid`, and told from a copy of the schema without these two.
- A client's patterns are matched in linear time. Those that need look-around or are too large are not checked.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import jsonschema_rs
import orjson

MAX_SIZE_BYTES = 262_144
MAX_WEIGHT = 10_000
MAX_DEPTH = 100
MAX_PATTERNS = 100
MAX_SKIPPED_PATTERNS = 10
MAX_WORK = 100_000_000  # steps times characters of the instance: a second at the very worst
MAX_REASON_CHARS = 160

LINEAR = jsonschema_rs.RegexOptions(size_limit=1 << 19)
BACKTRACKING = jsonschema_rs.FancyRegexOptions(backtrack_limit=10_000, size_limit=1 << 22)

MAPS_OF_SCHEMAS = frozenset({"properties", "patternProperties", "dependentSchemas", "dependencies"})
SCHEMAS = frozenset(
    {"items", "prefixItems", "additionalItems", "unevaluatedItems", "contains", "additionalProperties", "propertyNames"}
    | {"unevaluatedProperties", "allOf", "anyOf", "oneOf", "not", "if", "then", "else"}
)

RawSchema = dict[str, Any] | bool
Engine = jsonschema_rs.RegexOptions | jsonschema_rs.FancyRegexOptions


class SchemaError(ValueError):
    """The schema cannot be used. The message starts with "schema is not valid JSON Schema" and fits a verdict."""

    def __init__(self, message: str) -> None:
        super().__init__(f"schema is not valid JSON Schema: {message}"[:MAX_REASON_CHARS])


@dataclass(frozen=True, slots=True)
class Weight:
    """`steps`: its subschemas with every `$ref` unfolded, recursive ones once."""

    steps: int
    is_recursive: bool


@dataclass(frozen=True, slots=True)
class Schema:
    raw: RawSchema
    validator: jsonschema_rs.Validator
    weight: Weight
    engine: Engine

    def fault(self, instance: object, size_chars: int) -> str | None:
        """What is wrong with a parsed instance that took `size_chars` to write; None where nothing is."""
        if self.weight.steps * size_chars > MAX_WORK:
            return "too large to be validated"
        if self.validator.is_valid(instance):
            return None
        return f"does not match the schema{self._detail(instance)}"[:MAX_REASON_CHARS]

    def _detail(self, instance: object) -> str:
        if self.weight.is_recursive:
            return ""
        try:
            validator_of(without_branches(self.raw), self.engine).validate(instance)
        except jsonschema_rs.ValidationError as exc:
            return f": {told(exc)}"
        return ""


def client_schema(raw: RawSchema) -> Schema:
    """Compiled for one use: what clients send is not kept.

    Raises: SchemaError.
    """
    return compiled(raw, serialise(raw), LINEAR)


def operator_schema(raw: RawSchema) -> Schema:
    """Compiled once. Patterns may use look-around.

    Raises: SchemaError.
    """
    return kept(serialise(raw))


@functools.lru_cache(maxsize=256)
def kept(serialised: bytes) -> Schema:
    return compiled(orjson.loads(serialised), serialised, BACKTRACKING)


def serialise(raw: RawSchema) -> bytes:
    try:
        return orjson.dumps(raw)
    except (TypeError, orjson.JSONEncodeError) as exc:
        raise SchemaError(str(exc)) from exc


def compiled(raw: RawSchema, serialised: bytes, engine: Engine) -> Schema:
    if len(serialised) > MAX_SIZE_BYTES:
        raise SchemaError(f"larger than {MAX_SIZE_BYTES:,} bytes")
    weight = weigh(raw)
    try:
        return Schema(raw, validator_of(raw, engine), weight, engine)
    except ValueError as exc:
        checkable = without_unbounded_patterns(raw) if engine is LINEAR else raw
        if checkable == raw:
            raise SchemaError(told(exc)) from exc
    try:
        return Schema(checkable, validator_of(checkable, engine), weight, engine)
    except ValueError as exc:
        raise SchemaError(told(exc)) from exc


def validator_of(raw: RawSchema, engine: Engine) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(raw, offline=True, mask="value", pattern_options=engine)


def told(exc: ValueError) -> str:
    """Where the fault is and what it is, without the value."""
    if not isinstance(exc, jsonschema_rs.ValidationError):
        return str(exc)  # nested too deeply
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in exc.instance_path)
    return f"{place.lstrip('.')}: {exc.message}" if place else exc.message


def weigh(root: RawSchema) -> Weight:
    """Count the steps of a validation that visits everything.

    Raises: SchemaError where the schema is too heavy, or refers to something that is not in it.
    """
    steps, is_recursive = 0, False
    patterns: set[str] = set()
    id_keyword = "id" if isinstance(root, dict) and "draft-04" in str(root.get("$schema")) else "$id"

    def visit(schema: object, depth: int, following: frozenset[str]) -> None:
        nonlocal steps, is_recursive
        if not isinstance(schema, dict):
            return
        steps += 1 + comparisons_of(schema)
        if steps > MAX_WEIGHT or depth > MAX_DEPTH:
            raise SchemaError("too large" if steps > MAX_WEIGHT else "nested too deeply")
        if schema is not root and isinstance(schema.get(id_keyword), str):
            raise SchemaError(f"{id_keyword} below the root is not supported")
        if "$dynamicRef" in schema or "$recursiveRef" in schema:
            raise SchemaError("dynamic references are not supported")
        patterns.update(patterns_of(schema))
        if len(patterns) > MAX_PATTERNS:
            raise SchemaError(f"more than {MAX_PATTERNS} patterns")
        reference = schema.get("$ref")
        for _ in range(passes_over(schema)):
            if isinstance(reference, str):
                if reference in following:
                    is_recursive = True
                else:
                    visit(target_of(reference, root), depth + 1, following | {reference})
            for subschema in subschemas_of(schema):
                visit(subschema, depth + 1, following)

    visit(root, 0, frozenset({"#"}))
    return Weight(steps, is_recursive)


def subschemas_of(schema: dict[str, Any]) -> Iterator[object]:
    """What is applied along with a schema; definitions count where they are referred to."""
    for keyword, value in schema.items():
        if keyword in MAPS_OF_SCHEMAS and isinstance(value, dict):
            yield from value.values()
        elif keyword in SCHEMAS:
            yield from value if isinstance(value, list) else (value,)


def passes_over(schema: dict[str, Any]) -> int:
    """How often its subschemas are gone through: finding out what is unevaluated is done anew at every level."""
    return 3 if "unevaluatedProperties" in schema or "unevaluatedItems" in schema else 1


def comparisons_of(schema: dict[str, Any]) -> int:
    """Steps that come from long keywords. Objects and arrays of an `enum` are compared one by one, 0.5 µs each."""
    options, dependencies = schema.get("enum"), schema.get("dependentRequired", schema.get("dependencies"))
    structured = sum(isinstance(option, (dict, list)) for option in options) if isinstance(options, list) else 0
    return 30 * structured + (len(dependencies) if isinstance(dependencies, dict) else 0)


def patterns_of(schema: dict[str, Any]) -> Iterator[str]:
    if isinstance(schema.get("pattern"), str):
        yield schema["pattern"]
    if isinstance(schema.get("patternProperties"), dict):
        yield from schema["patternProperties"]


def target_of(reference: str, root: RawSchema) -> object:
    """The part of the schema that a reference like `#/$defs/Name` points to."""
    target: object = root
    if reference != "#":
        if not reference.startswith("#/"):
            raise SchemaError(f"$ref {reference!r} is not of the form #/$defs/Name")
        for step in unquote(reference[2:]).split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and step in target:
                target = target[step]
            elif isinstance(target, list) and step in map(str, range(len(target))):
                target = target[int(step)]
            else:
                raise SchemaError(f"$ref {reference!r} points to nothing")
    return target


def without_branches(schema: Any) -> Any:
    """A copy without `anyOf` and `oneOf`."""
    if isinstance(schema, dict):
        return {key: without_branches(value) for key, value in schema.items() if key not in ("anyOf", "oneOf")}
    return [without_branches(value) for value in schema] if isinstance(schema, list) else schema


def without_unbounded_patterns(schema: Any) -> Any:
    """A copy without the patterns that cannot be matched in linear time or little memory; those that are wrong stay."""
    tried = 0

    def is_unbounded(pattern: object) -> bool:
        nonlocal tried
        if not isinstance(pattern, str) or tried == MAX_SKIPPED_PATTERNS or compiles(pattern, LINEAR):
            return False
        tried += 1
        return compiles(pattern, BACKTRACKING)

    def copy(schema: Any) -> Any:
        if isinstance(schema, list):
            return [copy(value) for value in schema]
        if not isinstance(schema, dict):
            return schema
        return {key: copy(value) for key, value in schema.items() if key != "pattern" or not is_unbounded(value)}

    return copy(schema)


def compiles(pattern: str, engine: Engine) -> bool:
    try:
        validator_of({"pattern": pattern}, engine)
    except jsonschema_rs.ValidationError:
        return False
    return True
