"""What somebody says of themselves, as a statement that others can read: "My dog is called Rex" is "The user's dog is
called Rex." By rules, for English; what is in another language stays in its own words."""

from __future__ import annotations

import re

USER = "the user"

LEAD_INS = re.compile(
    r"^(?:(?:hey|hi|hello|ok|okay|oh|well|so|and|also|but|please|actually|fyi|btw|by the way|"
    r"just so you know|for the record|one more thing"
    r"|note|n\.?b\.?|correction|sorry|no|yes|yeah)\b[\s,:;.!-]*"
    r"|(?:can|could|would|will) you (?:please )?(?:remember|note|save|keep in mind|memori[sz]e|"
    r"store)\b(?! to\b)(?: for me)?(?: that)?[\s,:]*"
    r"|(?:i(?:'d| would) like|i want|i need) you to (?:remember|note|know)(?: that)?[\s,:]*"
    r"|(?:(?:do not|don'?t|never) forget|remember|note|keep in mind|bear in mind|take note|"
    r"make a note|save|memori[sz]e|store"
    r"|write down|know|be aware)(?: the fact| this| it)?(?: for (?:me|later|the future))?(?: "
    r"that\b| this\b|[:,])[\s,:]*"
    r"|(?:remember|memori[sz]e|note|save|store|don'?t forget)(?= (?:my|i|i'm|i've|we|our|the|it's|a|an|[A-Z])\b)\s*)+",
    re.IGNORECASE,
)
TO_DO = re.compile(r"^(?:please )?(?:remember|don'?t forget|do not forget|remind me) to (?P<what>.+)$", re.IGNORECASE)
CALL_ME = re.compile(
    r"^(?:please |just |you can |you may |everybody |everyone |people |my friends |they )*calls? "
    r"me (?P<name>[^,;.!?]+)$",
    re.IGNORECASE,
)
SELF = re.compile(r"\b(?:I|I'm|I've|I'd|I'll|i'm|i've|my|My|MY|mine|myself|we|We|our|Our|me)\b|^i\b")
ENGLISH = re.compile(
    r"\b(?:is|am|are|was|were|'m|'s|the|an?|in|at|on|to|of|and|have|has|had|do|don't|like|"
    r"love|hate|live|work|want|need|prefer|"
    r"speak|play|drive|call|called|can|can't|will|would|with|for|not|never|always|study|own|"
    r"use|eat|drink|go|went|got|bought|"
    r"booked|moved|born|name|favou?rite|dog|cat|wife|husband|birthday|about|read|rather|from|my|this|that|when|"
    r"there|if|than|but|it|be|been|[Ii]'(?:m|ve|d|ll))\b"
)
QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|«[^»]*»")
NUMERAL_BEFORE = re.compile(
    r"\b(?:war|type|part|chapter|phase|level|grade|class|volume|act|book|elizabeth|charles|"
    r"richard|henry|edward|section|"
    r"appendix|article|title|stage|tier|division|group|henry|napoleon|wilhelm|james|george|william|option|plan)\s$",
    re.IGNORECASE,
)
ADVERBS = frozenset(
    "always usually often never also just still really only sometimes rarely hardly currently "
    "now actually mostly generally "
    "normally recently already probably definitely absolutely truly both mainly typically "
    "regularly occasionally once then "
    "strongly deeply much firmly seriously simply ever no longer".split()
)
MODALS = frozenset(
    "can could will would shall should may might must cannot can't couldn't won't wouldn't "
    "shouldn't mustn't had did didn't hadn't used".split()
)
PASTS = frozenset(
    "went was were bought got made took saw met told left found grew lost won ran came became "
    "began kept felt held spent sold sent "
    "taught thought paid gave knew wrote spoke broke chose drove ate drank flew fell forgot "
    "understood stood sat slept swam sang "
    "rode rang wore threw built caught fought heard led lent meant said shot stuck struck "
    "swore tore woke hurt bred dealt dreamt "
    "learnt burnt brought had did moved".split()
)
BASES = frozenset(
    "work like love hate have prefer live own drive play study speak want need go teach run "
    "eat drink use travel enjoy dislike "
    "know am do walk cook read write sing dance swim take make get keep wear sleep commute "
    "plan practise practice collect watch "
    "believe think feel support volunteer share rent help manage lead train".split()
)
IRREGULAR = {
    "am": "is", "are": "is", "have": "has", "do": "does", "go": "goes", "don't": "doesn't", "aren't": "isn't",
    "haven't": "hasn't", "was": "was", "were": "was", "weren't": "wasn't", "ain't": "isn't", "dont": "doesn't",
}  # fmt: skip
CONTRACTIONS = {"'m": " is", "'ve": " has", "'d": " would", "'ll": " will", "'re": " is", "’m": " is"}
QUESTION = re.compile(
    r"^(?:who|what|when|where|why|which|whose|how|is|are|am|was|were|do|does|did|can|could|"
    r"would|will|should|shall|may|have|has)\b[^.]*\?$",
    re.IGNORECASE,
)


