"""Past conversations to memories, without a model: what was agreed in them, and what users say of themselves.

For an operator who has asked for it. Read are the user's own turns, and the assistant's plain ones for what they
confirm; nothing of a tool, nothing of a system message.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gateway.chat import text_of
from gateway.errors import InvalidRequest
from gateway.shards.memory.bookings import Booking, Turn, bookings_in
from gateway.shards.memory.slots import slot_of
from gateway.shards.memory.telling import entity_of, summary_of, told, where_of
from gateway.shards.memory.wording import capitalised, is_about_self, second_person, statement_of
from gateway.shards.reading.sentences import split_sentences
from gateway.shards.safety.control_tokens import clean

MAX_TURNS, MAX_TURN_CHARS = 400, 4_000
MAX_STATEMENT_WORDS = 30
OWN = re.compile(
    r"\b(?:[Mm]y (?:\w+ ){1,3}?(?:is|are|was|were|has|have|works?|lives?|likes?|loves?|called)\b|call me\b"
    r"|I(?:'m| am) (?:a|an|allergic|vegan|vegetarian|married|single|diabetic|from|\d+|called|"
    r"afraid|retired|pregnant|deaf|blind|left-handed|lactose|gluten)\b"
    r"|I (?:live|work|was born|grew up|own|play|study|speak|drive|prefer|love|hate|dislike|"
    r"can't (?:stand|eat|drink)|don't (?:eat|drink|like)|always|never|usually|have (?:a|an|"
    r"two|three|four|\d+|no))\b"
    r"|I've (?:lived|worked|been|got)\b)"
)
TALK = re.compile(
    r"\b(?:my (?:first choice|preference|bad|mistake|question|pleasure|request|needs?|booking|"
    r"reservation|flight|return|onward|ticket|departure|schedule|wish)\b|I have (?:a|an|one|"
    r"no|another) "
    r"(?:question|idea|few|couple|moment|look|minute|different|meeting|request|upcoming|preference|"
    r"reservation|trip|particular|specific|date|long)|I always|I never (?:mind|said)|I prefer "
    r"(?:that|this|it)|"
    r"\b(?:group|party|passengers?|hotels?|flights?|tickets?|travell?ing|leaving|departing|"
    r"restaurants?|reservation|itinerary|rooms?|booked|booking|appointment|destination|economy|"
    r"check(?:ing)?[- ]in)\b|that works|for (?:me|us) (?:please|today)|I love (?:it|that|this)|"
    r"sounds? (?:good|great))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Extracted:
    """A statement worth keeping.

    Args:
        questions: what a user may ask of it.
        slot: as of `Shard`.
        passage: the whole of what it is a part of, for larger readers.
    """

    fact: str
    questions: tuple[str, ...] = ()
    slot: str = ""
    passage: str = ""


@dataclass(frozen=True)
class Conversation:
    user: str
    session: str
    messages: tuple[Mapping[str, Any], ...]


def conversations_in(path: Path) -> Iterator[Conversation]:
    """Of JSON lines `{"user", "session", "messages"}`, packed (.gz) or not. Raises: InvalidRequest, OSError."""
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    with opened as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _conversation(line, number)


def _conversation(line: bytes, number: int) -> Conversation:
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise InvalidRequest(f"line {number} is not JSON", param="user") from None
    user = data.get("user") if isinstance(data, dict) else None
    if not isinstance(user, str) or not user:
        raise InvalidRequest(
            f"line {number} names no user: each line is an object with 'user' and 'messages'", param="user"
        )
    messages = data.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest(f"line {number}: 'messages' must be a list of messages", param="messages")
    return Conversation(user, str(data.get("session") or ""), tuple(messages))


def extract(messages: Iterable[Mapping[str, Any]]) -> list[Extracted]:
    """What is worth keeping of one conversation, each thing once."""
    turns = turns_of(messages)
    found: dict[str, Extracted] = {}
    for booking in bookings_in(turns):
        for one in _of_booking(booking):
            found.setdefault(one.fact, one)
    for turn in turns:
        if turn.is_user:
            for one in _of_self(turn.text):
                found.setdefault(one.fact, one)
    return list(found.values())


def turns_of(messages: Iterable[Mapping[str, Any]]) -> list[Turn]:
    """What the two have said to each other, cleaned. A turn that calls a tool is none."""
    turns = []
    for message in list(messages)[:MAX_TURNS]:
        role = message.get("role")
        if role not in ("user", "assistant") or message.get("tool_calls") or message.get("function_call"):
            continue
        text = clean(text_of(message.get("content")))[:MAX_TURN_CHARS].strip()
        if text:
            turns.append(Turn(role == "user", text))
    return turns


def _of_booking(booking: Booking) -> Iterator[Extracted]:
    entity = entity_of(booking)
    if not entity or not booking.firm:
        said = confirmed(booking.confirmations[-1])
        if said:
            yield Extracted(said, questions_for(said))
        return
    summary, where = summary_of(booking), where_of(booking)
    thing = {"tickets": "event", "": "booking"}.get(booking.kind, booking.kind)
    for one in told(booking):
        yield Extracted(one.fact, one.questions, f"{entity.lower()}|{thing} {one.attribute}", summary)
    asked = (
        f"What did I book {where}?",
        f"What are the details of my {thing} {where}?",
        f"Do I have a {thing} {where}?",
    )
    yield Extracted(summary, asked, f"{entity.lower()}|{thing}")


def confirmed(text: str) -> str:
    """A confirmation whose parts no rule can tell, as a statement: "You want to play Hello by Adele, right?" is "The
    user wants to play Hello by Adele." """
    text = ASKED.sub("", LED_TO.sub("", text)).strip(" ,.:;-?")
    if not text or len(text.split()) < 3:
        return ""
    told_of = second_person(text)
    if re.match(r"(?:the user|I)\b", told_of, re.IGNORECASE):
        return capitalised(told_of) + "."
    return f"The user agreed to this: {told_of}."


