"""What models.yaml and policies/*.yaml may say. Pydantic only, no I/O; the files shipped are its reference."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from gateway.config.address_specs import ApiKey, HeaderName, HeaderValue, Spec, WebAddress
from gateway.config.model_specs import NAME, Dollars, Seconds, as_written
from gateway.engines.memory import parse_bytes
from gateway.live import Edge
from gateway.telemetry.settings import Told
from gateway.transport import is_network


class JournalSpec(Spec):
    max_age_days: float = Field(default=30, gt=0)
    max_size_mb: float = Field(default=512, gt=0)


def _network(text: str) -> str:
    if not is_network(text):
        raise ValueError("wants an address, a network such as 10.0.0.0/8, or unix")
    return text


def _origin(text: str) -> str:
    if text != "*" and not re.fullmatch(r"[a-zA-Z*][a-zA-Z0-9+.*-]*://[^/\s]+/?", text):
        raise ValueError("wants an origin such as https://app.example.org, or *")
    return text


def _memory_size(text: str) -> str:
    parse_bytes(text, total=2**40)
    return text


MemorySize = Annotated[str, BeforeValidator(as_written), AfterValidator(_memory_size)]


PublicKey = Annotated[str, Field(pattern=r"^ed25519:[A-Za-z0-9+/]{43}=$")]


class AdmissionSpec(Spec):
    """How many requests are worked on at once, whatever they ask for; others wait, by the priority of their keys."""

    concurrent: int | None = Field(default=None, ge=1)
    waiting: int | None = Field(default=None, ge=0)  # else four for each of them
    wait_s: Seconds = 60.0  # at most

    @model_validator(mode="after")
    def _has_a_queue(self) -> AdmissionSpec:
        if self.concurrent is None and self.model_fields_set:
            raise ValueError("'concurrent' says how many requests are worked on at once; without it nobody waits")
        return self


class SubscriptionSpec(Spec):
    """The shards of another gateway, which this one follows."""

    name: str = Field(pattern=r"^[a-z0-9_-]{1,64}$")
    url: WebAddress  # of the gateway
    publisher: PublicKey
    api_key: ApiKey | None = None
    interval_s: Seconds = 60.0
    review: Literal["required"] | None = None
    scope: Literal["tenant", "global"] = "global"


class ShardsSpec(Spec):
    """What holds for all shards of this gateway."""

    author: Annotated[str, Field(pattern=NAME)] | None = None  # a large model that writes them; else from examples
    prove: Literal["auto", "by_hand"] = "auto"
    publish: bool = False  # to gateways that subscribe
    republish: bool = False  # also what came from other gateways
    trust: tuple[PublicKey, ...] = ()  # publishers of bundles
    subscribe: tuple[SubscriptionSpec, ...] = ()

    @field_validator("subscribe")
    @classmethod
    def _names_once(cls, value: tuple[SubscriptionSpec, ...]) -> tuple[SubscriptionSpec, ...]:
        if len({one.name for one in value}) < len(value):
            raise ValueError("two subscriptions have the same name")
        return value


class CanarySpec(Spec):
    """How an adapter that has passed the gate comes to answer requests."""

    shadow: int = Field(default=30, ge=0)  # requests that it is only compared on
    steps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.05, 0.25)  # shares of the requests, before all of them
    step: int = Field(default=20, ge=1)  # requests of each step
    confidence: float = Field(default=0.95, gt=0.5, lt=1)

    @field_validator("steps")
    @classmethod
    def _rise(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("each step wants more than the one before")
        return value


class TrainingSpec(Spec):
    """When adapters of local models are trained, where a policy says `adapters: true`."""

    automatic: bool = True  # else only by `gateway train`
    min_pairs: int = Field(default=100, ge=16)
    own_pairs: int = Field(default=300, ge=16)  # of one kind of requests: it gets an adapter of its own
    scrub: bool = False  # take addresses and numbers of people out beforehand
    usd_per_hour: Dollars = 0.05  # what an hour of training costs
    pays_back_days: float = Field(default=30, gt=0)  # within which larger models' prices have to exceed that
    canary: CanarySpec = CanarySpec()
    settings: dict[str, float] = {}  # as `gateway train --set` takes them


class CacheStoreSpec(Spec):
    """Where answers are kept that nodes say `cache` of."""

    store: Literal["memory", "database", "sqlite"] = "memory"  # database: there too; sqlite is its older name
    max_mb: float = Field(default=64, gt=0)


class TelemetrySpec(Spec):
    """Where OpenTelemetry's traces and metrics go; what is left out is as OpenTelemetry's own variables say."""

    otlp: WebAddress | None = None  # a collector's, without /v1/traces
    headers: dict[HeaderName, HeaderValue] = {}
    sample: float | None = Field(default=None, ge=0, le=1)  # share of requests; errors and escalations come with them
    service_name: str | None = Field(default=None, min_length=1, max_length=255)
    metrics: bool = True
    interval_s: Seconds | None = None  # between two exports of the metrics

    @property
    def told(self) -> Told:
        return Told(**self.model_dump())


def _address(text: str, schemes: str, example: str) -> str:
    if not re.fullmatch(rf"({schemes})://\S+", text):
        raise ValueError(f"wants an address such as {example}")
    return text


def _database_url(text: str) -> str:
    return _address(text, "postgresql|postgres", "postgresql://user@host/database")


def _redis_url(text: str) -> str:
    return _address(text, "redis|rediss|unix", "redis://host:6379/0")


class ModelsFileSpec(Spec):
    """models.yaml; each entry of `models` is one of MODEL_SPECS, read by its `engine`."""

    models: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]] = Field(min_length=1)
    journal: JournalSpec = JournalSpec()
    shards: ShardsSpec = ShardsSpec()
    training: TrainingSpec = TrainingSpec()
    cache: CacheStoreSpec = CacheStoreSpec()
    telemetry: TelemetrySpec = TelemetrySpec()
    database_url: Annotated[str, AfterValidator(_database_url)] | None = None  # else SQLite under GATEWAY_HOME
    redis_url: Annotated[str, AfterValidator(_redis_url)] | None = None  # where several gateways keep limits together
    judge: Annotated[str, Field(pattern=NAME)] | None = None  # of conditions in plain language
    memory_budget: MemorySize = "80%"
    gpu_memory_budget: MemorySize = "90%"
    admission: AdmissionSpec = AdmissionSpec()
    body_limit_mb: float = Field(default=32, gt=0)
    prefix_cache_mb: float = Field(default=0, ge=0)  # of disk, for what local models have read of conversations; 0: off
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] | None = None
    trusted_proxies: tuple[Annotated[str, AfterValidator(_network)], ...] = ()
    metrics_key: ApiKey | None = Field(default=None, min_length=16)  # that /metrics asks for; else it is open

    @property
    def body_limit_bytes(self) -> int:
        return int(self.body_limit_mb * 1024 * 1024)

    @property
    def edge(self) -> Edge:
        return Edge(self.cors_origins, self.trusted_proxies, self.metrics_key)


class GiveSpec(Spec):
    """Which shards the models of a node are given."""

    kinds: tuple[Literal["process", "content", "memory"], ...] = Field(
        default=("process", "content", "memory"), min_length=1
    )
    budget_tokens: int | None = Field(default=None, ge=1, le=100_000)  # else as much as the reader has room for


class BudgetSpec(Spec):
    """What a request may cost on average; exactly one of them."""

    usd_per_request: float | None = Field(default=None, gt=0)
    seconds: float | None = Field(default=None, gt=0)
    joules: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_unit(self) -> BudgetSpec:
        if len(self.model_fields_set) != 1 or None in (getattr(self, name) for name in self.model_fields_set):
            raise ValueError("wants exactly one of 'usd_per_request', 'seconds' and 'joules'")
        return self


class ChooseSpec(Spec):
    """Whom to ask is decided before each hop, by what is known of the models."""

    among: tuple[str | NodeSpec, ...] = Field(min_length=2, max_length=4)  # models by name, or nodes
    quality: float | None = Field(default=None, gt=0, lt=1)  # chance of a good answer, for as little as possible
    budget: BudgetSpec | None = None
    explore: float = Field(default=0.02, ge=0, le=0.02)  # share of requests
    latency_weight_usd_per_s: Dollars | None = None  # else 0.001; what a second of waiting costs

    @model_validator(mode="after")
    def _counts_money(self) -> ChooseSpec:
        if self.latency_weight_usd_per_s is not None and self.budget and self.budget.usd_per_request is None:
            raise ValueError("'latency_weight_usd_per_s' is for costs in dollars, and the budget counts something else")
        return self


class SemanticSpec(Spec):
    """Answers to requests that mean the same."""

    above: float = Field(default=0.92, ge=0.5, lt=1)  # cosine of the last words of the user
    checks: tuple[str | dict[str, Any], ...] = Field(min_length=1)  # that the answer passes for the new request


class CacheSpec(Spec):
    """Which answers of a node are kept."""

    ttl_s: float = Field(default=3600, gt=0, le=90 * 86400)
    tools: bool = False  # also of requests with tools
    per_user: bool = False  # users of a key are not given each other's
    semantic: SemanticSpec | None = None


MOST_WAIT_S = 3600
Wait = Annotated[float, Field(ge=0, le=MOST_WAIT_S)] | Literal["auto"]


class RaceSpec(Spec):
    """When the next tier is asked beside this one."""

    after_s: Wait = "auto"  # this one is waited for alone; auto: as long as half of its drafts take
    doubt: float | None = Field(default=None, ge=0, lt=1)  # at once, where the next one is likelier needed than this
    prefer: Literal["first", "earlier"] = "first"  # who speaks, once that time is over


class NodeSpec(Spec):
    """An answer node: exactly one of `model`, `cascade` and `choose`, within what else it says."""

    model: str | None = None
    cascade: tuple[NodeSpec, ...] | None = Field(default=None, min_length=1)
    choose: ChooseSpec | None = None
    checks: tuple[str | dict[str, Any], ...] = ()
    shards: bool | GiveSpec | None = None  # else as the node around it
    typed: bool | None = None  # pick among stated options by their likelihood; else as the node around it
    adapters: bool | None = None  # learn what the larger model answers, and answer it; else as the node around it
    hold: Literal["auto", "all", "none"] | Annotated[int, Field(ge=1, le=100_000)] = "auto"
    slots: int | None = Field(default=None, ge=1)
    timeout_s: Seconds | None = None
    max_cost_usd: Dollars | None = None
    on_exhausted: Literal["best", "error"] | None = None
    cache: bool | CacheSpec = False  # keep answers for the same request
    race: RaceSpec | Wait | None = None  # a time: `after_s`

    @field_validator("race", mode="before")
    @classmethod
    def _says_when(cls, value: Any) -> Any:
        is_time = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST_WAIT_S
        if not (is_time or value in (None, "auto") or isinstance(value, (dict, RaceSpec))):
            raise ValueError(f"wants seconds up to {MOST_WAIT_S}, auto, or {{after_s, doubt, prefer}}")
        return value

    @field_validator("hold", mode="before")
    @classmethod
    def _no_yaml_booleans(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError("wants auto, all, none or a number of words")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> NodeSpec:
        if (self.model, self.cascade, self.choose).count(None) != 2:
            raise ValueError("wants exactly one of 'model', 'cascade' and 'choose'")
        if self.on_exhausted is not None and self.model is not None and not self.checks:
            raise ValueError("'on_exhausted' belongs to a cascade, to a choice or to a model with checks")
        if isinstance(self.hold, int) and not self.checks:
            raise ValueError("'hold' keeps words back for checks, and there are none")
        return self


class RouteSpec(Spec):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    when: dict[str, Any] | None = None
    answer: NodeSpec


class QualitySpec(Spec):
    """A promise: answers are as good as the strong model's, in this share of requests, with this confidence."""

    target: float = Field(default=0.99, gt=0.5, lt=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    strong: Annotated[str, Field(pattern=NAME)] | None = None  # else the last of each cascade
    audit: float = Field(default=0.05, gt=0, le=1)  # share of requests that are compared, once it is certified
    audit_usd_per_day: Dollars | None = None  # for asking the strong model about answers that were accepted
    uncertified: Literal["checks", "escalate"] = "checks"  # who decides until then: the checks, or all go on
    reading: Literal["strict", "net"] = "strict"  # `net`: drafts that beat the strong model offset others
    fixed: bool = False  # thresholds stay as they were learned


class PolicySpec(Spec):
    policy: str = Field(pattern=NAME)
    serves: tuple[Annotated[str, Field(pattern=NAME)], ...] = ()
    learn: bool = False  # keep what a larger model had to answer, to learn from
    review: Literal["required"] | None = None  # of shards made of it, before they are given to anybody
    remember: tuple[Literal["tool", "extract"], ...] = ()
    sticky: bool = False  # conversations stay on their route while its condition holds
    quality: QualitySpec | None = None
    routes: tuple[RouteSpec, ...] = Field(min_length=1)
