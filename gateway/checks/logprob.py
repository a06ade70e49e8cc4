"""`logprob`: the model was sure enough of its words."""

import math
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import judge, only_calls
from gateway.draft import ChoiceDraft, Draft
from gateway.trace import Trace

Floor = Annotated[float, Field(lt=0, allow_inf_nan=False)] | None


@check("logprob", asks={"logprobs": True}, soft=True)
@dataclass(frozen=True, config=STRICT)
class Logprob:
    """Floors for the natural logarithm of the chosen tokens' probabilities; the score is the lowest mean of a choice.

    Not judged on a prefix: log-probabilities of an answer's first tokens tell right from wrong no better than chance.
    """

    mean_above: Floor = None
    min_above: Floor = None

    def __post_init__(self) -> None:
        if self.mean_above is None and self.min_above is None:
            raise ValueError("logprob needs mean_above, min_above or both")

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        if not draft.complete:
            return PASSED
        means = [sum(logprobs) / len(logprobs) for choice in draft.choices if (logprobs := logprobs_of(choice))]
        verdict = judge(draft, self.fault)
        return Verdict(verdict.passed, verdict.reason, min(means, default=None))

    def fault(self, choice: ChoiceDraft) -> str | None:
        logprobs = logprobs_of(choice)
        if not logprobs:
            return None if only_calls(choice) else "no logprobs from the model"
        mean, lowest = sum(logprobs) / len(logprobs), min(logprobs)
        if self.mean_above is not None and mean <= self.mean_above:
            return f"mean logprob {mean:.2f}, not above {self.mean_above:g}"
        if self.min_above is not None and lowest <= self.min_above:
            return f"lowest logprob {lowest:.2f}, not above {self.min_above:g}"
        return None


def logprobs_of(choice: ChoiceDraft) -> list[float]:
    values = (token.get("logprob") for token in choice.logprobs)
    return [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
