"""Pydantic's errors as problems with a file, a line and a key."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gateway.config.lines import Document, Loc, nearest
from gateway.errors import Problem


def problems_of(exc: ValidationError, document: Document, at: Loc, kind: type[BaseModel]) -> Iterator[Problem]:
    """`at` is where in the document the validated value stands; `kind` the model it was held against."""
    errors = exc.errors(include_input=False, include_url=False)
    for error in errors:
        if error["type"] == "too_short" and any(_is_inside(other["loc"], error["loc"]) for other in errors):
            continue  # a list is short only because its items are wrong
        inside = _real_path(error["loc"], document.value_at(at))
        loc = (*at, *inside)
        message, hint = error["msg"].removeprefix("Value error, "), ""
        if error["type"] == "extra_forbidden":
            message = "unknown key"
            hint = nearest(str(inside[-1]), _keys_at(kind, inside[:-1]))
        elif error["type"] == "missing":
            message, loc = (
                f"'{error['loc'][-1]}' is missing",
                (*at, *inside[:-1]) if inside and inside[-1] == error["loc"][-1] else loc,
            )
        elif error["type"] == "literal_error":
            message = f"is not one of {error['ctx']['expected']}"
        elif error["type"] == "string_pattern_mismatch":
            message = f"does not look right (pattern {error['ctx']['pattern']})"
        yield document.problem(loc, message, hint)


def _is_inside(loc: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(loc) > len(outer) and loc[: len(outer)] == outer


def _real_path(loc: tuple[int | str, ...], data: Any) -> Loc:
    """The path without the marks that pydantic puts in for unions and validators."""
    out: list[int | str] = []
    for position, part in enumerate(loc):
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif isinstance(data, dict) and position == len(loc) - 1 and isinstance(part, str):
            pass  # the key that is missing
        else:
            continue
        out.append(part)
    return tuple(out)


def _keys_at(kind: type[BaseModel], loc: Loc) -> list[str]:
    """Keys that the model allows at a path."""
    here: Any = kind
    for part in loc:
        model = next(_models_in(here), None)
        if model is not None and isinstance(part, str) and part in model.model_fields:
            here = model.model_fields[part].annotation
    model = next(_models_in(here), None)
    return list(model.model_fields) if model else []


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, tuple, list, dict) or get_args(annotation):
        for inner in get_args(annotation):
            yield from _models_in(inner)
