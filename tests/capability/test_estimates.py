"""From a model's card and the table to what it would make of a request."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest

from gateway.capability.cards import BEST, UNKNOWN, About, Card, by_parameters, prior
from gateway.capability.estimates import Asked, after_passing, drawn, estimate
from gateway.capability.table import Table
from gateway.trace import Price


@dataclass
class Model:
    key: str = "core"
    card: Card = field(default_factory=Card)
    has_checks: bool = False


def test_larger_models_are_taken_for_better_ones() -> None:
    assert [by_parameters(n) for n in (135e6, 1e9, 8e9, 70e9)] == pytest.approx([0.25, 0.4, 0.6, 0.75])
    steps = [by_parameters(n) for n in (1e6, 135e6, 360e6, 1e9, 3e9, 8e9, 30e9, 70e9, 400e9, 1e13)]
    assert steps == sorted(steps) and steps[0] == 0.05 and steps[-1] == UNKNOWN
    assert by_parameters(None) == UNKNOWN


def test_a_card_says_what_a_model_is_good_at_and_in() -> None:
    card = Card(1e9, good_at=("code",), languages=("en", "de"))
    assert prior(card, About(topic="code")) == pytest.approx(0.4 + 0.6 * 0.25)
    assert prior(card, About(topic="law")) == pytest.approx(0.4)
    assert prior(card, About(language="fr")) == pytest.approx(0.2)
    assert prior(card, About(language="de")) == pytest.approx(0.4)
    assert prior(Card(good_at=("code",)), About(topic="code")) <= BEST


def test_outcomes_near_by_outweigh_the_model_and_those_outweigh_the_card() -> None:
    table = Table("c", lambda: 1e9)
    model = Model(card=Card(1e9))
    assert estimate(table, [(1, 1.0)], model, Asked()).p == pytest.approx(0.4)
    for _ in range(20):
        table.note(2, "core", 1.0)
    p_model = (20 + 20 * 0.4) / 40
    assert estimate(table, [(1, 1.0)], model, Asked()).p == pytest.approx(p_model)
    for _ in range(48):
        table.note(1, "core", 0.0)
    p_model = (20 + 20 * 0.4) / (68 + 20)
    here = estimate(table, [(1, 1.0)], model, Asked())
    assert here.p == pytest.approx(12 * p_model / 60) and here.n == pytest.approx(48)
    assert estimate(table, [(2, 1.0)], model, Asked()).p > here.p
    assert estimate(table, [], model, Asked()).p == pytest.approx(p_model)


def test_a_learned_router_speaks_in_the_cards_place() -> None:
    table = Table("c", lambda: 1e9)
    assert estimate(table, [], Model(), Asked(), About(p_right={"core": 0.3})).p == pytest.approx(0.3)
    assert estimate(table, [], Model(), Asked(), About(p_right={"other": 0.3})).p == pytest.approx(UNKNOWN)


def test_checks_will_tell_much_and_outcomes_leave_less_to_be_told() -> None:
    table = Table("c", lambda: 1e9)
    unchecked, checked = (estimate(table, [], Model(has_checks=has), Asked()) for has in (False, True))
    assert unchecked.sigma == 0 and checked.sigma > 0.2 and unchecked.error == checked.error
    for _ in range(200):
        table.note(1, "core", 1.0)
        table.note(1, "core", 0.0)
    known = estimate(table, [(1, 1.0)], Model(), Asked())
    assert known.error < 0.03 < 0.08 < unchecked.error


def test_cost_follows_the_price_and_the_length_of_answers() -> None:
    table = Table("c", lambda: 1e9)
    model = Model(card=Card(price=Price(10, 100)))
    first = estimate(table, [], model, Asked(1000))
    assert first.cost_usd == pytest.approx(0.01 + 200 * 1e-4)
    assert estimate(table, [], model, Asked(1000, most_tokens=10)).cost_usd == pytest.approx(0.011)
    for _ in range(27):
        table.note(1, "core", None, 5.0, 0.1, 10)
    later = estimate(table, [(1, 1.0)], model, Asked(1000), load_s=7.0)
    assert later.cost_usd == pytest.approx(0.01 + 29e-4)
    assert later.latency_s == pytest.approx((2.7 + 6) / 30 + 7)
    assert later.joules < first.joules


def test_of_an_unknown_price_what_was_paid_is_expected() -> None:
    table = Table("c", lambda: 1e9)
    assert estimate(table, [], Model(), Asked()).cost_usd is None
    table.note(1, "core", None, 0.5)
    table.note(2, "core", None, 0.1)
    assert estimate(table, [(1, 1.0)], Model(), Asked()).cost_usd == pytest.approx(0.5)
    assert estimate(table, [], Model(), Asked()).cost_usd == pytest.approx(0.3)


def test_passing_its_checks_makes_an_answer_likelier_to_be_good() -> None:
    assert [after_passing(p) for p in (0.0, 1.0)] == [0.0, 1.0]
    assert all(after_passing(p) > p for p in (0.1, 0.5, 0.9))


def test_exploring_draws_from_what_a_chance_may_be() -> None:
    table = Table("c", lambda: 1e9)
    for _ in range(500):
        table.note(1, "core", 1.0)
    estimates = {
        "core": estimate(table, [(1, 1.0)], Model(), Asked()),
        "new": estimate(table, [(1, 1.0)], Model("new", Card(8e9)), Asked()),
    }
    rng = random.Random(5)
    draws = [drawn(estimates, rng.betavariate) for _ in range(300)]
    spread = {key: _deviation([draw[key].p for draw in draws]) for key in estimates}
    assert spread["core"] < 0.02 < 0.1 < spread["new"]
    assert all(0 <= one.p <= 1 for draw in draws for one in draw.values())


def _deviation(numbers: list[float]) -> float:
    mean = sum(numbers) / len(numbers)
    return math.sqrt(sum((number - mean) ** 2 for number in numbers) / len(numbers))


def test_energy_is_counted_by_the_same_figures_as_spend() -> None:
    table = Table("c", lambda: 1e9)
    said = estimate(table, [], Model(card=Card(1e9, joules_said=2.0)), Asked(most_tokens=10))
    assert said.joules == 20
    drawn = estimate(table, [], Model(card=Card(1e9, watts=lambda: 30.0)), Asked(), load_s=9.0)
    assert drawn.joules == pytest.approx(30 * (drawn.latency_s - 9.0)), "to load it is no answer"
    modelled = estimate(table, [], Model(card=Card(1e9)), Asked(most_tokens=10))
    assert modelled.joules == pytest.approx(5.0)
