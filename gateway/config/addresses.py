"""From the addresses and keys of an entry to one leaf that balances between them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import fields
from hashlib import sha256
from typing import Any

from gateway.backends.balanced import BalancedBackend
from gateway.backends.counting import Asked, ServerCounter
from gateway.backends.openai import Facts, OpenAIBackend
from gateway.config.address_specs import AddressSpec
from gateway.engines import Lease
from gateway.engines.attach import AttachSettings
from gateway.engines.balance import Balance, Way
from gateway.engines.health import Rank
from gateway.engines.resident import Stage
from gateway.runtime import Runtime


def balanced(
    leaves: Sequence[OpenAIBackend], addresses: Sequence[AddressSpec], way: Way, runtime: Runtime
) -> BalancedBackend:
    """For addresses of which nothing is known but how requests fare there."""
    return _leaf(leaves, balance_of(leaves[0].name, addresses, way, runtime))


def balance_of(name: str, addresses: Sequence[AddressSpec], way: Way, runtime: Runtime) -> Balance:
    """With all keys of an address it is the same address."""
    weights, urls = [address.weight for address in addresses], [address.url for address in addresses]
    numbers = {url: number for number, url in enumerate(dict.fromkeys(urls))}
    balance = Balance(name, weights, addresses=[numbers[url] for url in urls], way=way)
    kept = _kept(balance, (way, *urls, *weights, *(address.key for address in addresses)), runtime)
    if len(urls) > 1:
        runtime.share_faults(kept, sha256("\n".join((name, *urls)).encode()).hexdigest())
    return kept


def balanced_attached(
    leaves: Sequence[OpenAIBackend],
    addresses: Sequence[AddressSpec],
    engines: Sequence[AttachSettings],
    way: Way,
    runtime: Runtime,
) -> BalancedBackend:
    """For servers that are watched."""
    pool = runtime.pool

    def presence(place: int) -> Rank:
        if pool.address(engines[place]) is not None:
            return Rank.UP
        try:
            stage = pool.state_of(engines[place]).stage
        except KeyError:  # nobody keeps it: this configuration is only looked at
            return Rank.UNSURE
        return Rank.UNSURE if stage is Stage.LOADING else Rank.AWAY

    def slots(place: int) -> int | None:
        found = pool.found(engines[place])
        return engines[place].own_slots or (found.slots if found is not None else None)

    name, weights = leaves[0].name, [address.weight for address in addresses]
    balance = _kept(Balance(name, weights, way=way, presence=presence, slots=slots), (way, *engines, *weights), runtime)

    def look() -> Facts:
        return leaves[balance.first_up].facts

    def where() -> Lease | None:
        return pool.address(engines[balance.first_up])

    asked = Asked(runtime.client, where)
    counter = ServerCounter(name, asked, lambda: look().provider.name, leaves[0].defaults)
    return _leaf(leaves, balance, look=look, counter=counter)


def _kept(balance: Balance, made_from: tuple[Hashable, ...], runtime: Runtime) -> Balance:
    """The one that there is already, made from the same: what it knows outlives a reload."""
    kept = runtime.metrics.addressed.setdefault((balance.name, *made_from), balance)
    assert isinstance(kept, Balance)
    return kept


def _leaf(leaves: Sequence[OpenAIBackend], balance: Balance, **more: Any) -> BalancedBackend:
    same = {field.name: getattr(leaves[0], field.name) for field in fields(OpenAIBackend)}
    return BalancedBackend(**{**same, **more}, leaves=tuple(leaves), balance=balance)
