"""The gateway: decide who answers, let them respond, record what happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from gateway.access.keys import KeyInfo
from gateway.caching import Keeping
from gateway.caching.answers import AnswerCache
from gateway.chat import Answer, ChatRequest, CostCap, Emit, Json, Responder
from gateway.chunks import Chunk
from gateway.conversations import Conversations, Maker, are_tied
from gateway.embedding import Embedded, Embedder, EmbeddingRequest, Ranked, Reranker, RerankRequest, VectorModel
from gateway.embedding.minilm import NAMES, MiniLM
from gateway.engines import Engine
from gateway.engines.footprint import UNLIMITED, Footprint
from gateway.errors import BackendError, ChecksFailed, InvalidRequest, LoopDetected, ModalityRefused, UnknownModel
from gateway.history import mark_of_call, open_calls
from gateway.quality.promises import Pledge, Promises
from gateway.responders.cascade import models_in
from gateway.responders.fallbacks import Fallbacks
from gateway.routing.policy import Decision, Facts, Known, Policy, Route
from gateway.routing.services import Sessions
from gateway.routing.signals import Noted
from gateway.shards.bookcase import Bookcase
from gateway.shards.orders import Orders
from gateway.tokens import Counter
from gateway.trace import RequestTrace
from gateway.training.jobs import Trainables, Trainer
from gateway.training.loop import Loop
from gateway.training.specialists import Curriculum, Specialists

MAX_HOPS = 8
DIRECT = "direct"  # shown as the policy of a request that names a model


@dataclass(frozen=True)
class Model:
    """An entry of models.yaml as the gateway serves it. `responder` is None while it is inactive, and `why` says so.

    `with_fallbacks`: the same with those who stand in for it, which is what answers requests; None where nobody does.
    `counter`: counts a request's tokens as it does. `look`: what is known of it only while its server is there.
    `vectors`: what asks it for embeddings and reranks; None where it has none, and while it is inactive.
    `owner`: the key that had it trained, and whose alone it is.
    """

    name: str
    engine: str
    responder: Responder | None
    why: str = ""
    stated: Json | None = None
    counter: Counter | None = None
    look: Callable[[], Json] | None = None
    vectors: VectorModel | None = None
    owner: str | None = None
    with_fallbacks: Fallbacks | None = None

    @property
    def answering(self) -> Responder | None:
        """Answers requests for it."""
        return self.with_fallbacks or self.responder

    @property
    def card(self) -> Json:
        """What /v1/models and `gateway models` show of it."""
        return {**(self.stated or {}), **(self.look() if self.look else {})}


@dataclass(frozen=True)
class Gateway:
    """Immutable: a reload builds another one. `policies` has each policy under its name and all its aliases; `engines`
    are the servers that its models need, `budget` what those may take of this machine together, `minilm` the built-in
    embedding model; `conversations` and `bookcase` outlive it, and `orders` say what is to be done for shards.
    `sessions`: where a rule asks who answered last; `preparations`: see `prepare`; `trainables`: what `trainer`, which
    outlives it, may train; `curriculum`: what `loop` learns by itself, and whom `specialists` choose from; `keeping`:
    what of `answers`, which outlive it, is kept where; `key`: for which it is, with the names that it may ask for."""

    models: Mapping[str, Model]
    policies: Mapping[str, Policy]
    record: Callable[[RequestTrace], None]
    minilm: MiniLM
    conversations: Conversations
    engines: tuple[Engine, ...] = ()
    budget: Footprint = UNLIMITED
    bookcase: Bookcase | None = None
    answers: AnswerCache | None = None
    keeping: Keeping = Keeping()
    promises: Promises | None = None
    pledges: tuple[Pledge, ...] = ()
    orders: Orders = Orders()
    sessions: Sessions | None = None
    preparations: tuple[Callable[[], Awaitable[None]], ...] = ()
    trainer: Trainer | None = None
    trainables: Trainables = Trainables()
    specialists: Specialists | None = None
    loop: Loop | None = None
    curriculum: Curriculum = Curriculum()
    key: KeyInfo | None = None

    def seen_by(self, key: KeyInfo) -> Gateway:
        """The same gateway with the names that this key may ask for, and no others."""
        allows = key.limits.allows
        models = {n: model for n, model in self.models.items() if allows(n) and model.owner in (None, key.name)}
        policies = {name: one for name, one in self.policies.items() if allows(name) or allows(one.name)}
        return replace(self, models=models, policies=policies, key=key)

    async def prepare(self) -> None:
        """Work out beforehand what its rules need; without it, the first requests begin that. Raises nothing."""
        for one in self.preparations:
            await one()

    async def answer(
        self, request: ChatRequest, emit: Emit, trace: RequestTrace, max_cost_usd: float | None = None
    ) -> Answer:
        """Raises: RequestError, BackendError."""
        _refuse_loop(request.hops)
        with trace:
            if max_cost_usd is not None:
                request = replace(request, caps=(*request.caps, CostCap(trace, max_cost_usd)))
            if not request.is_plain and are_tied(request.messages):
                request = replace(request, maker_of=self.conversations.maker_of(request.key))
            try:
                answer = await self._respond(request, emit, trace)
            except ModalityRefused as error:
                raise self._with_hints(error, request) from None
            trace.answered_by = answer.model
            maker = Maker(answer.model, trace.policy, trace.route)
            self.conversations.note(request.key, answer.body, maker)
            if self.sessions is not None:
                self.sessions.note(request, maker)
            policy = self.policies.get(trace.policy or "")
            if policy is not None and policy.arms and self.promises is not None:
                self.promises.settle(request, answer, trace)
            if policy is not None and policy.learn and self.bookcase is not None:
                self.bookcase.note(policy.name, request, answer, trace)
            if policy is not None and policy.learn and self.specialists is not None:
                self.specialists.settle(policy.name, request, answer, trace)
            return answer

    async def _respond(self, request: ChatRequest, emit: Emit, trace: RequestTrace) -> Answer:
        policy = self.policy_for(request)
        if policy is None:
            model = self.model(request.model)
            trace.policy, trace.route = DIRECT, model.name
            assert model.answering is not None  # else it is inactive, and `model` has said so
            return await model.answering.respond(request, emit, trace)
        trace.policy, trace.rivals = policy.name, policy.rivals
        if not policy.rivals_see_alike:
            trace.media = frozenset(kind for kind, _ in request.media)
        if policy.arms and self.promises is not None:
            trace.quality = self.promises.status_of(policy.arms)
        kept = self._kept(request, policy)
        if kept is not None:
            return await self._stay(*kept, policy, request, emit, trace)
        facts = Facts(request, trace)
        decision = policy.told(facts) or await policy.decide(request, facts)
        return await _go(decision, request, emit, trace)

    def _kept(self, request: ChatRequest, policy: Policy) -> tuple[Route, str] | None:
        """Where a tool loop under this policy goes on: the route that it began on, while that may still ask the model
        that made the calls."""
        for call in open_calls(request):
            maker = self.conversations.find(request.key, mark_of_call(call))
            if maker is not None and maker.policy == policy.name:
                route = policy.route(maker.route)
                if route is not None and maker.model in models_in(route.answer):
                    return route, maker.model
        return None

    async def _stay(
        self, route: Route, model: str, policy: Policy, request: ChatRequest, emit: Emit, trace: RequestTrace
    ) -> Answer:
        """Where it fails before its first chunk, the policy decides as if for a new request."""
        trace.route = route.name
        trace.note(stayed=True)
        has_spoken = False

        async def pass_on(chunk: Chunk) -> None:
            nonlocal has_spoken
            has_spoken = True
            await emit(chunk)

        try:
            return await route.answer.respond(replace(request, stay_with=model), pass_on, trace)
        except BackendError as error:
            if has_spoken or isinstance(error, ChecksFailed):
                raise
            try:
                decision = await policy.decide(request)
            except InvalidRequest:
                raise error from None
            if decision.route is route and next(models_in(route.answer)) == model:
                raise
            trace.note(stayed=False)
            return await _go(decision, request, emit, trace)

    def _with_hints(self, error: ModalityRefused, request: ChatRequest) -> ModalityRefused:
        """The same refusal, saying which other models would take what the request holds."""
        if error.kind is None:
            return error
        wanted = {modality for modality, _ in request.media}
        cards = ((model, model.card) for model in self.models.values())
        able = [model for model, card in cards if wanted <= set(card.get("accepts", ())) and card.get("chats", True)]
        active = [f"'{model.name}'" for model in able if model.responder is not None]
        inactive = [f"'{model.name}' ({model.why})" for model in able if model.responder is None]
        message = error.message
        if active:
            message += f"; {', '.join(active)} can be asked for it by name"
        elif inactive:
            message += f"; no active model does, and {', '.join(inactive)} would but is inactive"
        return ModalityRefused(message, kind=error.kind)

    async def embed(self, request: EmbeddingRequest, trace: RequestTrace) -> Embedded:
        """Raises: RequestError, BackendError."""
        _refuse_loop(request.hops)
        with trace:
            embedder = self.embedder(request.model)
            trace.policy, trace.route = DIRECT, embedder.name
            embedded = await embedder.embed(request, trace)
            trace.answered_by = embedded.model
            return embedded

    async def rerank(self, request: RerankRequest, trace: RequestTrace) -> Ranked:
        """Raises: RequestError, BackendError."""
        _refuse_loop(request.hops)
        with trace:
            reranker = self.reranker(request.model)
            trace.policy, trace.route = DIRECT, reranker.name
            ranked = await reranker.rerank(request, trace)
            trace.answered_by = ranked.model
            return ranked

    def embedder(self, name: str) -> Embedder:
        """A model of models.yaml, or the built-in one. Raises: UnknownModel, InvalidRequest for one that has none."""
        return self._vector_model(name, "embed")

    def reranker(self, name: str) -> Reranker:
        """As `embedder`."""
        return self._vector_model(name, "rerank")

    def _vector_model(self, name: str, verb: str) -> VectorModel:
        own = NAMES if self.key is None else [one for one in NAMES if self.key.limits.allows(one)]
        if name not in self.models and name in own:
            return self.minilm
        able = [model.name for model in self.models.values() if model.vectors is not None]
        names = ", ".join(dict.fromkeys((*own, *able)))
        if name in self.policies:
            message = f"'{name}' is a policy, and policies answer chats: to {verb}, name a model, of {names}"
            raise InvalidRequest(message, param="model")
        if name not in self.models:
            raise UnknownModel(f"no model called '{name[:100]}' can {verb}; there are: {names}")
        model = self.model(name)
        if model.vectors is None:
            message = f"model '{name}' (engine {model.engine}) cannot {verb}; these may: {names}"
            raise InvalidRequest(message, param="model")
        return model.vectors

    def model(self, name: str) -> Model:
        """An active model. Raises: UnknownModel."""
        model = self.models.get(name)
        if model is None:
            known = sorted({*self.policies, *(name for name, m in self.models.items() if m.responder)})
            raise UnknownModel(f"no model or policy is called '{name[:100]}'; there are: {', '.join(known)}")
        if model.responder is None:
            raise UnknownModel(f"model '{name}' is inactive: {model.why}")
        return model

    def policy_for(self, request: ChatRequest) -> Policy | None:
        """The policy that the request names, in `x-gateway-policy` or as its model; None if it names none."""
        named = request.headers.get("x-gateway-policy")
        if named is None:
            return self.policies.get(request.model)
        if named not in self.policies:
            raise InvalidRequest(f"no policy is called '{named[:100]}'", param="x-gateway-policy")
        return self.policies[named]


def _go(decision: Decision, request: ChatRequest, emit: Emit, trace: RequestTrace) -> Awaitable[Answer]:
    trace.route = decision.route.name
    known = decision.facts.known
    if decision.stays:
        trace.note(sticky=True)
    trace.note(signals=known)  # written out with the journal, off the request's path
    if (difficulty := _difficulty(known)) is not None:
        request = replace(request, difficulty=difficulty)
    return decision.route.answer.respond(request, emit, trace)


def _difficulty(known: Known) -> float | None:
    for (name, _), (value, _) in known.signals.items():
        if name == "difficulty":
            found = value.value if isinstance(value, Noted) else value
            return found if isinstance(found, float) else None
    return None


def _refuse_loop(hops: int) -> None:
    if hops >= MAX_HOPS:
        raise LoopDetected(f"this request has passed {hops} gateways: do they point at each other?")
