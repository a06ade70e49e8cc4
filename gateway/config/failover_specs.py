"""What an entry of models.yaml may say about failing: retries, keys, fallbacks, hedging."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

Cause = Literal["context", "content_filter", "modality", "rate", "down", "any"]
PERCENTILE = re.compile(r"p([5-9][0-9])")
OFF = "off"


def _each_once(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise ValueError("has the same twice")
    return value


def _form(value: Any) -> str:
    """Which way to write it is meant; mistakes are then told for that one alone."""
    return "list" if isinstance(value, list | tuple) else "mapping" if isinstance(value, dict) else "one"


def _a_hedge(value: Any) -> Any:
    if value is False or value == OFF:  # what YAML makes of a bare `off`
        return OFF
    if isinstance(value, str) and PERCENTILE.fullmatch(value):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf"):
        return float(value)
    raise ValueError("wants 'off', seconds, or a percentile from p50 to p99")


def is_list(value: Any) -> str:
    return "list" if _form(value) == "list" else "one"


ModelNames = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_each_once)]
ByCause = Annotated[dict[Cause, ModelNames], Field(min_length=1)]
Fallbacks = Annotated[
    Annotated[ModelNames, Tag("list")] | Annotated[ByCause, Tag("mapping")],
    Discriminator(lambda value: "mapping" if _form(value) == "mapping" else "list"),
]
HedgeInput = Literal["off", False] | Annotated[str, Field(pattern=f"^{PERCENTILE.pattern}$")] | float
Hedge = Annotated[str | float, BeforeValidator(_a_hedge, json_schema_input_type=HedgeInput)]
Retries = Annotated[int, Field(ge=0, le=10)]


def by_cause(said: tuple[str, ...] | dict[Cause, tuple[str, ...]]) -> dict[Cause, tuple[str, ...]]:
    return said if isinstance(said, dict) else {"any": said} if said else {}
