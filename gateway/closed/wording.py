"""What the words of an instruction say of the answer that it wants."""

from __future__ import annotations

import re

SORTING = (
    r"(?:classif\w+|categori[sz]\w*|label\w*|assign\w*|route[sd]?|routing|sort(?:s|ing)?|triag\w+|predict\w*|"
    r"identif\w+|detect\w*|tag(?:s|ging)?|grade|rate|mark|flag)"
)
SAYING = (
    r"(?:answer\w*|respon[ds]\w*|repl(?:y|ies)|return\w*|output\w*|print\w*|give|write|state|say|decide\w*|"
    r"determine\w*|judge\w*|tell|choose\w*|pick\w*|select\w*)"
)
AIMS = re.compile(rf"\b(?:{SORTING}|{SAYING}|must be|should be)\b", re.IGNORECASE)
SORTS = re.compile(rf"\b{SORTING}\b", re.IGNORECASE)
RESTRICTS = re.compile(
    r"\b(?:exactly|only|just|solely|nothing else|nothing but|single|alone|must|one word|no other|verbatim|"
    r"(?:no|without|don't|do not) (?:any )?(?:explanation|explain|punctuation|extra|other|comment)\w*)\b",
    re.IGNORECASE,
)
ORDERS = re.compile(
    rf"(?:^|[.!?:;,)\n]\s*|\b(?:please|simply|must|should|then|and|to|can you|your)\s+)(?:{SORTING}|{SAYING})\b",
    re.IGNORECASE,
)
"""In a user's own words an instruction begins a clause; elsewhere they only speak of answering."""
FORBIDDEN = re.compile(
    r"\b(?:do not|don't|never|no|without|not|avoid|instead of|rather than)\b[^.,;:\n]{0,60}", re.IGNORECASE
)
WANTS_MORE = re.compile(
    r"\b(?:explain\w*|justif\w+|rationale|elaborat\w+|why|step[- ]by[- ]step|think (?:it )?through|describe|"
    r"summari[sz]e\w*|translate|rewrite|paraphras\w+|compose|draft|brainstorm|poem|stor(?:y|ies)|essay|"
    r"(?:give|state|with|and|your|one|plus) (?:a |the |your |an )?(?:short |brief |one-sentence )?"
    r"(?:reasons?|reasoning|explanation|justification|evidence)|confidence|all that apply|one or more|any number of|"
    r"more than one|at least|"
    r"(?:multiple|several|all|up to \w+|two|three|any) (?:relevant |matching |of the |of these )?"
    r"(?:labels|categories|tags|classes|intents|options|topics|answers)|comma[- ]separated|"
    r"for (?:each|every) (?!e-?mail|message|ticket|text|review|request|input|query|document|comment|tweet|post)|"
    r"(?:each|every) (?:line|sentence|item|of)|json|xml|yaml|csv|markdown|"
    r"table|followed by|as well as|write (?:a|an|me|about|down)|tell me|(?:a|short|full) sentence|sentences|"
    r"paragraphs?|list of|in detail|pros and cons|compare)\b|\{\s*\"|<\w+>",
    re.IGNORECASE,
)
OTHERWISE = re.compile(
    r"\b(?:if|when|unless|otherwise|in case)\b[^.\n]{0,100}?"
    r"\b(?:answer|say|reply|respond|return|use|output|write|choose)(?:\s+(?:with|only))*\s+"
    r"[\"'`“]?(?P<word>[\w /-]{1,40}?)[\"'`”]?(?=[.,;\n]|$)",
    re.IGNORECASE,
)
"""`if nothing fits, answer WORD`"""
PASSING = re.compile(
    r"\b(?:such as|e\.?g\b|for example|including|etc\b|and so on|and more|your own)|\.\.\.|…", re.IGNORECASE
)


BLANKS, EMPTY_LINES = re.compile(r"\s{2,}|[^\S ]"), re.compile(r"\n{3,}")


def wants_more(text: str) -> bool:
    """More than a choice; what it forbids does not count."""
    return WANTS_MORE.search(FORBIDDEN.sub(" ", text)) is not None


def tidied(text: str) -> str:
    """With no more white space than the rules look for, so that none of them has to go back and forth in it."""
    lines = [BLANKS.sub(" ", line).rstrip() for line in text.splitlines()]
    return EMPTY_LINES.sub("\n\n", "\n".join(lines))
