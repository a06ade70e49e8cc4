"""Shards as people, files, bundles and other gateways write them: read strictly, and shown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gateway.errors import InvalidRequest
from gateway.shards import OPERATOR, Case, Example, Json, Kind, Origin, Scope, Shard, Standing, Trust
from gateway.shards.writing import as_json
from gateway.trace import new_id

MAX_BYTES = 64 * 1024
MAX_FILE_CHARS = 8 * 2**20
MAX_FACT = 600
MAX_PASSAGE = 6000
MAX_EXAMPLE = 4000  # each side
MAX_EXAMPLES = 40
MAX_QUESTIONS = 16
MAX_CASES = 64
MAX_TRIGGER = 6000  # a process shard's may be a whole system prompt
GIVEN_BY_US = frozenset(
    {"id", "tenant", "writer", "trust", "state", "evidence", "revision", "author", "version", "created", "updated"}
    | {"source_hash", "lot", "supersedes", "why", "readers", "object"}
)
FROM_GATEWAYS = ("feed:", "bundle:")
"""What the sources of shards from other gateways begin with; nobody else's may."""
NOT_FIELDS = frozenset({"messages", "prompt", "model", "stream"})
JSON_ALONE = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _text(value: str) -> str:
    if UNPRINTABLE.search(value):
        raise ValueError("control characters are not allowed")
    return value


def _said(value: str) -> str:
    if not value.strip():
        raise ValueError("it is empty")
    return _text(value)


Name = Annotated[str, StringConstraints(max_length=256), AfterValidator(_said)]
Line = Annotated[str, StringConstraints(max_length=500), AfterValidator(_said)]
Side = Annotated[str, StringConstraints(max_length=MAX_EXAMPLE), AfterValidator(_said)]
Text = Annotated[str, StringConstraints(max_length=MAX_TRIGGER), AfterValidator(_text)]
Short = Annotated[str, StringConstraints(max_length=500), AfterValidator(_text)]
Number = Annotated[float, Field(ge=-1e11, le=1e11)]


class ExampleSpec(BaseModel):
    model_config = STRICT

    user: Side
    assistant: Side


