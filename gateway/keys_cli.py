"""`gateway keys`: API keys, their limits, and what they have used."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from gateway.errors import InvalidRequest
from gateway.terminal import AsJson, console, errors, print_json, with_database

if TYPE_CHECKING:
    from gateway.access.keys import KeyInfo, Wanted
    from gateway.store.budgets import Periods

keys_app = typer.Typer(help="API keys: while none exists, the server is open on loopback.", no_args_is_help=True)

UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
NONE = "none"
SPELLED = (
    "allow",
    "requests_per_minute",
    "tokens_per_minute",
    "concurrent",
    "usd_per_day",
    "usd_per_month",
    "tokens_per_day",
    "tokens_per_month",
    "over_budget",
    "priority",
)

Name = Annotated[str, typer.Argument(help="The key's name.")]
Tenant = Annotated[str | None, typer.Option(help="Whose shards, memories and traces it shares; else its own.")]
Expires = Annotated[str | None, typer.Option(help="When it ends: 90d, 12h, 2027-01-31; none: never.")]
Admin = Annotated[bool | None, typer.Option("--admin/--no-admin", help="It may look after the gateway and its keys.")]
Allow = Annotated[list[str] | None, typer.Option(help="A policy or model that it may ask for, `*` for any characters.")]
Often = Annotated[str | None, typer.Option(help="Requests in any minute.")]
Tokens = Annotated[str | None, typer.Option(help="Tokens in any minute, those of prompts and answers.")]
Concurrent = Annotated[str | None, typer.Option(help="Requests open at once, streams among them.")]
Money = Annotated[str | None, typer.Option(help="US dollars.")]
Sum = Annotated[str | None, typer.Option(help="Tokens.")]
OverBudget = Annotated[str | None, typer.Option(help="refuse, or free: models without a price still answer.")]
Priority = Annotated[str | None, typer.Option(help="low, normal or high: who waits less where requests queue.")]


@keys_app.command("create")
def create(
    name: Annotated[str, typer.Option(help="Who it is for; shows in traces and reports.")],
    tenant: Tenant = None,
    expires: Expires = None,
    admin: Admin = None,
    allow: Allow = None,
    requests_per_minute: Often = None,
    tokens_per_minute: Tokens = None,
    concurrent: Concurrent = None,
    usd_per_day: Money = None,
    usd_per_month: Money = None,
    tokens_per_day: Sum = None,
    tokens_per_month: Sum = None,
    over_budget: OverBudget = None,
    priority: Priority = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once and stored only as a hash."""
    from gateway.access.keys import create_key

    wanted = _wanted(locals())
    info, token = with_database(lambda database: create_key(database, name, wanted))
    _show_token(info, token, as_json)


@keys_app.command("set")
def change(
    name: Name,
    tenant: Tenant = None,
    expires: Expires = None,
    admin: Admin = None,
    allow: Allow = None,
    requests_per_minute: Often = None,
    tokens_per_minute: Tokens = None,
    concurrent: Concurrent = None,
    usd_per_day: Money = None,
    usd_per_month: Money = None,
    tokens_per_day: Sum = None,
    tokens_per_month: Sum = None,
    over_budget: OverBudget = None,
    priority: Priority = None,
) -> None:
    """Change a key's limits; `none` lifts one. A running server follows within 2 s."""
    from gateway.access.keys import change_key

    wanted = _wanted(locals())
    info = with_database(lambda database: change_key(database, name, wanted))
    console.print(f"'{escape(info.name)}': {_limits(info) or 'no limits'}", highlight=False, soft_wrap=True)


