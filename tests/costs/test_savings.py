"""Cases worked by hand."""

from __future__ import annotations

import pytest

from gateway.costs.ledger import Ledger, RivalSums, UsageSums
from gateway.costs.savings import PolicySums, Rate, Savings, savings_of, total_of
from gateway.trace import AUDIT, Price, RequestTrace, Rival, Spend, Usage

CHEAP, MIDDLE, DEAR = Price(1, 2), Price(2, 4), Price(10, 20)
TEXT = frozenset({"text"})


def rival(name: str, price: Price | None, *, largest: bool = False, context: int | None = None) -> Rival:
    return Rival(name, lambda: price, lambda: None, TEXT, context, largest)


RIVALS = (rival("small", CHEAP), rival("middle", MIDDLE), rival("large", DEAR, largest=True))


def answered(*hops: tuple[str, str | None, float | None]) -> RequestTrace:
    """(model, why it was left, cost), each under its tier; the last one answers."""
    trace = RequestTrace("auto")
    trace.policy, trace.route, trace.status, trace.rivals = "p", "r", 200, RIVALS
    for model, left, cost_usd in hops:
        with trace.span("tier", model) as tier, tier.span("model", model) as hop:
            hop.spend = Spend(model, Usage(1000, 500), cost_usd, 1.0)
            hop.left = tier.left = left
            if model != "large":
                tier.note(judged=True)
    trace.answered_by = hops[-1][0]
    return trace


def sums_of(ledger: Ledger, **more: object) -> PolicySums:
    sides = {(model, largest): sums for (_, _, _, model, largest), sums in ledger.rivals.items()}
    return PolicySums(sides.pop(("", False)), sides, **more)  # type: ignore[arg-type]


def found(*traces: RequestTrace, **more: object) -> Savings:
    ledger = Ledger()
    for trace in traces:
        ledger.note(trace)
    return savings_of("p", sums_of(ledger, **more))


def test_against_the_largest_at_the_tokens_of_the_answer() -> None:
    """1000 in and 500 out: 0.002 at small, 0.004 at middle, 0.02 at large."""
    one = found(answered(("small", None, 0.002)), answered(("small", "json", 0.002), ("large", None, 0.02)))
    assert one.requests == 2 and one.unknown_cost == 0
    assert one.spent_usd == pytest.approx(0.002 + 0.022)
    assert one.largest is not None and one.largest.models == ("large",)
    assert one.largest.instead_usd == pytest.approx(0.04)
    assert one.largest.saved_usd == pytest.approx(0.04 - 0.024)
    assert one.largest.saved_share == pytest.approx(0.4)
    assert (one.largest.compared, one.largest.estimated) == (2, 1), "the second it has answered itself"


def test_a_policy_that_always_escalates_has_cost_more_than_the_largest_alone() -> None:
    one = found(*(answered(("small", "json", 0.002), ("large", None, 0.02)) for _ in range(3)))
    assert one.largest is not None and one.largest.saved_usd == pytest.approx(-0.006)


def test_the_best_single_is_the_cheapest_that_is_as_good() -> None:
    good = [answered(("small", None, 0.002)) for _ in range(15)]
    bad = [answered(("small", "json", 0.002), ("middle", None, 0.004)) for _ in range(20)]
    one = found(*good, *bad)
    assert one.pass_rate == 1.0 and one.evidence == "checks"
    best = one.best_single
    assert best is not None and best.models == ("middle",), (
        "small passes 15 of 35, middle 20 of 20, large by definition"
    )
    assert best.pass_rate == 1.0
    assert best.instead_usd == pytest.approx(35 * 0.004)
    assert best.saved_usd == pytest.approx(35 * 0.004 - (35 * 0.002 + 20 * 0.004))
    assert one.largest is not None and one.largest.saved_usd == pytest.approx(35 * 0.02 - 0.15)


def test_too_few_judged_say_nothing_of_a_model() -> None:
    one = found(*(answered(("middle", None, 0.004)) for _ in range(19)))
    assert one.pass_rate is None and one.evidence is None
    assert one.best_single is not None and one.best_single.models == ("large",)
    one = found(*(answered(("middle", None, 0.004)) for _ in range(20)))
    assert one.best_single is not None and one.best_single.models == ("middle",)
    assert one.best_single.saved_usd == 0, "the policy is nothing but that model"