class CaseMessage(BaseModel):
    """Other fields of a message are left as they are."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None


class CaseSpec(BaseModel):
    model_config = STRICT

    messages: Annotated[list[CaseMessage], Field(min_length=1, max_length=64)] | None = None
    prompt: Annotated[str, StringConstraints(max_length=20_000), AfterValidator(_said)] | None = None
    accepted: Annotated[list[Side], Field(min_length=1, max_length=32)]
    origin: Literal["source", "paraphrase", "held_out", "control"] = "source"
    fields: Annotated[dict[str, Any], Field(max_length=16)] = {}


class ShardSpec(BaseModel):
    model_config = STRICT

    kind: Literal["process", "content", "memory"]
    title: Annotated[str, StringConstraints(max_length=200), AfterValidator(_text)] = ""
    trigger: Text = ""
    questions: Annotated[list[Line], Field(max_length=MAX_QUESTIONS)] = []
    fact: Annotated[str, StringConstraints(max_length=MAX_FACT), AfterValidator(_text)] = ""
    passage: Annotated[str, StringConstraints(max_length=MAX_PASSAGE), AfterValidator(_text)] = ""
    steps: Annotated[list[Line], Field(max_length=16)] = []
    examples: Annotated[list[ExampleSpec], Field(max_length=MAX_EXAMPLES)] = []
    checks: Annotated[list[str | dict[str, Any]], Field(max_length=16)] = []
    options: Annotated[list[Name], Field(max_length=64)] = []
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    cases: Annotated[list[CaseSpec], Field(max_length=MAX_CASES)] = []
    for_models: Annotated[list[Name], Field(max_length=32)] = []
    slot: Short = ""
    scope: Literal["user", "tenant", "global"] | None = None
    user: Name | None = None
    valid_from: Number | None = None
    valid_to: Number | None = None
    source: Short = ""
    needs_review: bool = False


KEYS = tuple(field.alias or name for name, field in ShardSpec.model_fields.items())
"""All that a body may hold."""


def read_shard(
    data: object,
    *,
    id: str | None = None,
    tenant: str = OPERATOR,
    writer: str = OPERATOR,
    trust: Trust = Trust.OPERATOR,
    author: str = "hand",
) -> Shard:
    """A shard as somebody has written it, a candidate. What a body may never set is given by the caller.

    Args: `id`: None for a new one. Raises: InvalidRequest, with `param` naming the key at fault.
    """
    if not isinstance(data, Mapping):
        raise InvalidRequest("a shard must be an object")
    given = {name: value for name, value in data.items() if value is not None}
    _weigh(given)
    _check_names(given)
    try:
        spec = ShardSpec.model_validate(given)
    except ValidationError as exc:
        _refuse(exc)
    scope = _check_together(spec)
    return Shard(
        id=id or new_id(),
        kind=Kind(spec.kind),
        tenant=tenant,
        scope=scope,
        user=spec.user,
        title=spec.title,
        trigger=spec.trigger,
        questions=tuple(spec.questions),
        fact=spec.fact.strip(),
        passage=spec.passage.strip(),
        steps=tuple(spec.steps),
        examples=tuple(Example(one.user, one.assistant) for one in spec.examples),
        checks=tuple(spec.checks),
        options=tuple(spec.options),
        schema=spec.json_schema,
        cases=tuple(_case(one, n) for n, one in enumerate(spec.cases)),
        for_models=tuple(spec.for_models),
        slot=spec.slot,
        source=spec.source,
        author=author,
        writer=writer,
        trust=trust,
        needs_review=spec.needs_review,
        valid_from=spec.valid_from,
        valid_to=spec.valid_to,
    )


def _weigh(data: Json) -> None:
    try:
        size = len(orjson.dumps([[[[[[data]]]]]], option=JSON_ALONE))  # it will stand in lists and objects of ours
    except TypeError as exc:  # too deep, half a surrogate pair, a date of a YAML file, a key that is no text
        raise InvalidRequest(f"a shard must be JSON: {exc}") from None
    if size > MAX_BYTES:
        raise InvalidRequest(f"a shard may take {MAX_BYTES // 1024} KB, and this one takes {size // 1024 + 1}")


def _check_names(data: Json) -> None:
    for name in data:
        if name in GIVEN_BY_US:
            raise InvalidRequest(f"'{name}' may not be set: the gateway sets it", param=name)
        if name not in KEYS:
            close = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.6)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise InvalidRequest(f"a shard has no '{name[:60]}'{hint}", param=name[:60])


def _refuse(exc: ValidationError) -> NoReturn:
    first = exc.errors(include_url=False, include_input=False)[0]
    param = ""
    for part in first["loc"]:
        if isinstance(part, int):
            param += f"[{part}]"
        elif part not in ("str", "[key]") and not part.startswith(("dict[", "list[")):  # branches of a union
            param += f".{part}" if param else part
    said = "it is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
    raise InvalidRequest(f"'{param}': {said}", param=param) from None


def _check_together(spec: ShardSpec) -> Scope:
    """Returns the scope. Raises: InvalidRequest for what does not go together."""
    if spec.kind == "process":
        if not (spec.examples or spec.steps or spec.options):
            raise InvalidRequest("a process shard needs 'examples', 'steps' or 'options'", param="examples")
    elif not (spec.fact.strip() or spec.passage.strip()):
        raise InvalidRequest(f"a {spec.kind} shard needs a 'fact' or a 'passage'", param="fact")
    scope = Scope(spec.scope or (Scope.USER if spec.user is not None else Scope.TENANT))
    if scope is Scope.USER and spec.user is None:
        raise InvalidRequest("a shard with scope 'user' needs a 'user'", param="user")
    if scope is not Scope.USER and spec.user is not None:
        raise InvalidRequest(f"a shard with scope '{scope}' has no 'user'", param="user")
    if spec.valid_from is not None and spec.valid_to is not None and spec.valid_to <= spec.valid_from:
        raise InvalidRequest("'valid_to' must be after 'valid_from'", param="valid_to")
    if spec.source.startswith(FROM_GATEWAYS):
        names = " and ".join(f"'{name}'" for name in FROM_GATEWAYS)
        raise InvalidRequest(f"{names} name shards that come from other gateways", param="source")
    for n, one in enumerate(spec.checks):
        if isinstance(one, dict) and len(one) != 1 or not one:
            raise InvalidRequest("a check is a name, or a name with its parameters", param=f"checks[{n}]")
    return scope


def _case(spec: CaseSpec, n: int) -> Case:
    if (spec.messages is None) == (spec.prompt is None):
        raise InvalidRequest("a case needs 'messages' or a 'prompt', one of both", param=f"cases[{n}].messages")
    wrong = NOT_FIELDS & spec.fields.keys()
    if wrong:
        name = min(wrong)
        raise InvalidRequest(f"'{name}' is no further field of a request", param=f"cases[{n}].fields.{name}")
    if spec.messages is None:
        messages: tuple[Json, ...] = ({"role": "user", "content": spec.prompt},)
    else:
        messages = tuple(message.model_dump(exclude_unset=True) for message in spec.messages)
    return Case(messages, tuple(spec.accepted), Origin(spec.origin), spec.fields)


def shown(shard: Shard, standings: Iterable[Standing]) -> Json:
    """As `GET /v1/shards/{id}` answers it: every field, and how it stands with its readers."""
    changed = as_json(shard)
    told: Json = {"object": "shard"}
    for field in fields(Shard):
        told[field.name] = changed.get(field.name, [] if field.default == () else field.default)
    told["revision"] = shard.revision
    told["readers"] = {
        one.reader: {
            "state": str(one.state),
            "fingerprint": one.fingerprint,
            "evidence": one.evidence,
            "shown": one.shown,
            "shown_passed": one.shown_passed,
            "withheld": one.withheld,
            "withheld_passed": one.withheld_passed,
            "updated": one.updated,
        }
        for one in standings
        if one.shard == shard.id
    }
    return told


def written_in(path: Path) -> list[Shard]:
    """The shard, or the list of them, that somebody has written in a YAML or JSON file.

    Raises: InvalidRequest, OSError.
    """
    import yaml

    text = path.read_text("utf-8")
    if len(text) > MAX_FILE_CHARS:
        raise InvalidRequest(f"{path} is larger than {MAX_FILE_CHARS // 2**20} MB", param="shards")
    try:
        data = orjson.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, orjson.JSONDecodeError) as exc:
        raise InvalidRequest(f"{path} cannot be read: {exc}", param="shards") from None
    return [read_shard(one) for one in (data if isinstance(data, list) else [data])]
