"""`difficulty`: the chance, from 0 to 1, that a small model's answer is wrong, as the learned router sees it."""

from gateway.chat import ChatRequest
from gateway.routing.learned import Learned
from gateway.routing.signals import Noted, signal
from gateway.routing.signals.topic import bind


@signal("difficulty", "number", bind=bind)
async def difficulty(request: ChatRequest, argument: Learned) -> Noted:
    forecast = await argument.forecast(request)
    return Noted(round(forecast.difficulty, 4), forecast.note)
