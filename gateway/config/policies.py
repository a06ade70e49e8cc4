"""A policy as YAML has it, made into routes and the trees of responders that answer them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple

from gateway.backends.scoring import Scorer
from gateway.capability.budget import read_lambdas
from gateway.chat import ChatRequest, Json, Responder
from gateway.checks import Check
from gateway.config import choices
from gateway.config.caching import cached
from gateway.config.checks import ChecksReader
from gateway.config.conditions import Reader
from gateway.config.files import PolicyFile
from gateway.config.leaves import Surroundings
from gateway.config.lines import Loc, nearest
from gateway.config.pledges import Pledges
from gateway.config.readers import fingerprint_of, reader_of
from gateway.config.rivals import rivals_of
from gateway.config.spec import ChooseSpec, GiveSpec, NodeSpec, RaceSpec
from gateway.engines import Engine, Residency
from gateway.errors import ConfigError, InvalidRequest
from gateway.gateway import Model
from gateway.quality.promises import arm_of
from gateway.responders.cascade import Cascade
from gateway.responders.choose import Candidate, Choose
from gateway.responders.hold import WHOLE, Racing, Tier
from gateway.responders.limited import Limited
from gateway.responders.odds import Odds
from gateway.responders.with_adapters import WithAdapters
from gateway.responders.with_shards import WithShards
from gateway.routing.policy import Policy, Route
from gateway.routing.services import Services
from gateway.shards import Kind
from gateway.shards.orders import Wanted
from gateway.tokens import Counter
from gateway.trace import Trace
from gateway.training.specialists import Place

ANSWER = ("routes", 0, "answer")  # where a route's node stands


class Given(NamedTuple):
    """What a node says for the models in it."""

    shards: Wanted | None = None
    typed: bool = False
    adapters: bool = False
    larger: str | None = None  # the model that is asked last
    is_judged: bool = False  # others judge what they answer

    def within(self, spec: NodeSpec) -> Given:
        """For those of a node that may say it otherwise."""
        shards = self.shards if spec.shards is None else _wanted(spec.shards)
        typed = self.typed if spec.typed is None else spec.typed
        adapters = self.adapters if spec.adapters is None else spec.adapters
        larger = self.larger
        if larger is None and spec.cascade is not None and len(spec.cascade) > 1:
            larger = _models_of(spec.cascade[-1])[-1]
        is_judged = self.is_judged or bool(spec.checks) or spec.choose is not None
        return Given(shards, typed, adapters, larger, is_judged)


NOTHING_GIVEN = Given()


class Inactive:
    """Stands where a policy names only models that are switched off."""

    def __init__(self, why: str) -> None:
        self.why = why

    async def respond(self, request: ChatRequest, emit: Any, trace: Trace) -> Any:
        holds = " and ".join(dict.fromkeys(modality for modality, _ in request.media))
        raise InvalidRequest(f"no model for {holds} content: {self.why}" if holds else self.why, param="model")


class PolicyBuilder:
    def __init__(
        self,
        file: PolicyFile,
        models: dict[str, Model],
        around: Surroundings,
        readers: dict[str, Responder],
        services: Services,
    ) -> None:
        self.spec, self.document, self.models, self.problems = file.spec, file.document, models, around.problems
        self.engines, self.runtime, self.entries = around.engines, around.runtime, around.config.models
        self.readers, self.services = readers, services
        self.checks = ChecksReader(file.document, around.problems, models, around.runtime.client)
        self.pledges: Pledges | None = None
        self.pledged, self.around = around.pledges, around
        if self.spec.quality is not None:
            self.pledges = Pledges(
                self.spec.policy,
                self.spec.quality,
                self.runtime,
                learns=self.spec.learn,
                fingerprint_of=lambda name: fingerprint_of(self.entries[name]),
            )

    def build(self) -> Policy:
        reader = Reader(self.document, self.problems, self.services)
        routes, names = [], set()
        for i, spec in enumerate(self.spec.routes):
            at = ("routes", i)
            if spec.name in names:
                self._wrong((*at, "name"), f"two routes are called '{spec.name}'")
            names.add(spec.name)
            has_when = "when" in spec.model_fields_set
            counter = self._counter(spec.answer)
            when = reader.when(spec.when, (*at, "when"), counter) if has_when else None
            built = self._node(spec.answer, (*at, "answer"))
            answer = built or Inactive(f"route '{spec.name}' has no active model: {self._whys(spec.answer)}")
            if built is not None and self.spec.remember:
                from gateway.responders.remembers import Remembers  # the grammar of memories takes 0.1 s

                ways = self.spec.remember
                answer = Remembers(built, self.runtime.bookcase, "tool" in ways, "extract" in ways)
            routes.append(Route(spec.name, answer, when, plan(spec.answer, self.models), counter))
        said = self.spec
        is_reviewed = said.review == "required"
        sticky = self.runtime.sessions if said.sticky else None
        remembers = tuple(said.remember)
        arms = tuple(pledge.arm for pledge in self.pledges.made) if self.pledges is not None else ()
        self.pledged.extend(self.pledges.made if self.pledges is not None else ())
        if self.pledges is not None and not arms:
            message = "a promise is kept by a cascade: of smaller models' drafts, measured against its last model"
            self._wrong(("quality",), message, "no cascade of this policy has two active models")
        return Policy(
            said.policy,
            said.serves,
            tuple(routes),
            said.learn,
            is_reviewed,
            remembers,
            sticky=sticky,
            arms=arms,
            rivals=rivals_of(said, self.models),
        )

    def _counter(self, spec: NodeSpec) -> Counter | None:
        """Of the model that is asked first."""
        models = (self.models.get(name) for name in _models_of(spec))
        return next((model.counter for model in models if model is not None and model.responder is not None), None)

    def _node(self, spec: NodeSpec, at: Loc) -> Responder | None:
        """The live tree; None where nothing in it is active."""
        tier = self._tier(spec, at)
        if tier is None:
            return None
        answer = Cascade([tier], spec.on_exhausted or "best") if tier.checks else tier.responder
        return self._cached(spec, answer, at, is_judged=False)

    def _tier(self, spec: NodeSpec, at: Loc, *, is_last: bool = True, given: Given = NOTHING_GIVEN) -> Tier | None:
        """A node with its limits and checks, which the cascade around it applies. `given`: what the node around it
        says for its models."""
        inner: Responder | None
        is_judged = given.is_judged or bool(spec.checks)
        given = given.within(spec)
        if spec.cascade is not None:
            last = len(spec.cascade) - 1
            built = [
                self._tier(item, (*at, "cascade", i), is_last=i == last, given=self._pledging(given, is_last=i == last))
                for i, item in enumerate(spec.cascade)
            ]
            if self.pledges is not None:
                built = self._pledged(self.pledges, spec.cascade, built, at)
            tiers = [tier for tier in built if tier is not None]
            # A cascade that others follow gives up for them; only the last has to make do with what it has.
            inner = Cascade(tiers, spec.on_exhausted or ("best" if is_last else "error")) if tiers else None
        elif spec.choose is not None:
            inner = self._choose(spec.choose, at, given, spec.on_exhausted or ("best" if is_last else "error"))
        else:
            inner = self._leaf(spec, at, given)
        written = self.checks.read(spec.checks, (*at, "checks"))
        hold = self._hold(spec, [one.check for one in written], at)
        if inner is None:
            self.checks.bind(written, None)
            return None
        if spec.slots or spec.timeout_s or spec.max_cost_usd is not None:
            name = f"{self.spec.policy}/{'/'.join(str(part) for part in at)}"
            slots = self.runtime.places(name, spec.slots) if spec.slots else None
            inner = Limited(_name(spec), inner, slots, spec.timeout_s, spec.max_cost_usd)
        if len(at) > len(ANSWER):
            inner = self._cached(spec, inner, at, is_judged=is_judged)
        place = f"{self.spec.policy}/{'/'.join(str(part) for part in at)}"
        odds = self.runtime.odds.setdefault(place, Odds())
        checks = self.checks.bind(written, inner)
        return Tier(_name(spec), inner, checks, hold, odds, self._waker(spec), self._racing(spec, at, is_last))

    def _pledging(self, given: Given, *, is_last: bool) -> Given:
        return given if is_last or self.pledges is None else given._replace(is_judged=True)

    def _cached(self, spec: NodeSpec, inner: Responder, at: Loc, *, is_judged: bool) -> Responder:
        """`is_judged`: checks come after it, so that what is kept might be what they reject."""
        if spec.cache is False:
            return inner
        if is_judged:
            message = "what is kept here is judged afterwards, and might be rejected each time"
            self._wrong((*at, "cache"), message, "say it of the node around, or of the route's answer")
            return inner
        node = cached(spec.cache, _name(spec), inner, at, self.spec, self.around, self.checks)
        if node.alike is not None:
            self.services.preparations.append(node.alike.prepare)
        return node

    def _pledged(
        self, pledges: Pledges, specs: Sequence[NodeSpec], tiers: Sequence[Tier | None], at: Loc
    ) -> list[Tier | None]:
        """The tiers of a cascade; all but the last are judged under the policy's promise."""
        named = self.spec.quality.strong if self.spec.quality is not None else None
        strong = self.models.get(named or _models_of(specs[-1])[-1])
        if strong is None:
            if named is not None:
                self._wrong(("quality", "strong"), f"no model is called '{named}'", nearest(named, self.models))
            return list(tiers)
        route = self.spec.routes[int(at[1])].name
        return [
            pledges.put(tier, spec, arm_of(self.spec.policy, route, spec.model), strong) if tier is not None else None
            for tier, spec in zip(tiers, specs, strict=True)
        ]

    def _racing(self, spec: NodeSpec, at: Loc, is_last: bool) -> Racing | None:
        if spec.race is None:
            return None
        if is_last or "cascade" not in at[-2:-1]:
            self._wrong((*at, "race"), "there is no next tier to ask beside this one")
            return None
        said = spec.race if isinstance(spec.race, RaceSpec) else RaceSpec(after_s=spec.race)
        return Racing(None if said.after_s == "auto" else said.after_s, said.doubt, said.prefer)

    def _choose(self, spec: ChooseSpec, at: Loc, given: Given, on_exhausted: Literal["best", "error"]) -> Choose | None:
        """None where nobody is left to choose."""
        candidates: dict[str, Candidate] = {}
        for i, item in enumerate(choices.items_of(spec)):
            tier = self._tier(item, (*at, "choose", "among", i), is_last=False, given=given)
            if tier is None:
                continue
            names = [name for name in _models_of(item) if self.models[name].responder is not None]
            key = ">".join(names)
            key = f"{key}#{i + 1}" if key in candidates else key
            engine = self._on_demand(item)
            load_s = partial(self.runtime.pool.load_s, engine) if engine is not None else float
            models = [(self.entries[name], self.models[name]) for name in names]
            candidates[key] = choices.candidate_of(tier, key, models, self.runtime.home, load_s)
        if not candidates:
            return None
        place = f"{self.spec.policy}/{'/'.join(str(part) for part in at)}"
        try:
            self.runtime.profiles.want()
            terms = choices.terms_of(spec, read_lambdas(self.runtime.home).get(place))
        except ConfigError as exc:
            self.problems.extend(problem for problem in exc.problems if problem not in self.problems)
            return None
        return Choose(list(candidates.values()), terms, self.runtime.profiles, on_exhausted)

    def _waker(self, spec: NodeSpec) -> Callable[[float], None] | None:
        """Has the pool load its first model ahead of need, where that is on demand."""
        engine = self._on_demand(spec)
        return partial(self.runtime.pool.prefetch, engine) if engine is not None else None

    def _on_demand(self, spec: NodeSpec) -> Engine | None:
        """The server of its first model, where that is loaded on demand."""
        first = self.models.get(_models_of(spec)[0])
        server = first.card.get("base", first.name) if first is not None else None  # an adapter's is its base's
        engine = next((engine for engine in self.engines if engine.name == server), None)
        return engine if engine is not None and engine.residency is Residency.ON_DEMAND else None

    def _leaf(self, spec: NodeSpec, at: Loc, given: Given) -> Responder | None:
        name = spec.model or ""
        model = self.models.get(name)
        if model is None:
            self._wrong((*at, "model"), f"no model is called '{name}'", nearest(name, self.models))
            return None
        leaf = model.responder
        if leaf is None:
            return None
        if spec.typed and not (isinstance(leaf, Scorer) and leaf.can_score):
            self._wrong((*at, "typed"), f"model '{name}' cannot score options: that wants one of engine llama.cpp")
        leaf = self._typed(name, leaf, given)
        if given.shards is not None and (given.typed or name not in self.readers):  # it is proven as it picks, too
            self.readers[name] = leaf
        base = self._with_shards(name, leaf, given.shards)
        place = self._place(name, base, spec, at, given) if given.adapters and name != given.larger else None
        answering = base if place is None else WithAdapters(place, self.runtime.specialists)
        return answering if model.with_fallbacks is None else model.with_fallbacks.around(answering)

    def _typed(self, name: str, leaf: Responder, given: Given) -> Responder:
        if not (given.typed and isinstance(leaf, Scorer) and leaf.can_score):
            return leaf
        from gateway.responders.typed import Typed  # the rules that tell closed requests take a while to import

        version = reader_of(name, self.entries[name], self.runtime.home).fingerprint
        return Typed(name, leaf, self.runtime.priors, f"{name} {version}")

    def _with_shards(self, name: str, leaf: Responder, wanted: Wanted | None) -> Responder:
        """Args: `name`: of the model that they are proven for."""
        if wanted is None:
            return leaf
        reader = reader_of(name, self.entries[name], self.runtime.home)
        return WithShards(name, leaf, reader, self.runtime.bookcase, wanted)

    def _place(self, name: str, base: Responder, spec: NodeSpec, at: Loc, given: Given) -> Place | None:
        """Of a model that learns. An adapter of it needs no worked examples: it has learned them."""
        said = self.spec.quality.strong if self.spec.quality is not None else None
        strong = self.models.get(said or given.larger or "")
        if name not in self.around.trainable:
            if spec.adapters:
                message = f"model '{name}' cannot learn: that wants a GGUF model of engine llama.cpp"
                self._wrong((*at, "adapters"), message)
            return None
        if not self.spec.learn:
            self._wrong((*at, "adapters"), "nothing is kept to learn from", "say 'learn: true' in this policy")
        if strong is None:
            self._wrong((*at, "adapters"), f"'{name}' has nobody to learn from", "put it before a larger model")
        if strong is None or strong.responder is None:
            return None
        wanted = given.shards
        if wanted is not None:
            wanted = replace(wanted, kinds=wanted.kinds - {Kind.PROCESS})
        adapters = {
            full: self._with_shards(name, self._typed(full, leaf, given), wanted)
            for full in self.around.trained.get(name, ())
            if (leaf := self.models[full].responder) is not None
        }
        is_reviewed = self.spec.review == "required"
        place = Place(self.spec.policy, name, base, adapters, strong.name, strong.responder, is_reviewed)
        if not any((one.policy, one.model) == (place.policy, name) for one in self.around.places):
            self.around.places.append(place)
        return place

    def _hold(self, spec: NodeSpec, checks: Sequence[Check], at: Loc) -> int:
        """Words to keep back: all if any check must see the whole draft, else the longest prefix that one asks for."""
        if not checks or spec.hold == "none":
            if checks and spec.hold == "none":
                self._wrong((*at, "hold"), "with nothing held, checks can reject nothing")
            return 0
        if spec.hold == "auto":
            prefixes = [check.prefix_words for check in checks]
            return max((words for words in prefixes if words is not None), default=0) if None not in prefixes else WHOLE
        if spec.hold == "all":
            return WHOLE
        whole = [check.name for check in checks if not check.can_fail_prefix]
        if whole:
            message = f"{', '.join(whole)} must see the whole draft, and 'hold: {spec.hold}' keeps a prefix"
            self._wrong((*at, "hold"), message, "take 'hold: auto'")
        return int(spec.hold)

    def _whys(self, spec: NodeSpec) -> str:
        names = dict.fromkeys(_models_of(spec))
        return "; ".join(f"{name}: {self.models[name].why}" for name in names if name in self.models)

    def _wrong(self, loc: Loc, message: str, hint: str = "") -> None:
        self.problems.append(self.document.problem(loc, message, hint))


