"""`warm`: could these models begin to answer at once, because they are loaded or need no loading?"""

from dataclasses import dataclass
from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.services import ServedModel, Services
from gateway.routing.signals import signal, some_texts


def names_of(argument: Any) -> tuple[str, ...]:
    return some_texts(argument, "the name of a model, or a list of names")


@dataclass(frozen=True, eq=False)
class Models:
    models: tuple[ServedModel, ...]

    @property
    def shown(self) -> list[str]:
        return [model.name for model in self.models]


def bind(names: tuple[str, ...], services: Services) -> Models:
    return Models(tuple(map(services.served, names)))


@signal("warm", "match", prepare=names_of, bind=bind)
def warm(request: ChatRequest, argument: Models) -> bool:
    return all(model.responder is not None and model.is_loaded() for model in argument.models)