def is_question(sentence: str) -> bool:
    return sentence.rstrip().endswith("?") or bool(QUESTION.match(sentence.strip()))


def is_about_self(text: str) -> bool:
    """Does somebody speak English of themselves here?"""
    bare = QUOTED.sub("", text)
    return (
        bool(SELF.search(bare))
        and bool(ENGLISH.search(bare))
        and sum(char.isascii() for char in bare) > 0.9 * len(bare)
    )


def statement_of(sentence: str) -> str:
    """A sentence of a user's, as a statement about "the user" with a full stop; "" where it states nothing.

    What leads to it ("Please remember that …") is left out.
    """
    text = " ".join(sentence.split()).strip(" -•*").replace("’", "'")
    to_do = TO_DO.match(text.rstrip(".!"))
    if to_do:
        return _ended(third_person(f"I want to be reminded to {to_do['what']}"))
    if _asks_to_remember(text):
        text = text.rstrip("? ")
    text = LEAD_INS.sub("", text).strip()
    if is_question(text):
        return ""
    called = CALL_ME.match(text.rstrip(".!"))
    if called:
        return f"The user is called {called['name'].strip()}."
    return _ended(third_person(text))


def _asks_to_remember(text: str) -> bool:
    return bool(
        re.match(
            r"(?:can|could|would|will) you (?:please )?(?:remember|note|save|keep|memori|store)", text, re.IGNORECASE
        )
    )


def _ended(text: str) -> str:
    text = text.strip(" ,;:-")
    if not re.search(r"\w", text):
        return ""
    text = text[0].upper() + text[1:] if text[0].islower() and not re.match(r"[a-z]+[A-Z]", text) else text
    return text if text[-1] in ".!?。！？…" else f"{text.rstrip('.')}."


def third_person(text: str) -> str:
    """I and we, me, my, mine and myself become the user; verbs agree. The words of a quotation stay."""
    if not is_about_self(text):
        return text
    quotes: list[str] = []

    def keep(found: re.Match[str]) -> str:
        quotes.append(found.group())
        return f"\ue000{len(quotes) - 1}\ue001"

    text = _subjects(QUOTED.sub(keep, text))
    text = re.sub(r"\bmy own\b", "their own", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:my|our)\b", "the user's", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:mine|ours)\b", "the user's", text)
    text = re.sub(r"\b(?:myself|ourselves)\b", "themselves", text)
    text = re.sub(r"\b(?:me|us)\b", USER, text)
    return re.sub(r"\ue000(\d+)\ue001", lambda found: quotes[int(found[1])], text)


JOINED = re.compile(
    r"(?:\b(?:and|but|or)|,)\s+(?P<rest>(?P<between>(?:also |never |always |don't )?)(?P<verb>[a-z]+)\b)"
)
OTHER_CLAUSE = re.compile(r"\b(?:who|that|which|to|can|will|would|could|should|must)\b[^,]*$")
SUBJECT = re.compile(r"\b(?P<who>I|i|[Ww]e)(?P<short>'(?:m|ve|d|ll|re))?\b(?![.'’-]\w|\.(?=\w))")