LED_TO = re.compile(
    r"^(?:\W|\b(?:ok(?:ay)?|so|sure|great|alright|perfect|please|kindly|can you|could you|"
    r"just to|let me|shall i|should i|(?:do|would) you (?:want|like) me to|i(?:'d| would) "
    r"like to|to be (?:clear|sure|correct)|"
    r"(?:re)?confirm(?:ing|ed)?|verify(?:ing)?|make sure|double[- ]check|check|that|the following|"
    r"(?:all )?(?:the|these|your|of) (?:following )?(?:details|information|request)|details|"
    r"information|"
    r"is (?:right|correct)|this is (?:right|correct)|i(?:'ve| have) got (?:this|it) right|"
    r"got it|i understand|the)\b)+[:,]?\s*",
    re.IGNORECASE,
)
ASKED = re.compile(
    r"[\s,.;-]*(?:\b(?:is|are|does|do)\b (?:that|this|it|everything|these|all|those)\b[^.?!]*\?*|"
    r"\b(?:right|correct|yes|ok(?:ay)?|true)\b\??|can you confirm[^?]*\??|do you confirm[^?]*\??)\W*$",
    re.IGNORECASE,
)


def _of_self(text: str) -> Iterator[Extracted]:
    """What a user says of themselves, beside what they are here for."""
    text = re.sub(r",? by the way\b", "", text)
    sentences = [part for whole in split_sentences(text) for part in re.split(r",? (?:and|but) (?=(?:my|I)\b)", whole)]
    for sentence in sentences:
        if sentence.endswith("?") or not OWN.search(sentence) or TALK.search(sentence) or not is_about_self(sentence):
            continue
        fact = statement_of(sentence)
        if fact and 3 <= len(fact.split()) <= MAX_STATEMENT_WORDS:
            yield Extracted(fact, questions_for(fact), slot_of(fact))


ASKED_OF_SLOT: Mapping[str, tuple[str, ...]] = {
    "name": ("What is {whose} name?", "What is {who} called?"),
    "age": ("How old {is_} {who}?", "What is {whose} age?"),
    "home": ("Where {do} {who} live?", "In which city {do} {who} live?"),
    "origin": ("Where {is_} {who} from?", "Where {do} {who} come from?"),
    "birth": ("When and where {was} {who} born?", "When {was} {who} born?"),
    "employer": ("Where {do} {who} work?", "Who {do} {who} work for?"),
    "job": ("What {do} {who} do for a living?", "What is {whose} job?"),
    "diet": ("What is {whose} diet?", "What {do} {who} eat?"),
    "marital status": ("{Is_} {who} married?",),
    "car": ("What car {do} {who} drive?", "What is {whose} car?"),
    "time": ("When is {who}?", "What time is {who}?", "On which day is {who}?"),
}


def questions_for(fact: str) -> tuple[str, ...]:
    """What a user may ask to be told this statement, by rules; none where no rule knows."""
    slot = slot_of(fact)
    entity, _, attribute = slot.partition("|")
    own = entity == "user"
    who = "I" if own else re.sub(r"^user's ", "my ", entity)
    whose = "my" if own else f"{who}'s"
    words = {
        "who": who,
        "whose": whose,
        "do": "do" if own else "does",
        "is_": "am" if own else "is",
        "was": "was",
        "Is_": "Am" if own else "Is",
    }
    if attribute in ASKED_OF_SLOT:
        return tuple(template.format(**words) for template in ASKED_OF_SLOT[attribute])
    if attribute.startswith("taste: "):
        thing = attribute.removeprefix("taste: ")
        return (f"Do I like {thing}?", f"What do I think of {thing}?")
    if attribute.startswith("allergy: "):
        return ("What am I allergic to?", f"Am I allergic to {attribute.removeprefix('allergy: ')}?")
    if attribute.startswith("number of "):
        return (f"How many {attribute.removeprefix('number of ')}s do I have?",)
    if attribute:
        return (f"What is {whose} {attribute}?", f"Tell me {whose} {attribute}.")
    return _of_object(fact)


def _of_object(fact: str) -> tuple[str, ...]:
    """ "The user plays tennis." answers "What do I play?"."""
    found = re.match(
        r"The user (?:always |usually |never |often )?(?P<verb>plays|studies|speaks|owns|has|"
        r"drinks|eats|prefers|drives|uses|reads|wears|knows|visits)\b",
        fact,
    )
    if not found:
        return ()
    verb = found["verb"]
    base = {"has": "have", "studies": "study"}.get(verb, verb[:-1])
    return (f"What do I {base}?", f"Which {base if base == 'language' else 'things'} do I {base}?")
