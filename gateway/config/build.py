"""From what the files say to live objects: one immutable `Gateway`. Names are resolved here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydantic import ValidationError

from gateway.chat import ChatRequest, Json, Responder
from gateway.checks import CHECKS, Check
from gateway.config import plugins
from gateway.config.conditions import Reader
from gateway.config.files import Config, PolicyFile
from gateway.config.leaves import Surroundings, model_of
from gateway.config.lines import Loc, nearest
from gateway.config.readers import reader_of
from gateway.config.spec import GiveSpec, ModelsFileSpec, NodeSpec, ShardsSpec
from gateway.engines import Residency
from gateway.engines.footprint import UNLIMITED, Footprint
from gateway.engines.memory import machine, parse_bytes
from gateway.errors import ConfigError, InvalidRequest, Problem
from gateway.gateway import Gateway, Model
from gateway.responders.cascade import Cascade
from gateway.responders.hold import WHOLE, Tier
from gateway.responders.limited import Limited, Slots
from gateway.responders.odds import Odds
from gateway.responders.with_shards import WithShards
from gateway.routing.policy import Policy, Route
from gateway.runtime import Runtime
from gateway.shards import Kind, Scope
from gateway.shards.orders import Orders, Sharing, Source, Subject, Wanted
from gateway.tokens import Counter
from gateway.trace import Trace

DEFAULT_POLICY, DEFAULT_ALIAS = "default", "auto"


def build(config: Config, runtime: Runtime) -> Gateway:
    """Raises: ConfigError with every fault found."""
    plugins.load()
    problems: list[Problem] = []
    around = Surroundings(config, runtime, problems, engines=[])
    models = {name: model_of(entry, around) for name, entry in config.models.items()}
    policies: dict[str, Policy] = {}
    readers: set[str] = set()
    for file in config.policies:
        policy = _PolicyBuilder(file, models, around, readers).build()
        for place, name in (("policy", policy.name), *(("serves", alias) for alias in policy.serves)):
            if name in models:
                problems.append(file.document.problem((place,), f"'{name}' is the name of a model"))
            elif name in policies and policies[name] is not policy:
                problems.append(file.document.problem((place,), f"'{name}' is taken by policy '{policies[name].name}'"))
            policies[name] = policy
    if DEFAULT_POLICY in policies:
        if DEFAULT_ALIAS in models:
            document = config.models_document
            hint = f"'{DEFAULT_ALIAS}' is an alias of the policy '{DEFAULT_POLICY}'"
            problems.append(document.problem(("models", DEFAULT_ALIAS), "this name is taken", hint))
        policies.setdefault(DEFAULT_ALIAS, policies[DEFAULT_POLICY])
    orders = _orders(config, models, policies, readers, around)
    if problems:
        raise ConfigError(problems)
    engines = tuple(around.engines)
    return Gateway(
        models=models,
        policies=policies,
        record=runtime.record,
        minilm=runtime.minilm,
        conversations=runtime.conversations,
        engines=engines,
        budget=budget_of(config.settings),
        bookcase=runtime.bookcase,
        orders=orders,
    )


def _orders(
    config: Config, models: dict[str, Model], policies: dict[str, Policy], readers: set[str], around: Surroundings
) -> Orders:
    """Whom shards are proven for, and who writes them."""

    def subject(name: str) -> Subject | None:
        responder = models[name].responder
        return Subject(reader_of(name, config.models[name], around.runtime.home), responder) if responder else None

    said, author = config.settings.shards, None
    if said.author is not None:
        if said.author not in models:
            problem = f"no model is called '{said.author}'"
            hint = nearest(said.author, models)
            around.problems.append(config.models_document.problem(("shards", "author"), problem, hint))
        else:
            author = subject(said.author)
    reviewed = frozenset(policy.name for policy in policies.values() if policy.review)
    subjects = tuple(found for name in sorted(readers) if (found := subject(name)) is not None)
    return Orders(subjects, author, reviewed, said.prove == "auto", _sharing(said))


def _sharing(said: ShardsSpec) -> Sharing:
    sources = tuple(
        Source(
            one.name,
            one.url,
            one.publisher,
            one.api_key,
            one.interval_s,
            one.review == "required",
            Scope(one.scope),
        )
        for one in said.subscribe
    )
    return Sharing(sources, said.trust, said.publish, said.republish)


def budget_of(settings: ModelsFileSpec) -> Footprint:
    """What all local models together may take of this machine. GPUs that nothing is known of are not limited."""
    here = machine()
    gpu_bytes = parse_bytes(settings.gpu_memory_budget, here.gpu_bytes) if here.gpu_bytes else UNLIMITED.gpu_bytes
    return Footprint(parse_bytes(settings.memory_budget, here.ram_bytes), gpu_bytes)


class Inactive:
    """Stands where a policy names only models that are switched off."""

    def __init__(self, why: str) -> None:
        self.why = why

    async def respond(self, request: ChatRequest, emit: Any, trace: Trace) -> Any:
        holds = " and ".join(dict.fromkeys(modality for modality, _ in request.media))
        raise InvalidRequest(f"no model for {holds} content: {self.why}" if holds else self.why, param="model")


class _PolicyBuilder:
    def __init__(self, file: PolicyFile, models: dict[str, Model], around: Surroundings, readers: set[str]) -> None:
        self.spec, self.document, self.models, self.problems = file.spec, file.document, models, around.problems
        self.engines, self.runtime, self.entries = around.engines, around.runtime, around.config.models
        self.readers = readers

    def build(self) -> Policy:
        reader = Reader(self.document, self.problems)
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
        return Policy(said.policy, said.serves, tuple(routes), said.learn, is_reviewed, tuple(said.remember))

    def _counter(self, spec: NodeSpec) -> Counter | None:
        """Of the model that is asked first."""
        models = (self.models.get(name) for name in _models_of(spec))
        return next((model.counter for model in models if model is not None and model.responder is not None), None)

    def _node(self, spec: NodeSpec, at: Loc) -> Responder | None:
        """The live tree; None where nothing in it is active."""
        tier = self._tier(spec, at)
        if tier is None:
            return None
        return Cascade([tier], spec.on_exhausted or "best") if tier.checks else tier.responder

    def _tier(self, spec: NodeSpec, at: Loc, *, is_last: bool = True, given: Wanted | None = None) -> Tier | None:
        """A node with its limits and checks, which the cascade around it applies. `given`: the shards that the node
        around it says."""
        inner: Responder | None
        given = given if spec.shards is None else _wanted(spec.shards)
        if spec.cascade is not None:
            last = len(spec.cascade) - 1
            built = [
                self._tier(item, (*at, "cascade", i), is_last=i == last, given=given)
                for i, item in enumerate(spec.cascade)
            ]
            tiers = [tier for tier in built if tier is not None]
            # A cascade that others follow gives up for them; only the last has to make do with what it has.
            inner = Cascade(tiers, spec.on_exhausted or ("best" if is_last else "error")) if tiers else None
        else:
            inner = self._leaf(spec.model or "", (*at, "model"), given)
        checks = self._checks(spec.checks, (*at, "checks"))
        hold = self._hold(spec, checks, at)
        if inner is None:
            return None
        if spec.slots or spec.timeout_s or spec.max_cost_usd is not None:
            slots = Slots(spec.slots) if spec.slots else None
            inner = Limited(_name(spec), inner, slots, spec.timeout_s, spec.max_cost_usd)
        place = f"{self.spec.policy}/{'/'.join(str(part) for part in at)}"
        odds = self.runtime.odds.setdefault(place, Odds())
        return Tier(_name(spec), inner, checks, hold, odds, self._waker(spec))

    def _waker(self, spec: NodeSpec) -> Callable[[float], None] | None:
        """Has the pool load its first model ahead of need, where that is on demand."""
        first = self.models.get(_models_of(spec)[0])
        server = first.card.get("base", first.name) if first is not None else None  # an adapter's is its base's
        engine = next((engine for engine in self.engines if engine.name == server), None)
        if engine is None or engine.residency is not Residency.ON_DEMAND:
            return None
        return partial(self.runtime.pool.prefetch, engine)

    def _leaf(self, name: str, at: Loc, given: Wanted | None) -> Responder | None:
        model = self.models.get(name)
        if model is None:
            self._wrong(at, f"no model is called '{name}'", nearest(name, self.models))
            return None
        if given is None or model.responder is None:
            return model.responder
        self.readers.add(name)
        reader = reader_of(name, self.entries[name], self.runtime.home)
        return WithShards(name, model.responder, reader, self.runtime.bookcase, given)

    def _checks(self, items: Sequence[str | dict[str, Any]], at: Loc) -> tuple[Check, ...]:
        found = []
        for i, item in enumerate(items):
            here = (*at, i)
            if isinstance(item, str):
                name, parameters = item, None
            elif len(item) == 1:
                name, parameters = next(iter(item.items()))
            else:
                self._wrong(here, "wants one check: a name, or a name with its parameters")
                continue
            check = self._check(name, parameters, here)
            if check is not None:
                found.append(check)
        return tuple(found)

    def _check(self, name: str, parameters: Any, at: Loc) -> Check | None:
        kind = CHECKS.get(name)
        if kind is None:
            self._wrong(at, f"unknown check '{name}'", nearest(name, CHECKS))
            return None
        fields = list(kind.__dataclass_fields__)
        if parameters is None:
            parameters = {}
        elif not isinstance(parameters, dict) or (name == "json_schema" and not set(parameters) <= set(fields)):
            if not fields:
                self._wrong(at, f"check '{name}' takes no parameters")
                return None
            parameters = {fields[0]: parameters}  # the short form: the first field's value alone
        try:
            check: Check = kind(**parameters)
        except ValidationError as exc:
            for error in exc.errors(include_input=False, include_url=False):
                key = ".".join(str(part) for part in error["loc"] if part != name) or name
                unknown = error["type"] in ("unexpected_keyword_argument", "extra_forbidden")
                message = f"unknown parameter '{key}'" if unknown else error["msg"].removeprefix("Value error, ")
                hint = nearest(key, fields) if unknown else ""
                place = (*at, name, *(part for part in error["loc"]))
                self._wrong(place, message, hint)
            return None
        return check

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
    if spec.cascade is None:
        return [spec.model or ""]
    return [name for item in spec.cascade for name in _models_of(item)]


def _name(spec: NodeSpec) -> str:
    return spec.model or "cascade"


def plan(spec: NodeSpec, models: dict[str, Model]) -> Json:
    """The answer's tree for people: what YAML says, with inactive models marked."""
    out: Json = spec.model_dump(exclude_defaults=True, exclude={"cascade"}, mode="json")
    if spec.cascade is not None:
        out["cascade"] = [plan(item, models) for item in spec.cascade]
    elif spec.model in models and models[spec.model].responder is None:
        out["inactive"] = models[spec.model].why
    return out
