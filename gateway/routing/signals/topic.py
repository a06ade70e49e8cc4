"""`topic`: what the user's last text is about, as the learned router sees it; None where nothing fits well."""

from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.learned import Learned
from gateway.routing.services import Services
from gateway.routing.signals import Noted, signal


def bind(argument: Any, services: Services) -> Learned:
    """As for `difficulty`: one prediction for both."""
    _ = services.learned.router  # what cannot be read is to be known now
    if services.learned.prepare not in services.preparations:
        services.preparations.append(services.learned.prepare)
    return services.learned


@signal("topic", "text", bind=bind)
async def topic(request: ChatRequest, argument: Learned) -> Noted:
    forecast = await argument.forecast(request)
    return Noted(forecast.topic, forecast.note)
