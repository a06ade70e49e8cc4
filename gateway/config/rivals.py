"""The models of a policy as rivals of it: what its answers would have cost, had one of them given all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from gateway.backends.litellm import LiteLLMBackend
from gateway.backends.openai import OpenAIBackend
from gateway.config import choices
from gateway.config.spec import NodeSpec, PolicySpec
from gateway.gateway import Model
from gateway.trace import Price, Rival

Leaf = OpenAIBackend | LiteLLMBackend


def rivals_of(spec: PolicySpec, models: Mapping[str, Model]) -> tuple[Rival, ...]:
    """None where the policy has fewer than two active models: then there is nothing to compare."""
    leaves = {
        name: leaf
        for name in dict.fromkeys(name for route in spec.routes for name in names_in(route.answer))
        if name in models and isinstance(leaf := models[name].responder, Leaf)
    }
    if len(leaves) < 2:
        return ()
    largest = _largest(spec, leaves)
    return tuple(
        Rival(
            name,
            _price_of(leaf),
            _pace_of(leaf),
            frozenset(models[name].card.get("accepts", ("text",))),
            models[name].card.get("context"),
            name == largest,
        )
        for name, leaf in leaves.items()
    )


def names_in(spec: NodeSpec) -> Iterator[str]:
    inner = choices.items_of(spec.choose) if spec.choose is not None else spec.cascade
    if inner is None:
        yield spec.model or ""
    for item in inner or ():
        yield from names_in(item)


def _largest(spec: PolicySpec, leaves: Mapping[str, Leaf]) -> str:
    """The one that the policy promises to be as good as; else the dearest of those that its cascades ask last, of all
    where there is no cascade. Of equally dear ones, and where nobody knows a price, the last."""
    strong = spec.quality.strong if spec.quality is not None else None
    if strong is not None and strong in leaves:
        return strong
    last = [name for route in spec.routes for name in _asked_last(route.answer) if name in leaves]
    return max(last or list(leaves), key=lambda name: (_dearness(leaves[name]), list(leaves).index(name)))


def _asked_last(spec: NodeSpec) -> list[str]:
    """The last model of a cascade."""
    return list(names_in(spec))[-1:] if spec.cascade is not None else []


def _dearness(leaf: Leaf) -> tuple[float, float]:
    price = _price_of(leaf)()
    return (-1.0, 0.0) if price is None else (price.input_usd_per_mtok + price.output_usd_per_mtok, price.usd_per_hour)


def _price_of(leaf: Leaf) -> Callable[[], Price | None]:
    return lambda: leaf.facts.price if isinstance(leaf, OpenAIBackend) else leaf.price


def _pace_of(leaf: Leaf) -> Callable[[], float | None]:
    meter = leaf.used.meter
    return lambda: meter.seconds_per_token if meter is not None else None
