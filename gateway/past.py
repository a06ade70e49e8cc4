"""What providers want of a conversation's earlier turns: data. `history` makes a conversation of it that they take.

Sources: the providers' pages on thinking and tool use, the 400s that people report, and mistral-common's validator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

SIGNED_FIELDS = ("thinking_blocks", "reasoning_items", "reasoning_details")
"""Of an answer, in OpenAI's shape: lists of what only its maker can read."""

REASONING_FIELDS = frozenset({"reasoning", "reasoning_content", *SIGNED_FIELDS})


@dataclass(frozen=True, slots=True)
class CallIds:
    """Ids of tool calls: `pattern` is what the whole of each matches. Others become `prefix` and letters and digits,
    `length` characters in all. `are_unique`: one of an earlier turn may not come again."""

    pattern: re.Pattern[str]
    prefix: str
    length: int
    are_unique: bool = False

    def allow(self, id: str) -> bool:
        return self.pattern.fullmatch(id) is not None


@dataclass(frozen=True, slots=True)
class Past:
    """
    Args:
        reasoning: fields with an answer's reasoning that may be sent back; None: whatever there is, and what vendors
            add to calls.
        call_ids: what ids of tool calls must look like; None: nobody minds.
        is_ordered: it minds the order of roles, and of results.
        starts_with_user: no answer may come first.
        thinks_first: told to think, it refuses a tool loop that did not begin with its own thoughts.
        uses_templates: it renders messages by the model's own chat template, which may refuse an order of roles.
        wants_reasoning: models of its that refuse a conversation with calls where an answer has no `reasoning_content`.
    """

    reasoning: frozenset[str] | None = None
    call_ids: CallIds | None = None
    is_ordered: bool = False
    starts_with_user: bool = False
    thinks_first: bool = False
    uses_templates: bool = False
    wants_reasoning: re.Pattern[str] | None = None


OF_CLAUDE = CallIds(re.compile(r"[a-zA-Z0-9_-]{1,64}"), prefix="toolu_", length=30, are_unique=True)
UNMINDING = Past()
PLAIN = Past(frozenset())  # of those that refuse fields that they do not know
THINKS_ALOUD = Past(frozenset({"reasoning", "reasoning_content"}))
LOCAL = Past(THINKS_ALOUD.reasoning, uses_templates=True)
OPENAI = Past(frozenset(), CallIds(re.compile(r"(?s).{1,40}"), prefix="call_", length=29))
MISTRAL = Past(
    frozenset(), CallIds(re.compile(r"[a-zA-Z0-9]{9}"), prefix="", length=9), is_ordered=True, starts_with_user=True
)
DEEPSEEK = Past(frozenset({"reasoning_content"}), wants_reasoning=re.compile(""))
STRICT_TEMPLATES = re.compile(r"(?i)gemma|mi[sx]tral|(mini|dev|magi|code)stral")
"""In names of models whose templates refuse two messages of one role in a row."""
THINKERS = re.compile(r"(?i)\b(kimi|deepseek)")
OPENROUTER = Past(frozenset({"reasoning", "reasoning_content", "reasoning_details"}), wants_reasoning=THINKERS)
UNKNOWN = Past(wants_reasoning=THINKERS)
ONLY_REASONING = Past(frozenset({"reasoning"}))
ONLY_CONTENT = Past(frozenset({"reasoning_content"}))

OF_WIRES: Mapping[str, Past] = {
    "/embeddings": UNMINDING,
    "/messages": Past(call_ids=OF_CLAUDE, thinks_first=True),
    "/responses": Past(call_ids=CallIds(re.compile(r"(?s).{1,64}"), prefix="call_", length=29)),
    "/rerank": UNMINDING,
}
"""By path, where it is the protocol that decides; the wire itself sees to the rest."""

CLAUDE = Past(frozenset({"reasoning_content", "thinking_blocks"}), OF_CLAUDE, starts_with_user=True, thinks_first=True)
GEMINI = Past(starts_with_user=True)
OF_LITELLM: tuple[tuple[str, Past], ...] = (
    (r"(anthropic|bedrock|vertex_ai|azure_ai|databricks|sagemaker)\w*/.*claude", CLAUDE),
    (r"anthropic/", CLAUDE),
    (r"bedrock\w*/", Past(CLAUDE.reasoning, OF_CLAUDE, starts_with_user=True)),
    (r"(gemini|vertex_ai)\w*/", GEMINI),
    (r"(mistral|codestral)/", MISTRAL),
    (r"(openai|azure|azure_ai|text-completion-openai|github_copilot)/", OPENAI),
    (r"deepseek/", DEEPSEEK),
    (r"moonshot/", UNKNOWN),
    (r"openrouter/", OPENROUTER),
    (r"(cerebras|groq|perplexity)/", PLAIN),
)
"""By the beginning of litellm's name for a model."""


@lru_cache(1024)
def behind_litellm(model: str) -> Past:
    return next((past for pattern, past in OF_LITELLM if re.match(pattern, model)), UNMINDING)
