"""`asks_for_help`: the model does not say that it needs help."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from gateway.chat import ChatRequest, Verdict
from gateway.checks import STRICT, check
from gateway.checks.choices import calls_of, judge
from gateway.draft import ChoiceDraft, Draft
from gateway.tools import name_of, tools_of
from gateway.trace import Trace

PHRASES = ("I need help", "I need more help", "I need assistance", "I need a larger model", "please ask a larger model")
DESCRIPTION = (
    "Call this instead of answering when you are not sure that you can answer correctly. Somebody else answers."
)


@check("asks_for_help", can_fail_prefix=True)
@dataclass(frozen=True, config=STRICT)
class AsksForHelp:
    """Fails where a sentence begins with one of the `phrases`, unless the user has said it, or where the `tool` of that
    name is called, which the tier's model is offered while somebody else can be asked."""

    phrases: list[str] = Field(default_factory=lambda: list(PHRASES))
    tool: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = None

    @field_validator("phrases")
    @classmethod
    def says_something(cls, phrases: list[str]) -> list[str]:
        if not all(any(map(str.isalnum, phrase)) for phrase in phrases):
            raise ValueError("a phrase without words would be found everywhere")
        return phrases

    def __post_init__(self) -> None:
        if self.tool is not None:
            function = {
                "name": self.tool,
                "description": DESCRIPTION,
                "parameters": {"type": "object", "properties": {}},
            }
            object.__setattr__(self, "offers", {"type": "function", "function": function})
        elif not self.phrases:
            raise ValueError("asks_for_help needs phrases, a tool or both")

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        has_tool = self.tool is not None and self.tool not in tools_of(request.body)  # else it is the client's
        asked = " ".join(flat(request.last_user_text).split())
        phrases = [phrase for one in self.phrases if (phrase := " ".join(flat(one).split())) not in asked]
        said = "|".join(re.escape(phrase).replace(r"\ ", r"\s") for phrase in phrases)
        pattern = rf"(?:^|[.!?:\n])[\s*_>#-]*+(?:{said})(?!\w)"

        def fault(choice: ChoiceDraft) -> str | None:
            if has_tool and any(name_of(call) == self.tool for call in calls_of(choice)):
                return f"calls {self.tool}"
            found = re.search(pattern, flat(choice.text)) if phrases else None
            # A word at the end of a prefix may grow: "help" to "helpers".
            return "asks for help" if found and (draft.complete or found.end() < len(flat(choice.text))) else None

        return judge(draft, fault)


def flat(text: str) -> str:
    """In lower case, white space as one space, lines kept."""
    lines = (" ".join(line.split()) for line in text.casefold().replace("’", "'").splitlines())
    return "\n".join(line for line in lines if line)
