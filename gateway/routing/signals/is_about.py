"""`is_about`: does the user's last text fit a description in plain language, or one of several?"""

from collections.abc import Mapping
from typing import Any

from gateway.chat import ChatRequest
from gateway.routing.conditions import Conditions, Description
from gateway.routing.services import Services
from gateway.routing.signals import Noted, signal, some_texts
from gateway.trace import Trace

MOST = 8  # each may be a question to a model
TEXT = {"type": "string", "minLength": 1}
TEXTS = {"anyOf": [TEXT, {"type": "array", "minItems": 1, "maxItems": MOST, "items": TEXT}]}
SCHEMA = {
    "anyOf": [
        *TEXTS["anyOf"],
        {
            "type": "object",
            "required": ["text"],
            "additionalProperties": False,
            "properties": {"text": TEXTS, "by": TEXT},
        },
    ]
}


def prepare(argument: Any) -> Description:
    said = argument if isinstance(argument, Mapping) else {"text": argument}
    by = said.get("by")
    if "text" not in said or not said.keys() <= {"text", "by"} or not (by is None or isinstance(by, str)):
        raise ValueError("wants a description, a list of them, or {text: …, by: a model}")
    texts = some_texts(said["text"], "a description, or a list of them")
    if len(texts) > MOST:
        raise ValueError(f"wants at most {MOST} descriptions")
    return Description(tuple(text.rstrip(".") for text in texts), by)


def bind(said: Description, services: Services) -> Conditions:
    judge = said.by or services.judge
    bound = Conditions(said, services.served(judge) if judge is not None else None, services)
    services.preparations.append(bound.prepare)
    return bound


@signal("is_about", "match", prepare=prepare, bind=bind, asks=True, schema=SCHEMA)
async def is_about(request: ChatRequest, argument: Conditions, trace: Trace) -> Noted:
    return await argument.judge(request, trace)
