"""`similar_to`: is the user's last text like one of these utterances? A list of them, or `{examples, not, floor}`."""

from collections.abc import Mapping
from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.likeness import SemanticRoute, Utterances
from gateway.routing.services import Services
from gateway.routing.signals import Noted, signal, some_texts

MOST = 1000
KEYS = ("examples", "not", "floor")
TEXTS = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "items": {"type": "string", "minLength": 1}},
                ]
            },
        },
    ]
}
SCHEMA = {
    "anyOf": [
        *TEXTS["anyOf"],
        {
            "type": "object",
            "required": ["examples"],
            "additionalProperties": False,
            "properties": {
                "examples": TEXTS,
                "not": TEXTS,
                "floor": {"anyOf": [{"const": "auto"}, {"type": "number", "minimum": 0, "maximum": 1}]},
            },
        },
    ]
}


def prepare(argument: Any) -> Utterances:
    said = argument if isinstance(argument, Mapping) else {"examples": argument}
    unknown = next((key for key in said if key not in KEYS), None)
    if unknown is not None or "examples" not in said:
        raise ValueError("wants a list of utterances, or {examples: […], not: […], floor: auto}")
    floor = said.get("floor", "auto")
    if floor != "auto" and (isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1):
        raise ValueError("'floor' wants auto, or a number from 0 to 1")
    examples, against = _texts(said["examples"]), _texts(said["not"]) if "not" in said else ()
    if len(examples) + len(against) > MOST:
        raise ValueError(f"wants at most {MOST} utterances")
    return Utterances(examples, against, None if floor == "auto" else float(floor))


def _texts(said: Any) -> tuple[str, ...]:
    """Lists may hold lists, so that YAML's anchors can put one together of others."""
    if isinstance(said, list):
        said = [text for item in said for text in (item if isinstance(item, list) else [item])]
    return some_texts(said, "a list of utterances")


def bind(said: Utterances, services: Services) -> SemanticRoute:
    route = SemanticRoute(said, services.embeddings, services.errands, services.in_turn)
    services.preparations.append(route.prepare)
    return route


@signal("similar_to", "match", prepare=prepare, bind=bind, schema=SCHEMA)
async def similar_to(request: ChatRequest, argument: SemanticRoute) -> Noted:
    return await argument.judge(request)
