"""`fits`: does the request, with the answer that it asks for, fit into the context of these models?"""

from gateway.backends.admission import reserve_of
from gateway.chat import ChatRequest, Json
from gateway.routing.services import ServedModel
from gateway.routing.signals import Noted, signal
from gateway.routing.signals.warm import Models, bind, names_of
from gateway.tokens import at_least, at_most, estimate_request, longest


@signal("fits", "match", prepare=names_of, bind=bind)
async def fits(request: ChatRequest, argument: Models) -> Noted:
    """All of them. Counted by a model's own tokenizer where bounds do not tell."""
    note: Json = {}
    for model in argument.models:
        if not await _fits(request, model, note):
            return Noted(False, {**note, "too_small": model.name})
    return Noted(True, note)


async def _fits(request: ChatRequest, model: ServedModel, note: Json) -> bool:
    context = model.card().get("context")
    if model.responder is None:
        return False
    if not isinstance(context, int):
        return True  # nobody knows, so that it would be asked
    body, counter = longest(request.body), model.counter
    room = context - answer_tokens(request, context)
    if counter is not None:
        most = at_most(body, counter.template_tokens)
        if most is not None and most <= room:
            return True
        if not counter.only_estimates and at_least(body) > room:
            return False
        count = await counter.count(body)
        note["tokens"] = count.tokens
        if count.estimated:
            note["estimated"] = True
        return count.tokens <= room
    note |= {"tokens": estimate_request(body), "estimated": True}
    return bool(note["tokens"] <= room)


def answer_tokens(request: ChatRequest, context: int) -> int:
    """What the client allows for the answer, all of it; else what is kept free in any case."""
    asked = request.body.get("max_completion_tokens") or request.body.get("max_tokens")
    return asked if isinstance(asked, int) else reserve_of(context, None)
