"""What a conversation has come to: the details that were confirmed, the later ones in place of the earlier."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gateway.shards.memory.details import ENDS, STREET, Detail, Found, details_in, names_in

OFFER = re.compile(
    r"^(?:\W|ok|okay|sure|great|alright|so|yes|no|well)*(?:there (?:is|are|were|'s)|i(?:'ve|"
    r" have)? (?:found|see|located)|how about|what about|would you|do you|shall i|should i|"
    r"can i|"
    r"another|one option|your options|one is|we have found|we found|here|\d+ options?|which|"
    r"what|when|where|how|the (?:total|price|cost|ticket costs))\b|\b(?:i found|i've found|"
    r"we have found)\b|\bdo you (?:want|prefer|need)\b",
    re.IGNORECASE,
)
PROPOSES = re.compile(r"\b(?:shall i|should i|(?:do|would) you (?:want|like) me to)\b", re.IGNORECASE)
CONFIRMS = re.compile(
    r"\b(?:confirm\w*|verif\w*|to be (?:clear|sure|correct)|make sure|making sure|just to|"
    r"is (?:that|this|it|everything) (?:\w+ )?(?:correct|right|ok\w*|good|fine)|right\?|correct\?|"
    r"yes\?|"
    r"correct\.?$|ok\?|you (?:want|need|would like|wish)|you'd like|i(?:'ll| will| am|'m) "
    r"(?:be )?(?:book|reserv|mak|schedul|purchas|buy|order|get)\w*|i(?:'ve| have) you|"
    r"let me (?:repeat|recap|summari[sz]e|check|see if)|to (?:recap|summari[sz]e)|booking "
    r"a|reserving|making (?:a|the|your)|double[- ]check\w*|the following|in summary|understand)\b",
    re.IGNORECASE,
)
DONE = re.compile(
    r"\b(?:is|are|was|were|has been|have been|been|i(?:'ve| have)|i was able to|it's|all|successfully|"
    r"now|you(?:'re| are))\b.{0,30}"
    r"\b(?:booked|confirmed|reserved|made|set|complete[d]?|successful\w*|purchased|scheduled|"
    r"ordered|done|bought|sent|placed)\b|\bconfirmed\b[.!]?$|\bsuccess\w*\b|\benjoy your\b",
    re.IGNORECASE,
)
FAILED = re.compile(
    r"\b(?:unavailable|not available|no (?:tables?|rooms?|seats?|availability|longer available)|"
    r"couldn'?t|could not|unable|wasn'?t able|was not able|failed|"
    r"can'?t (?:be|make|book|reserve)|unsuccessful|not (?:successful|possible)|didn'?t work|"
    r"problem|fully booked|sold out)\b",
    re.IGNORECASE,
)
REFUSES = re.compile(
    r"^\W*(?:no\b|nope|nah|not (?:quite|really|exactly)|wait|actually|oh,? wait|sorry|hold "
    r"on|hmm|you (?:heard|misheard|got)|that'?s (?:not|wrong)|i (?:said|meant)|change|instead|"
    r"make (?:it|that)|can you (?:change|make))"
    r"|\b(?:misheard|heard me wrong|instead|not correct|incorrect|i changed my mind|rather)\b",
    re.IGNORECASE,
)
KINDS: tuple[tuple[str, str], ...] = (
    (
        "car",
        r"\brent(?:al|ing|ed)?\b.{0,20}\bcars?\b|\b(?:compact|full[- ]?size|standard|suv|luxury|"
        r"\w+) cars?\b|\brental\b",
    ),
    ("flight", r"\bflights?\b|\bfly(?:ing)?\b|\bair(?:lines?|ways)\b"),
    ("bus", r"\bbus(?:es)?\b|\bcoach\b"),
    ("train", r"\btrains?\b|\brailway|\bamtrak"),
    ("ride", r"\bcab\b|\btaxi\b|\brides?\b|\buber\b|\blyft\b"),
    ("room", r"\bhotel\b|\brooms?\b|\bcheck(?:ing)?[- ]?in\b|\bmotel\b|\bhostel\b|\bplace to stay\b"),
    (
        "appointment",
        r"\bappointment\b|\bdoctor\b|\bdentist\b|\bsalon\b|\bstylist\b|\bhair\w*\b|\btherapist\b|"
        r"\bgynecolog|\bdermatolog|\bpsych|\bgp\b|\boptomet",
    ),
    ("visit", r"\bapartments?\b|\bproperty\b|\bvisit\b.{0,40}\b(?:property|apartment|house|it)\b"),
    ("table", r"\btables?\b|\brestaurants?\b|\bdin(?:er|e|ing|ner)\b|\blunch\b|\beat\b|\bfood\b"),
    ("tickets", r"\b(?:concert|event|game|match|movie|show|play|film|festival|theat(?:er|re)|cinema)s?\b|\btickets?\b"),
)
TRAVEL = frozenset(("flight", "bus", "train"))
SORTS = re.compile(
    r"\b(?P<sort>compact|full[- ]?size(?:d)?|standard|suv|hatchback|sedan|luxury|pool|regular|"
    r"shared|economy|imax|3d|haircut|"
    r"general practitioner|gp|dentist|dermatologist|gynecologist|one[- ]way|round[- ]?trip|"
    r"return)\b(?= (?:car|ride|cab|taxi|show|screening|appointment|ticket|flight|trip))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Turn:
    is_user: bool
    text: str


@dataclass
class Booking:
    """What is agreed so far. `firm`: by a confirmation or a correction of one; `said`: by the user before."""

    kind: str = ""
    firm: dict[Detail, str] = field(default_factory=dict)
    said: dict[Detail, str] = field(default_factory=dict)
    offered: str = ""
    confirmations: list[str] = field(default_factory=list)
    is_done: bool = False
    is_open: bool = False  # a confirmation waits for its answer
    is_refused: bool = False

    def of(self, kind: Detail) -> str:
        return self.firm.get(kind) or self.said.get(kind, "")

    @property
    def place(self) -> str:
        return self.firm.get(Detail.PLACE) or self.offered or self.said.get(Detail.PLACE, "")


def bookings_in(turns: list[Turn]) -> list[Booking]:
    """In the order they were made; none that was given up."""
    out: list[Booking] = []
    now = Booking()
    names = _names_of(turns)
    for place, turn in enumerate(turns):
        if turn.is_user:
            if now.is_done and _begins_anew(turn.text, now):
                out.append(now)
                now = Booking()
            _hear(now, turn.text)
        else:
            now = _follow(now, turn.text, turns[: place + 1], out)
    out.append(now)
    made = [one for one in out if one.confirmations and not one.is_refused]
    for one in made:
        if one.kind == "tickets" and Detail.ROOMS in one.firm:
            one.kind = "room"
        _complete_names(one, names)
    return made


def _hear(now: Booking, text: str) -> None:
    """A turn of the user: before a confirmation what they want, after one what they correct."""
    if now.is_done:
        return
    details = [one for sentence in _sentences(text) if not sentence.endswith("?") for one in details_in(sentence)]
    if now.is_open:
        now.is_refused = bool(REFUSES.search(text)) or (bool(details) and not _agrees(text))
        now.is_open = False
        if now.is_refused:
            _take(now.firm, details)
            _take(now.said, details)
    elif now.confirmations:
        _take(now.firm, details)
        _take(now.said, details)
    else:
        _take(now.said, details)


def _agrees(text: str) -> bool:
    return bool(
        re.match(
            r"\W*(?:yes|yeah|yep|yup|sure|correct|right|that|perfect|great|good|exactly|absolutely|"
            r"ok|okay|sounds|it|fine|indeed|i (?:confirm|agree)|please|go ahead|awesome|excellent|"
            r"all|everything|works|looks|cool|you)",
            text,
            re.IGNORECASE,
        )
    )


def _take(into: dict[Detail, str], details: list[Found]) -> None:
    for one in details:
        if not (one.text.endswith("Airport") and into.get(one.kind)):  # which says less than its city
            into[one.kind] = one.text


def _follow(now: Booking, text: str, turns: list[Turn], out: list[Booking]) -> Booking:
    """A turn of the assistant."""
    failed, done = bool(FAILED.search(text)), bool(DONE.search(text))
    parts = _sentences(text)
    details = [one for sentence in parts for one in details_in(sentence)]
    is_offer = bool(OFFER.search(text)) and not re.search(
        r"\b(?:confirm|verify|correct\?|right\?|is that correct)", text, re.IGNORECASE
    )
    kinds = {one.kind for one in details}
    proposes = bool(PROPOSES.search(text)) and not re.search(
        r"\b(?:search|look|check|find|see if)\b", text, re.IGNORECASE
    )
    confirms = len(kinds) >= (2 if CONFIRMS.search(text) or proposes else 3) and (proposes or not is_offer)
    follows = bool(now.confirmations) and not now.is_done and not now.is_open and bool(details) and not is_offer
    if failed and not done:
        now.is_done = now.is_open = False
    elif confirms or follows or (done and now.confirmations and not now.is_done and details):
        if now.is_done:
            out.append(now)
            now = Booking(said=dict(now.said) if _kind_of(text) == now.kind else {})
        now.kind = now.kind or _kind_agreed(text, " ".join(turn.text for turn in turns), kinds)
        _confirm(now, [part for part in parts if DONE.search(part)] if done and not confirms else parts)
        now.is_open, now.is_refused = not done, False
        now.is_done = done
    elif done and now.confirmations:
        now.is_done, now.is_open, now.is_refused = True, False, False
    elif not now.confirmations:
        now.offered = _offered(text) or now.offered
        if re.search(r"\b(?:right|correct|confirm\w*)\b", text, re.IGNORECASE) and CONFIRMS.search(text):
            now.confirmations, now.is_open = [text], True
    if now.is_done:
        _note(now, text)
    return now


def _confirm(now: Booking, parts: list[str]) -> None:
    details = [one for sentence in parts for one in details_in(sentence) if not _of_way_back(one, sentence)]
    if now.firm.get(Detail.PLACE) and now.kind not in TRAVEL and not any(one.kind is Detail.PLACE for one in details):
        details = [one for one in details if one.kind is not Detail.DESTINATION]
    places = [one for one in details if one.kind is Detail.PLACE]
    if now.kind == "tickets" and len(places) > 1:  # what is seen, and where
        details = [one for one in details if one not in places[1:]]
        now.firm[Detail.VENUE] = places[-1].text
    _take(now.firm, details)
    now.confirmations.append(" ".join(parts))
    sort = SORTS.search(" ".join(parts))
    if sort:
        now.firm[Detail.SORT] = sort["sort"]


def _of_way_back(one: Found, sentence: str) -> bool:
    """ "The return flight is from San Francisco": where they go to, that is."""
    ends = ENDS.search(sentence, 0, one.start)
    return (
        one.kind in (Detail.ORIGIN, Detail.DESTINATION)
        and ends is not None
        and "trip" not in sentence[ends.start() : one.start]
    )


def _note(now: Booking, text: str) -> None:
    """What is said of it once it is done: its telephone number, what it costs."""
    for one in details_in(text):
        if one.kind in (Detail.PHONE, Detail.PRICE):
            now.firm.setdefault(one.kind, one.text)


def _offered(text: str) -> str:
    """The name of what is proposed: "How about Bar Tartine?", "There's a nice place called Amber"."""
    found = ""
    for sentence in _sentences(text):
        if re.search(r"\b(?:airlines|airways|flight|costs?)\b", sentence, re.IGNORECASE):
            continue
        for start, end in names_in(sentence):
            before = sentence[:start].rstrip().lower()
            before = re.sub(r",$", "", before)
            if (
                not re.search(r"\b(?:in|from|near|to|around)(?: the)?$", before)
                and (end - start) > 2
                and not STREET.match(sentence, start)
            ):
                found = sentence[start:end].strip(" .'")
                break
    return found


def _begins_anew(text: str, now: Booking) -> bool:
    kind = _kind_of(text)
    return (
        bool(kind)
        and kind != now.kind
        and bool(
            re.search(
                r"\b(?:book|reserv\w*|find|need|want|looking|search|get|buy|like|order|schedul\w*|make|rent)\b",
                text,
                re.IGNORECASE,
            )
        )
    )


def _kind_of(text: str) -> str:
    counts = {kind: len(re.findall(pattern, text, re.IGNORECASE)) for kind, pattern in KINDS}
    best = max(counts, key=lambda kind: counts[kind])
    return best if counts[best] else ""


def _kind_agreed(text: str, conversation: str, kinds: set[Detail]) -> str:
    """Of a confirmation; what takes somebody from one place to another is no concert, though it has tickets."""
    kind = _kind_of(text) or _kind_of(conversation)
    if kind in ("tickets", "") and Detail.DESTINATION in kinds and kinds & {Detail.ORIGIN, Detail.CARRIER}:
        counts = {kind: len(re.findall(dict(KINDS)[kind], f"{conversation} {text}", re.IGNORECASE)) for kind in TRAVEL}
        return max(sorted(counts), key=lambda kind: counts[kind]) if any(counts.values()) else "flight"
    return kind


def _sentences(text: str) -> list[str]:
    parts = re.split(
        r"(?<=[.?!])(?<!\b[A-Z]\.)(?<!Dr\.)(?<!Mr\.)(?<!St\.)(?<![ap]\.m\.)(?<!\bpm\.)(?<!\bam\.)\s+|\n+", text
    )
    return [part.strip() for part in parts if part.strip()]


def _names_of(turns: list[Turn]) -> list[str]:
    return [turn.text[start:end].strip(" .'") for turn in turns for start, end in names_in(turn.text)]


def _complete_names(one: Booking, names: list[str]) -> None:
    """ "Bj's" is "Bj's Restaurant & Brewhouse" where the conversation says so."""
    if not one.firm.get(Detail.PLACE):
        return
    place = re.sub(r"^the ", "", one.firm[Detail.PLACE], flags=re.IGNORECASE)
    longer = [
        name
        for name in names
        if name.lower().startswith(place.lower() + " ") and not re.search(r"\b(?:in|on|at)\b", name)
    ]
    one.firm[Detail.PLACE] = max(longer, key=len) if longer else place
