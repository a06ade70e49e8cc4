"""The gateway: decide who answers, let them respond, record what happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gateway.chat import Answer, ChatRequest, CostCap, Emit, Json, Responder
from gateway.engines import Engine
from gateway.errors import InvalidRequest, LoopDetected, ModalityRefused, UnknownModel
from gateway.routing.policy import Policy
from gateway.tokens import Counter
from gateway.trace import RequestTrace

MAX_HOPS = 8
DIRECT = "direct"  # shown as the policy of a request that names a model


@dataclass(frozen=True)
class Model:
    """An entry of models.yaml as the gateway serves it. `responder` is None while it is inactive, and `why` says so.

    `counter`: counts a request's tokens as it does. `look`: what is known of it only while its server is there.
    """

    name: str
    engine: str
    responder: Responder | None
    why: str = ""
    stated: Json | None = None
    counter: Counter | None = None
    look: Callable[[], Json] | None = None

    @property
    def card(self) -> Json:
        """What /v1/models and `gateway models` show of it."""
        return {**(self.stated or {}), **(self.look() if self.look else {})}


@dataclass(frozen=True)
class Gateway:
    """Immutable: a reload builds another one. `policies` has each policy under its name and all its aliases; `engines`
    are the servers that its models need."""

    models: Mapping[str, Model]
    policies: Mapping[str, Policy]
    record: Callable[[RequestTrace], None]
    engines: tuple[Engine, ...] = ()

    async def answer(
        self, request: ChatRequest, emit: Emit, trace: RequestTrace, max_cost_usd: float | None = None
    ) -> Answer:
        """Raises: RequestError, BackendError."""
        if request.hops >= MAX_HOPS:
            raise LoopDetected(f"this request has passed {request.hops} gateways: do they point at each other?")
        with trace:
            responder = await self._choose(request, trace)
            if max_cost_usd is not None:
                request = replace(request, caps=(CostCap(trace, max_cost_usd),))
            try:
                answer = await responder.respond(request, emit, trace)
            except ModalityRefused as error:
                raise self._with_hints(error, request) from None
            trace.answered_by = answer.model
            return answer

    async def _choose(self, request: ChatRequest, trace: RequestTrace) -> Responder:
        policy = self.policy_for(request)
        if policy is not None:
            trace.policy = policy.name
            decision = await policy.decide(request)
            trace.route = decision.route.name
            trace.note(signals=decision.facts.as_json(for_journal=True))
            return decision.route.answer
        model = self.model(request.model)
        trace.policy, trace.route = DIRECT, model.name
        assert model.responder is not None  # else it is inactive, and `model` has said so
        return model.responder

    def _with_hints(self, error: ModalityRefused, request: ChatRequest) -> ModalityRefused:
        """The same refusal, saying which other models would take what the request holds."""
        if error.kind is None:
            return error
        wanted = {modality for modality, _ in request.media}
        able = [model for model in self.models.values() if wanted <= set(model.card.get("accepts", ()))]
        active = [f"'{model.name}'" for model in able if model.responder is not None]
        inactive = [f"'{model.name}' ({model.why})" for model in able if model.responder is None]
        message = error.message
        if active:
            message += f"; {', '.join(active)} can be asked for it by name"
        elif inactive:
            message += f"; no active model does, and {', '.join(inactive)} would but is inactive"
        return ModalityRefused(message, kind=error.kind)

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