@keys_app.command("list")
def listed(as_json: AsJson = False) -> None:
    """List the keys, their limits, and what they have used this month."""
    from gateway.access.keys import list_keys
    from gateway.store.budgets import Budgets, Sums

    today = datetime.now(UTC).strftime("%Y-%m-%d")

    async def read(database: Any) -> tuple[tuple[KeyInfo, ...], dict[int, Periods]]:
        return await list_keys(database), await Budgets(database).read(today)

    found, used = with_database(read)
    month = {info.id: used.get(info.id, {}).get(today[:7], Sums()) for info in found}
    if as_json:
        print_json([{"id": one.id, **one.as_json(), "month": asdict(month[one.id])} for one in found])
        return
    if not found:
        console.print(
            "no keys: only this machine is served; `gateway keys create --name NAME` makes one", soft_wrap=True
        )
        return
    table = Table("name", "ends in", "tenant", "state", "requests", "tokens", "cost", "limits", box=None)
    table.caption = "requests, tokens and cost of this month"
    for info in found:
        sums = month[info.id]
        state = info.state(time.time()) + (", admin" if info.is_admin else "")
        facts = (escape(info.name), f"…{info.last4}", escape(info.tenant), state)
        table.add_row(*facts, str(sums.requests), str(sums.tokens), f"${sums.usd:.4f}", _limits(info))
    console.print(table)


@keys_app.command("rotate")
def rotate(
    name: Name,
    grace: Annotated[str, typer.Option(help="How long the old token stays good: 0, 30m, 24h.")] = "0",
    as_json: AsJson = False,
) -> None:
    """Give a key another token. Its limits, and what it has spent, stay."""
    from gateway.access.keys import rotate_key

    grace_s = 0.0 if grace == "0" else _span_s(grace, "grace")
    info, token = with_database(lambda database: rotate_key(database, name, grace_s))
    _show_token(info, token, as_json)


@keys_app.command("revoke")
def revoke(name: Name) -> None:
    """Revoke a key. A running server refuses it within 2 s."""
    from gateway.access.keys import revoke_key

    info = with_database(lambda database: revoke_key(database, name))
    console.print(f"revoked '{escape(info.name)}'", highlight=False)


def _show_token(info: KeyInfo, token: str, as_json: bool) -> None:
    if as_json:
        print_json({"key": token, **info.as_json()})
        return
    errors.print(f"key '{escape(info.name)}', shown only now:", highlight=False)
    print(token)


def _wanted(said: dict[str, Any]) -> Wanted:
    """What the options say. Raises: InvalidRequest."""
    from gateway.access.keys import UNSAID, Wanted

    limits = {name: _value(name, said[name]) for name in SPELLED if said[name]}
    expires = UNSAID if said["expires"] is None else _moment(said["expires"])
    tenant = UNSAID if said["tenant"] is None else said["tenant"]
    admin = UNSAID if said["admin"] is None else said["admin"]
    return Wanted(tenant, expires, admin, limits)


def _value(name: str, said: str | list[str]) -> object:
    """None lifts a limit; numbers are read by the limits themselves."""
    if said in (NONE, [NONE]):
        return None
    if name in ("allow", "over_budget", "priority") or not isinstance(said, str):
        return said
    try:
        return float(said) if name.startswith("usd") else int(said)
    except ValueError:
        raise InvalidRequest(f"'{said}' is no number; 'none' lifts the limit", param=name) from None


def _moment(said: str) -> float | None:
    """Unix seconds. Raises: InvalidRequest."""
    if said == NONE:
        return None
    try:
        return datetime.fromisoformat(said).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return time.time() + _span_s(said, "expires")


def _span_s(said: str, param: str) -> float:
    found = re.fullmatch(r"(\d+)([mhdw])", said)
    if found is None:
        raise InvalidRequest(f"'{said}' is no time; such as 30m, 12h or 90d", param=param)
    return int(found[1]) * UNITS_S[found[2]]


def _limits(info: KeyInfo) -> str:
    words = {name: ", ".join(one) if isinstance(one, list) else one for name, one in info.limits.as_json().items()}
    told = [f"{name.replace('_', ' ')}: {one}" for name, one in words.items()]
    if info.expires is not None:
        told.append(f"until {_date(info.expires)}")
    return escape("; ".join(told))


def _date(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
