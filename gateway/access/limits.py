"""What a key may do: the names it may ask for, how often, how much at once, and for how much money."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.errors import InvalidRequest

Count = Annotated[int, Field(ge=1, le=2**53)]
Dollars = Annotated[float, Field(ge=0)]
PRIORITIES = {"low": -1, "normal": 0, "high": 1}


class Limits(BaseModel):
    """None: without a limit. Days and months are UTC's.

    Args:
        allow: policies, their aliases, and models that may be asked for; `*` and `?` stand for any characters.
        concurrent: requests, streams among them, that may be open at once.
        over_budget: what becomes of a request once a sum of money is spent: it is refused, or only models without a
            price may answer it.
        priority: who waits less where requests queue, and whose requests are turned away first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    allow: tuple[Annotated[str, Field(min_length=1, max_length=128)], ...] | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrent: Count | None = None
    usd_per_day: Dollars | None = None
    usd_per_month: Dollars | None = None
    tokens_per_day: Count | None = None
    tokens_per_month: Count | None = None
    over_budget: Literal["refuse", "free"] = "refuse"
    priority: Literal["low", "normal", "high"] = "normal"

    def allows(self, name: str) -> bool:
        return self.allow is None or any(fnmatchcase(name, one) for one in self.allow)

    @property
    def counts_tokens(self) -> bool:
        return (self.tokens_per_minute, self.tokens_per_day, self.tokens_per_month) != (None, None, None)

    @property
    def counts_money(self) -> bool:
        return self.usd_per_day is not None or self.usd_per_month is not None

    @property
    def are_counted(self) -> bool:
        """Is there anything to count?"""
        counts = self.requests_per_minute, self.concurrent
        return counts != (None, None) or self.counts_tokens or self.counts_money

    def as_json(self) -> dict[str, Any]:
        """What is limited, and no more."""
        return self.model_dump(mode="json", exclude_defaults=True)


NO_LIMITS = Limits()


def read_limits(said: Mapping[str, Any]) -> Limits:
    """Raises: InvalidRequest, with `param` naming the one at fault."""
    try:
        return Limits.model_validate(said)
    except ValidationError as exc:
        fault = exc.errors()[0]
        name = ".".join(str(part) for part in fault["loc"])
        raise InvalidRequest(f"'{name}': {fault['msg']}", param=name) from None
