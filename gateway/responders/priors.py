"""What a model is inclined to answer whatever is asked, by which its scores are corrected."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

BARE, TAUGHT = 1.0, 0.5
"""How much of it is taken off where the conversation has no worked examples, and where it has.

Measured with SmolLM2-135M, right answers out of all. Five families of 7 to 16 labels, four examples each: 52 % with
nothing taken off, 59 % with half and 62 % with all of it; but where one label is right in six requests of ten, what
looks like an inclination is the truth: 62, 62 and 53 %. Four labels without examples: 25, 25 and 53 %, and 40, 37 and
47 % where one of them prevails.
"""
START, MOST = 4.0, 200.0  # requests that the start counts as, and requests remembered: what was long ago counts less
REMEMBERED = 2_000  # sets of options


@dataclass
class Prior:
    """Of one model and one set of options: their mean log-probabilities so far, None before the first."""

    strength: float
    means: list[float] | None = None
    weight: float = START

    def start(self, logprobs: Sequence[float]) -> None:
        """From a request with nothing in it."""
        self.means = list(logprobs)

    def note(self, logprobs: Sequence[float]) -> None:
        if self.means is None:
            even = sum(logprobs) / len(logprobs)  # which corrects nothing
            self.means = [even] * len(logprobs)
        self.weight = min(self.weight + 1.0, MOST)
        self.means = [old + (new - old) / self.weight for old, new in zip(self.means, logprobs, strict=True)]

    def corrected(self, logprobs: Sequence[float]) -> list[float]:
        means = self.means or [0.0] * len(logprobs)
        return [logprob - self.strength * mean for logprob, mean in zip(logprobs, means, strict=True)]


class Priors:
    """Outlives a reload. The options are in memory only, and the least recently used are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, tuple[str, ...], bool], Prior] = OrderedDict()

    def find(self, model: str, options: tuple[str, ...], *, is_taught: bool) -> Prior:
        """
        Args:
            model: names the model as it is now: another file, or another adapter, has other inclinations.
            is_taught: the conversation has worked examples, which change them.
        """
        key = (model, options, is_taught)
        prior = self._known.setdefault(key, Prior(TAUGHT if is_taught else BARE))
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return prior
