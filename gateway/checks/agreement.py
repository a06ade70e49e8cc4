"""`agreement`: asked again, the model says the same; or another model does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Json, Responder, Verdict
from gateway.checks import STRICT, Resources, check, with_parts
from gateway.checks.asking import AsksModel, again, choices_of
from gateway.checks.choices import calls_of
from gateway.draft import ChoiceDraft, Draft
from gateway.quality.same import Said, same_answer
from gateway.tasks import together
from gateway.trace import CHECK, Trace

OF_THE_FIRST = frozenset("stream stream_options n best_of seed logprobs top_logprobs echo store background".split())
"""Fields of a request that its second asking goes without: the same seed would give the same answer."""


@check("agreement", soft=True, costly=True, names_models=("model",))
@dataclass(frozen=True, config=STRICT)
class Agreement(AsksModel):
    """The score is the share of further answers that say what the draft says; of several choices, the lowest.

    `samples`: further answers, 3 of the tier's own model and 1 of another `model`. `temperature` is that of the
    request where another model is asked and none is given.
    """

    samples: Annotated[int, Field(ge=1, le=20)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    at_least: Annotated[float, Field(gt=0, le=1)] = 0.6
    model: str | None = None

    def bound(self, resources: Resources) -> Agreement:
        asked = resources.own if self.model is None else resources.models[self.model]
        return with_parts(self, asked=asked)

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        if not draft.complete:
            return PASSED
        said = [said_of(choice) for choice in draft.choices]
        if not said or not all(map(is_something, said)):
            return Verdict(False, "nothing to agree with")
        if self.asked is None:
            return Verdict(False, f"model '{self.model}' is inactive")
        others = await self._others(request, self.asked, trace)
        if not others:
            return Verdict(False, "no second answer")
        count = request.body.get("n") or 1
        score = min(
            share_that_agree(one, [other[place] for other in others if (place := index // count) < len(other)])
            for index, one in enumerate(said)
        )
        passed = score >= self.at_least - 1e-9
        return Verdict(passed, "" if passed else f"{score:.0%} of the further answers agree", score)

    async def _others(self, request: ChatRequest, asked: Responder, trace: Trace) -> list[list[Said]]:
        """The further answers, each with a choice to every prompt of the request."""
        body = {name: value for name, value in request.body.items() if name not in OF_THE_FIRST}
        temperature = 0.7 if self.temperature is None and self.model is None else self.temperature
        if temperature is not None:
            body["temperature"] = temperature
        samples = self.samples or (3 if self.model is None else 1)
        with trace.span(CHECK, "agreement") as span:
            found = await together(*(choices_of(asked, again(request, body), span) for _ in range(samples)))
        return [[message_of(choice) for choice in choices] for choices in found if choices]


def share_that_agree(one: Said, others: Sequence[Said]) -> float:
    return sum(same_answer(one, other) for other in others) / len(others) if others else 0.0


def said_of(choice: ChoiceDraft) -> Said:
    return {"content": choice.text, "tool_calls": calls_of(choice)}


def message_of(choice: Json) -> Said:
    message = choice.get("message")
    return message if isinstance(message, dict) else ""


def is_something(said: Said) -> bool:
    return bool(said) and not isinstance(said, str) and bool(said["tool_calls"] or said["content"].strip())
