"""What was spent, and what was saved: `GET /v1/usage` and `GET /v1/usage/savings`."""

from __future__ import annotations

import time
from dataclasses import asdict

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from gateway.access.admin import may_see_all
from gateway.chat import Json
from gateway.costs.period import Period, moment
from gateway.costs.savings import total_of
from gateway.errors import InvalidRequest, NotFound
from gateway.gateway import Gateway
from gateway.live import Live
from gateway.runtime import Runtime
from gateway.store.database import Database
from gateway.store.spent import groups_of, idle, savings_by_policy, spent

READS = ["GET", "HEAD"]
MOST_ROWS = 10_000
FALSE_ACCEPTS = ("arm", "policy", "model", "strong", "audits_of_accepted", "false_accept_rate", "false_accept_interval")


def usage_routes(live: Live, runtime: Runtime) -> APIRouter:
    router = APIRouter(prefix="/v1/usage")

    async def opened() -> Database:
        if runtime.database is None or runtime.journal is None:
            raise NotFound("this server keeps no journal")
        await runtime.journal.flush()
        return runtime.database

    @router.api_route("", methods=READS)
    async def usage(request: Request) -> JSONResponse:
        """`?since=7d&until=2026-12-01&by=day,model`: sums of what was spent. A key sees its own, one with the admin
        scope all."""
        period, key = _period(request), _key(request)
        try:
            by = groups_of(request.query_params.getlist("by"))
        except ValueError as exc:
            raise InvalidRequest(str(exc), param="by") from None
        database = await opened()
        rows = await spent(database, by, period, key=key, most=MOST_ROWS + 1)
        whole = (await spent(database, (), period, key=key))[0]
        told: Json = {"object": "usage", **period._asdict(), "by": list(by)}
        told["data"] = [one.as_json(by) for one in rows[:MOST_ROWS]]
        told |= {"has_more": len(rows) > MOST_ROWS, "total": whole.as_json(())}
        if may_see_all(request.scope["gateway"]):
            told["idle"] = [asdict(one) for one in await idle(database, prices_per_hour(live.gateway), period)]
        return JSONResponse(told)

    @router.api_route("/savings", methods=READS)
    async def savings(request: Request) -> JSONResponse:
        """`?since=7d`: by policy, against its largest model and the best single one, with how often a draft was
        accepted wrongly."""
        period = _period(request)
        found = await savings_by_policy(await opened(), period, key=_key(request))
        names = {one.policy for one in found}
        promises = [one for one in runtime.promises.report() if one["policy"] in names]
        return JSONResponse(
            {
                "object": "usage.savings",
                **period._asdict(),
                "data": [one.as_json() for one in found],
                "total": total_of(found),
                "false_accepts": [{name: one[name] for name in FALSE_ACCEPTS} for one in promises],
            }
        )

    return router


def prices_per_hour(gateway: Gateway) -> dict[str, float]:
    """Of models with a price; 0 where their hours cost nothing."""
    prices = {name: model.card.get("price") for name, model in gateway.models.items()}
    return {name: float(price.get("usd_per_hour", 0.0)) for name, price in prices.items() if price is not None}


def _key(request: Request) -> str | None:
    """Whose spending may be seen; None: everybody's."""
    caller = request.scope["gateway"]
    return None if may_see_all(caller) else caller["key"]


def _period(request: Request) -> Period:
    now, given = time.time(), request.query_params
    return Period(*(_moment(name, given.get(name), now) for name in ("since", "until")))


def _moment(name: str, text: str | None, now: float) -> float | None:
    try:
        return None if text is None else moment(text, now)
    except ValueError as exc:
        raise InvalidRequest(str(exc), param=name) from None
