"""What was spent, read from the sums by hour: grouped as somebody asks, and against single models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import orjson
from sqlalchemy import ColumnElement, case, func, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.costs.ledger import HOUR_S, RivalSums, UsageSums
from gateway.costs.period import ALWAYS, Period
from gateway.costs.savings import OVERHEAD, PolicySums, Rate, Savings, savings_of
from gateway.store.database import Database
from gateway.store.residency import loaded_s
from gateway.store.tables import DRAFTS, FEEDBACK, JOURNAL, RESIDENCY, RIVALS, USAGE
from gateway.store.usage import DAY_S, HOURS_KEPT_S

ROW = USAGE.c
TIMES = {"hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}  # UTC
GOOD = 0.5  # a rating from 0 to 1
NAMES = ("key", "policy", "route", "model", "layer", "purpose")
GROUPS = (*NAMES, *TIMES)
MEASURES = tuple(one.name for one in fields(UsageSums))


@dataclass(frozen=True, slots=True)
class Spent:
    """`group`: what it is of, in the order that was asked for."""

    group: tuple[str, ...]
    sums: UsageSums

    @property
    def cost_usd(self) -> float | None:
        """None once the cost of any call is not known: `sums` has that of the others."""
        return None if self.sums.unknown_cost else self.sums.cost_usd

    @property
    def energy_j(self) -> float | None:
        """As the cost."""
        return None if self.sums.unknown_energy else self.sums.measured_j + self.sums.modelled_j

    def as_json(self, by: Sequence[str]) -> dict[str, Any]:
        own = {**dict(zip(by, self.group, strict=True)), **asdict(self.sums)}
        own["known_cost_usd"] = own["cost_usd"]
        return {**own, "cost_usd": self.cost_usd, "energy_j": self.energy_j}


@dataclass(frozen=True, slots=True)
class Idle:
    """A model whose server ran here. `idle_usd`: of what its hours cost, what no request has paid; None where the price
    is not known."""

    model: str
    loaded_s: float
    busy_s: float
    idle_s: float
    idle_usd: float | None


def groups_of(said: Sequence[str]) -> tuple[str, ...]:
    """Names, each of which may be several between commas. Raises: ValueError for what is no group."""
    names = tuple(dict.fromkeys(name.strip() for text in said for name in text.split(",") if name.strip()))
    for name in names:
        if name not in GROUPS:
            raise ValueError(f"'{name[:40]}' is no group: there are {', '.join(GROUPS)}")
    return names


def _within(hour: ColumnElement[int], period: Period) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = true()
    if period.since is not None:
        is_old = period.since < time.time() - HOURS_KEPT_S
        condition &= hour > period.since - (DAY_S if is_old else HOUR_S)
    return condition if period.until is None else condition & (hour < period.until)


def _of_group(database: Database, name: str) -> ColumnElement[str]:
    return database.kind.time_text(TIMES[name], ROW.hour) if name in TIMES else ROW[name]


async def spent(
    database: Database,
    by: Sequence[str] = (),
    period: Period = ALWAYS,
    *,
    key: str | None = None,
    most: int | None = None,
) -> list[Spent]:
    """Times in their order, the dearest first among the others; without `by` one row, of all.

    Args:
        by: of GROUPS.
        key: of this key alone; None for all.
        most: rows.
    """
    groups: list[Any] = [_of_group(database, name) for name in by]
    sums: list[Any] = [func.coalesce(func.sum(ROW[name]), 0) for name in MEASURES]
    query = (
        select(*groups, *sums)
        .where(_within(ROW.hour, period), true() if key is None else ROW.key == key)
        .group_by(*groups)
    )
    times = [group for name, group in zip(by, groups, strict=True) if name in TIMES]
    query = query.order_by(*times, func.sum(ROW.cost_usd).desc(), func.sum(ROW.calls).desc(), *groups).limit(most)
    async with database.read() as connection:
        rows = (await connection.execute(query)).all()
    return [Spent(tuple(row[: len(by)]), UsageSums(*row[len(by) :])) for row in rows]


async def savings_by_policy(database: Database, period: Period = ALWAYS, *, key: str | None = None) -> list[Savings]:
    """Of each policy with more than one model, those with most requests first."""
    async with database.read() as connection:
        policies = await _compared(connection, period, key)
        overheads = await _overheads(connection, period, key)
        audits = await _audits(connection, period) if policies else {}
        ratings = await _ratings(connection, period) if policies else {}
    found = []
    for policy, sides in policies.items():
        as_it_is, overhead = sides.pop(("", False), RivalSums()), overheads.get(policy, UsageSums())
        evidence = audits.get(policy, {}), ratings.get(policy, {})
        found.append(savings_of(policy, PolicySums(as_it_is, sides, overhead, *evidence)))
    return sorted(found, key=lambda one: (-one.requests, one.policy))


async def idle(
    database: Database, usd_per_hour: Mapping[str, float], period: Period = ALWAYS, now: float | None = None
) -> list[Idle]:
    """Of each model that was loaded here. Args: `usd_per_hour` by model; one that is missing is not known."""
    async with database.read() as connection:
        first = await connection.scalar(select(func.min(RESIDENCY.c.at)))
    if first is None:
        return []
    since = max(period.since or 0.0, first) // HOUR_S * HOUR_S  # what was busy before that was loaded, too
    at = time.time() if now is None else now
    loaded = await loaded_s(database, since, at if period.until is None else min(at, period.until))
    whole = Period(since, period.until)
    busy = {one.group[0]: one.sums.busy_s for one in await spent(database, ("model",), whole)}
    found = []
    for model, seconds in sorted(loaded.items()):
        own_s = sum(busy_s for name, busy_s in busy.items() if name == model or name.startswith(f"{model}:"))
        idle_s, price = max(0.0, seconds - own_s), usd_per_hour.get(model)
        found.append(Idle(model, seconds, own_s, idle_s, None if price is None else idle_s / 3600 * price))
    return found


async def _compared(
    connection: AsyncConnection, period: Period, key: str | None
) -> dict[str, dict[tuple[str, bool], RivalSums]]:
    side, names = RIVALS.c, [one.name for one in fields(RivalSums)]
    query = select(side.policy, side.model, side.largest, *(func.sum(side[name]) for name in names))
    query = query.where(_within(side.hour, period), true() if key is None else side.key == key)
    found: dict[str, dict[tuple[str, bool], RivalSums]] = {}
    for policy, model, largest, *sums in await connection.execute(
        query.group_by(side.policy, side.model, side.largest)
    ):
        found.setdefault(policy, {})[model, largest] = RivalSums(*sums)
    return found


async def _overheads(connection: AsyncConnection, period: Period, key: str | None) -> dict[str, UsageSums]:
    query = select(ROW.policy, *(func.sum(ROW[name]) for name in MEASURES)).where(
        _within(ROW.hour, period), ROW.purpose.in_(OVERHEAD), true() if key is None else ROW.key == key
    )
    return {policy: UsageSums(*sums) for policy, *sums in await connection.execute(query.group_by(ROW.policy))}


async def _audits(connection: AsyncConnection, period: Period) -> dict[str, dict[str, Rate]]:
    """By policy and model: of the drafts that chance chose, before anything was known of them, those that say what the
    model that the promise is measured against does. Under the empty name the policy's answers: a draft that was not
    accepted was answered by that model."""
    row = DRAFTS.c
    same = func.sum(case((row.same, 1), else_=0))
    good = func.sum(case((row.same | ~row.accepted, 1), else_=0))
    query = select(row.arm, row.model, func.count(), same, good).where(row.audited, row.same.is_not(None))
    query = query.where(row.created >= (period.since or 0.0), row.created < (period.until or float("inf")))
    found: dict[str, dict[str, Rate]] = {}
    for arm, model, count, agreed, well in await connection.execute(query.group_by(row.arm, row.model)):
        policy = arm.removesuffix(f"/{model}").rpartition("/")[0]
        _add(found, policy, model, Rate(agreed, count), Rate(well, count))
    return found


async def _ratings(connection: AsyncConnection, period: Period) -> dict[str, dict[str, Rate]]:
    """By policy and model that answered, as far back as the journal goes."""
    row, said = JOURNAL.c, FEEDBACK.c
    rated = FEEDBACK.join(JOURNAL, said.trace_id == row.id)
    query = select(row.policy, row.model, said.value, func.count()).select_from(rated)
    query = query.where(said.metric == "rating", row.model.is_not(None), row.policy.is_not(None))
    query = query.where(row.created >= (period.since or 0.0), row.created < (period.until or float("inf")))
    found: dict[str, dict[str, Rate]] = {}
    for policy, model, text, count in await connection.execute(query.group_by(row.policy, row.model, said.value)):
        value = orjson.loads(text)
        if isinstance(value, bool | int | float) and 0 <= value <= 1:  # words tell nothing here
            _add(found, policy, model, Rate(count if value >= GOOD else 0, count))
    return found


def _add(found: dict[str, dict[str, Rate]], policy: str, model: str, rate: Rate, mix: Rate | None = None) -> None:
    """Args: `mix` is what the policy made of it, where that is something else."""
    rates = found.setdefault(policy, {})
    for name, one in ((model, rate), ("", mix or rate)):
        before = rates.get(name, Rate())
        rates[name] = Rate(before.passed + one.passed, before.count + one.count)