def test_audits_have_the_word_before_checks() -> None:
    audits = {"": Rate(49, 50), "small": Rate(40, 50), "middle": Rate(49, 50)}
    one = found(*(answered(("small", None, 0.002)) for _ in range(30)), audits=audits)
    assert one.evidence == "audits" and one.pass_rate == 0.98
    assert one.best_single is not None and one.best_single.models == ("middle",), (
        "every draft of small passed its checks"
    )


def test_overhead_is_taken_off() -> None:
    overhead = UsageSums(cost_usd=0.01, unknown_cost=1)
    one = found(answered(("small", None, 0.002)), overhead=overhead)
    assert one.largest is not None and one.largest.saved_usd == pytest.approx(0.02 - 0.002 - 0.01)
    assert one.unknown_overhead == 1


def test_unknown_costs_are_not_compared() -> None:
    one = found(answered(("small", None, 0.002)), answered(("small", "json", None), ("large", None, 0.02)))
    assert (one.requests, one.unknown_cost) == (2, 1)
    assert one.largest is not None and (one.largest.requests, one.largest.compared) == (2, 1)
    assert one.largest.saved_usd == pytest.approx(0.018)
    nothing = found(answered(("small", None, None)))
    assert nothing.largest is not None and nothing.largest.saved_usd is None
    assert total_of([nothing]) == {"largest": None, "best_single": None}
    assert total_of([nothing, one])["largest"] == pytest.approx(0.018)


def test_who_could_not_have_answered_is_no_single_model() -> None:
    def seeing(media: frozenset[str]) -> RequestTrace:
        trace = answered(("large", None, 0.02))
        eyes = Rival("large", lambda: DEAR, lambda: None, TEXT | {"image"}, None, True)
        trace.rivals, trace.media = (rival("small", CHEAP), rival("short", CHEAP, context=1499), eyes), media
        return trace

    ledger = Ledger()
    ledger.note(seeing(frozenset()))
    ledger.note(seeing(frozenset({"image"})))
    sides = {model: sums for (_, _, _, model, _), sums in ledger.rivals.items()}
    assert (sides["small"].unable, sides["short"].unable, sides["large"].unable) == (1, 2, 0)
    one = savings_of("p", sums_of(ledger))
    assert one.best_single is not None and one.best_single.models == ("large",)


def test_an_hour_of_a_rival_is_estimated_by_its_own_pace() -> None:
    hourly = Price(0, 0, usd_per_hour=3.6)
    slow = Rival("slow", lambda: hourly, lambda: 0.2, TEXT)
    assert slow.cost_usd(Usage(10, 50)) == pytest.approx(10 * 0.001)
    assert Rival("new", lambda: hourly, lambda: None, TEXT).cost_usd(Usage(10, 50)) is None
    assert Rival("free", lambda: None, lambda: None, TEXT).cost_usd(Usage(10, 50)) is None


def test_audits_and_requests_without_an_answer_are_not_compared() -> None:
    audit, failed = answered(("large", None, 0.02)), answered(("small", "timeout", 0.002))
    audit.purpose, failed.answered_by, failed.error = AUDIT, None, "timeout"
    ledger = Ledger()
    ledger.note(audit)
    ledger.note(failed)
    assert ledger.rivals == {}
    by_purpose = {where[-1]: sums for where, sums in ledger.usage.items() if sums.calls}
    assert by_purpose[AUDIT].cost_usd == 0.02 and by_purpose["draft"].cost_usd == 0.002


def test_another_largest_later_on_is_still_one_baseline() -> None:
    sums = PolicySums(
        RivalSums(requests=2, compared=2, spent_usd=2.0, judged=2, passed=2),
        {
            ("old", True): RivalSums(1, 1, 0, 5.0, 1.0, 0, 0, 0),
            ("old", False): RivalSums(1, 1, 0, 5.0, 1.0, 0, 0, 0),
            ("new", True): RivalSums(1, 1, 0, 8.0, 1.0, 0, 0, 0),
        },
    )
    one = savings_of("p", sums)
    assert one.largest is not None and one.largest.models == ("new", "old")
    assert one.largest.instead_usd == 13.0 and one.largest.saved_usd == 11.0
    assert one.best_single is not None and one.best_single.models == ("old",)
    assert one.best_single.saved_usd == 8.0