def _wanted(said: bool | GiveSpec) -> Wanted | None:
    if said is False:
        return None
    spec = GiveSpec() if said is True else said
    return Wanted(frozenset(Kind(kind) for kind in spec.kinds), spec.budget_tokens)


def _models_of(spec: NodeSpec) -> list[str]:
    inner = choices.items_of(spec.choose) if spec.choose is not None else spec.cascade
    return [spec.model or ""] if inner is None else [name for item in inner for name in _models_of(item)]


def _name(spec: NodeSpec) -> str:
    return spec.model or ("cascade" if spec.cascade is not None else "choose")


def plan(spec: NodeSpec, models: dict[str, Model]) -> Json:
    """The answer's tree for people: what YAML says, with inactive models marked."""
    out: Json = spec.model_dump(exclude_defaults=True, exclude={"cascade", "choose"}, mode="json")
    if spec.cascade is not None:
        out["cascade"] = [plan(item, models) for item in spec.cascade]
    elif spec.choose is not None:
        said: Json = spec.choose.model_dump(exclude_defaults=True, exclude={"among"}, mode="json")
        out["choose"] = {"among": [plan(item, models) for item in choices.items_of(spec.choose)], **said}
    elif spec.model in models and models[spec.model].responder is None:
        out["inactive"] = models[spec.model].why
    return out