def _subjects(text: str) -> str:
    out: list[str] = []
    done = 0
    for found in SUBJECT.finditer(text):
        if found.start() < done or (found["who"] == "I" and NUMERAL_BEFORE.search(text[: found.start()])):
            continue
        out.append(text[done : found.start()])
        done, said = _predicate(text, found)
        out.append(said)
    return "".join(out) + text[done:]


def _predicate(text: str, found: re.Match[str]) -> tuple[int, str]:
    """(where the rest goes on, "the user" with its verb)."""
    short = found["short"]
    if short:
        rest = text[found.end() :]
        had = short == "'d" and re.match(r"\s+(?:better|been|\w+ed)\b", rest)
        said = " had" if had else CONTRACTIONS[short]
        return found.end(), USER + said
    if re.search(r"\b(?:am|are|was|were|do|did|have|can|could|would|will|should|may|must)\s+$", text[: found.start()]):
        return found.end(), USER  # an inversion: the verb stands before it
    words = list(re.finditer(r"\s+([\w'-]+)", text[found.end() : found.end() + 80]))
    for word in words:
        if re.search(r"[,;:.!?]", text[found.end() : found.end() + word.start()]):
            break
        if word[1].lower() in ADVERBS:
            continue
        start = found.end() + word.start(1)
        verb = agreed(word[1])
        return _others(text, found.end() + word.end(1), USER + text[found.end() : start] + verb)
    return found.end(), USER


def _others(text: str, end: int, said: str) -> tuple[int, str]:
    """Further verbs of the same subject: "I live in Rome and work for Acme"."""
    clause = re.match(r"[^.;!?]*", text[end:])
    assert clause is not None
    for found in JOINED.finditer(text, end, end + clause.end()):
        before = text[end : found.start()]
        if SUBJECT.search(before) or OTHER_CLAUSE.search(before):
            break
        if found["between"] == "don't ":
            verb = "doesn't " + found["verb"]
        elif found["verb"] in BASES or found["between"]:
            verb = (found["between"] or "") + agreed(found["verb"])
        else:
            continue
        said += text[end : found.start("rest")] + verb
        end = found.end("verb")
    return end, said


def agreed(verb: str) -> str:
    """A verb of the first person, in the third."""
    lower = verb.lower()
    if lower in IRREGULAR:
        return IRREGULAR[lower]
    if (
        lower in MODALS
        or lower in PASTS
        or (
            lower.endswith("ed")
            and len(lower) > 4
            and lower not in ("need", "feed", "speed", "breed", "exceed", "proceed")
        )
    ):
        return verb
    if lower.endswith(("s", "sh", "ch", "x", "z", "o")):
        return verb + "es"
    if lower.endswith("y") and lower[-2:-1] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def second_person(text: str) -> str:
    """What an assistant says to a user, told of the user: "you want" is "the user wants"."""
    for pattern, by in (
        (r"\byou're\b", "you are"),
        (r"\byou've\b", "you have"),
        (r"\byou'd\b", "you would"),
        (r"\byou'll\b", "you will"),
    ):
        text = re.sub(pattern, by, text, flags=re.IGNORECASE)
    text = re.sub(r"\byour own\b", "their own", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:your|yours)\b", "the user's", text, flags=re.IGNORECASE)
    text = re.sub(r"\byourself\b", "themselves", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(are|were|have|do|did|will|would|should|can|could) you\b", _inverted, text, flags=re.IGNORECASE)
    text = re.sub(r"\b(for|to|with|of|at|about|from|by|on|booked|have|give|gave|send|sent|"
                  r"tell|told|remind) you\b(?! (?:are|have|want|will|would))",
                  rf"\1 {USER}", text)  # fmt: skip
    return re.sub(r"\byou\b(?:\s+(\w+))?", _you, text, flags=re.IGNORECASE)


def _inverted(found: re.Match[str]) -> str:
    return f"{IRREGULAR.get(found[1].lower(), found[1])} {USER}"


def _you(found: re.Match[str]) -> str:
    return f"{USER} {agreed(found[1])}" if found[1] else USER


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
