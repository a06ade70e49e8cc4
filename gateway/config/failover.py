"""From what entries say about failing to who stands in for each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gateway.backends.balanced import BalancedBackend
from gateway.config.failover_specs import OFF, by_cause
from gateway.config.files import Config, ModelEntry
from gateway.config.lines import Loc, nearest
from gateway.errors import Problem
from gateway.gateway import Model
from gateway.responders.fallbacks import Fallbacks
from gateway.responders.hedge import FirstTokens, Hedged, Hedging
from gateway.runtime import Runtime


def with_failover(
    models: Mapping[str, Model], config: Config, runtime: Runtime, problems: list[Problem]
) -> dict[str, Model]:
    """The same, with what stands in for them."""
    return _Failover(models, config, runtime, problems).all()


class _Failover:
    def __init__(self, models: Mapping[str, Model], config: Config, runtime: Runtime, problems: list[Problem]) -> None:
        self._models, self._config, self._runtime, self._problems = models, config, runtime, problems
        self._done: dict[str, Model] = {}
        self._names = {name: self._names_of(entry) for name, entry in config.models.items()}

    def all(self) -> dict[str, Model]:
        for name in self._models:
            self._check_circle(name)
        if not any(self._names.values()):
            return {name: self._hedged(model) for name, model in self._models.items()}
        return {name: self._of(name) for name in self._models}

    def _names_of(self, entry: ModelEntry) -> dict[str, tuple[str, ...]]:
        """By cause, without those that are at fault, which are told."""
        if entry.spec is None:
            return {}
        found: dict[str, tuple[str, ...]] = {}
        for cause, names in by_cause(entry.spec.fallbacks).items():
            at: Loc = ("models", entry.name, "fallbacks")
            at = (*at, cause) if isinstance(entry.spec.fallbacks, dict) else at
            found[cause] = tuple(name for i, name in enumerate(names) if self._is_another(entry, name, (*at, i)))
        return found

    def _is_another(self, entry: ModelEntry, name: str, at: Loc) -> bool:
        if entry.adapter:  # it has what its model's entry says, which is checked there
            return name in self._models and name != entry.name
        if name not in self._models:
            self._wrong(at, f"no model is called '{name}'", nearest(name, self._models))
        elif name == entry.name:
            self._wrong(at, f"'{name}' cannot stand in for itself")
        else:
            return True
        return False

    def _check_circle(self, name: str) -> None:
        """What leads back to it is taken out, so that the rest can be built, and checked."""
        seen, waiting = set[str](), [name]
        while waiting:
            here = waiting.pop()
            for other in dict.fromkeys(one for names in self._names[here].values() for one in names):
                if other == name:
                    self._wrong(
                        ("models", name, "fallbacks"), f"'{name}' would stand in for itself, by way of '{here}'"
                    )
                    self._names[name] = {}
                    return
                if other not in seen:
                    seen.add(other)
                    waiting.append(other)

    def _of(self, name: str) -> Model:
        if name not in self._done:
            model = self._hedged(self._models[name])
            others = {
                cause: tuple(one for other in names if (one := self._of(other).answering) is not None)
                for cause, names in self._names[name].items()
            }
            others = {cause: found for cause, found in others.items() if found}
            if model.responder is not None and others:
                hedging = self._hedging(name) if not isinstance(model.responder, Hedged) else None
                model = replace(model, with_fallbacks=Fallbacks(name, model.responder, others, hedging))
            self._done[name] = model
        return self._done[name]

    def _hedged(self, model: Model) -> Model:
        """Between its own deployments, where it has several."""
        hedging, leaf = self._hedging(model.name), model.responder
        if hedging is None or leaf is None:
            return model
        if isinstance(leaf, BalancedBackend):
            return replace(model, responder=Hedged(model.name, leaf, leaf.in_pair, hedging))
        names = self._names[model.name]
        if not (names.get("down") or names.get("any")) and not self._config.models[model.name].adapter:
            message = "there is nobody to ask beside it"
            hint = "give it several addresses or keys, or 'fallbacks' for any failure"
            self._wrong(("models", model.name, "hedge"), message, hint)
        return model

    def _hedging(self, name: str) -> Hedging | None:
        spec = self._config.models[name].spec
        if spec is None or spec.hedge == OFF:
            return None
        first_tokens = self._runtime.first_tokens.setdefault(name, FirstTokens())
        if isinstance(spec.hedge, str):
            return Hedging(first_tokens, percent=int(spec.hedge[1:]))
        return Hedging(first_tokens, after_s=spec.hedge)

    def _wrong(self, at: Loc, message: str, hint: str = "") -> None:
        self._problems.append(self._config.models_document.problem(at, message, hint))
