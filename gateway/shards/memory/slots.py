"""What a statement is about, as "entity|attribute", where a rule can tell: of two statements about the same, the later
one holds."""

from __future__ import annotations

import re

ATTRIBUTES = (
    r"(?:(?:first|last|full|middle|given|family|maiden|nick|user|real)?\s?-?name|birthday|"
    r"birth date|date of birth|birthplace|age|height|weight"
    r"|address|(?:home |work |street |e-?mail |postal |billing )+address|e-?mail|phone(?: "
    r"number)?|(?:mobile|cell|telephone|home|work|office)(?: phone)?(?: number)?|zip code|"
    r"postcode|"
    r"hometown|home town|home|city|country|nationality|native language|mother tongue|language|"
    r"job|job title|occupation|profession|"
    r"employer|company|salary|boss|manager|major|school|university|password|pin|wi-?fi password|"
    r"account number|customer number|"
    r"(?:passport|licen[cs]e|policy|member(?:ship)?|flight|order|booking|reservation|room|"
    r"seat|tracking) ?(?:number|plate|id|code)|"
    r"blood type|shoe size|shirt size|dress size|size|diet|religion|star sign|pronouns|time ?zone|gender|"
    r"wedding anniversary|anniversary|wedding|appointment|deadline|colou?r|breed|model|licence "
    r"plate|budget|goal|car|bike|hobby)"
)
RELATIONS = (
    r"(?:wife|husband|spouse|partner|girlfriend|boyfriend|fianc[eé]e?|mother|mom|mum|father|"
    r"dad|best friend|doctor|dentist|"
    r"therapist|lawyer|landlord|boss|manager|teacher|coach|neighbou?r|assistant|roommate|flatmate|gp|hairdresser|vet)"
)
COPULA = r"(?:is|was|are|were|will be|has been|isn't|is not|is now|is no longer|changed to|has changed to)"
DAY = r"(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)"

RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), slot)
    for pattern, slot in (
        (r"^(?P<e>.+?)'s? name (?:is|was)\b", "{e}|name"),
        (r"^(?P<e>the user(?:'s [\w -]+?)?) (?:is|was) (?:called|named)\b", "{e}|name"),
        (r"^(?P<e>the user(?:'s [\w -]+?)?) goes by\b", "{e}|name"),
        (r"^the user's (?P<a>(?:least )?(?:favou?rite|preferred|usual|regular) [\w -]+?) " + COPULA + r"\b",
         "user|{a}"),
        (r"^(?P<e>the user(?:'s [\w -]+?)?) (?:is|turned|will be|turns) (?:now |almost |about "
         r")?(?:\d+|[a-z]+(?:-[a-z]+)?) years? old\b", "{e}|age"),
        (r"^(?P<e>the user(?:'s [\w -]+?)?) (?:no longer |now |currently |doesn't |still |"
         r"has )?(?:lives? (?:in|at|near|on)|moved? to|moves to|is living in|resides? in|is "
         r"based in)\b", "{e}|home"),
        (r"^(?P<e>the user(?:'s [\w -]+?)?) (?:is|comes|was) (?:originally )?from\b", "{e}|origin"),
        (r"^(?P<e>the user(?:'s [\w -]+?)?) was born\b", "{e}|birth"),
        (r"^(?P<e>the user(?:'s [\w -]+?)?) (?:no longer |now |currently |doesn't |still )?(?:works? "
         r"(?:at|for)|is employed (?:at|by)|is working (?:at|for))\b", "{e}|employer"),
        (r"^(?P<e>the user(?:'s [\w -]+?)?) (?:now |currently |no longer )?works? as\b", "{e}|job"),
        (r"^the user is (?:not |no longer |now |a strict )?(?:a )?(?:vegan|vegetarian|pescatarian|"
         r"omnivore|carnivore)\b", "user|diet"),
        (r"^(?P<e>the user(?:'s [\w -]+?)?) (?:is|got|was) (?:now |not |no longer )?(?:married|"
         r"single|divorced|engaged|widowed)\b", "{e}|marital status"),
        (r"^the user (?:now |currently )?drives (?:an?|the)\b", "user|car"),
        (r"^(?P<e>the user) (?:really |absolutely |no longer |doesn't |does not |now )?(?:likes?|"
         r"loves?|hates?|dislikes?|enjoys?|adores?|detests?|"
         r"can't stand|cannot stand)\s+(?:to )?(?P<a>[\w' -]+?)(?: (?:very much|a lot|the "
         r"most|now|any ?more))?[.!]?$", "user|taste: {a}"),
        (r"^the user(?: is|'s) (?:not |no longer )?allergic to (?P<a>[\w -]+?)[.!]?$", "user|allergy: {a}"),
        (r"^the user's (?P<e>[\w -]+?)'s (?P<a>" + ATTRIBUTES + r") " + COPULA + r"\b", "user's {e}|{a}"),
        (r"^the user's (?P<a>" + ATTRIBUTES + r") " + COPULA + r"\b", "user|{a}"),
        (r"^the user's (?P<a>" + RELATIONS + r") (?:is|was) (?=[A-Z])", "user|{a}"),
        (r"^(?:the )?(?P<a>[\w -]+?) of (?P<e>the user's [\w -]+?|[A-Z][\w'& -]*?) (?:is|was)\b(?! "
         r"(?:a|an|in|on|at|very|not)\b)", "{e}|{a}"),
        (r"^the user's (?P<e>[\w -]+?) (?:is|was|takes place|starts|begins) (?:now |moved "
         r"to |scheduled for |due )?(?:on |at |for )?(?=\d|next |this |tomorrow|today|"
         + DAY + r"|january|february|march|april|may|june|july|august|september|october|november|"
                 r"december)", "user's {e}|time"),
        (r"^the user has (?P<n>no|an?|one|two|three|four|five|six|seven|eight|nine|ten|\d+) "
         r"(?P<a>[a-z]+)(?: and [\w ]+)?[.!]?$", "user|number of {a}"),
    )
)  # fmt: skip


def slot_of(statement: str) -> str:
    """ "" where nothing tells it."""
    text = " ".join(statement.split())
    head = text[:9].lower() + text[9:] if text.lower().startswith("the user") else text
    for pattern, slot in RULES:
        folded = head if "(?=[A-Z])" in pattern.pattern or "[A-Z]" in pattern.pattern else head.lower()
        found = pattern.match(folded)
        if found:
            parts = {
                name: _entity(value) if name == "e" else _attribute(value)
                for name, value in found.groupdict().items()
                if value
            }
            return slot.format(**parts)
    return ""


def _entity(words: str) -> str:
    words = re.sub(r"^the (?=user)", "", words.strip(), flags=re.IGNORECASE)
    return words.lower()


def _attribute(words: str) -> str:
    words = words.strip().lower().replace("favorite", "favourite").replace("color", "colour")
    words = re.sub(r"^(?:the|an?) ", "", words)
    return words[:-1] if len(words) > 4 and words.endswith("s") and not words.endswith("ss") else words
