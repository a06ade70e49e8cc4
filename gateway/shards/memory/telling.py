"""What was booked, told in statements about the user: each detail as a sentence of its own with the questions that it
answers, and all of them in one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.shards.memory.bookings import TRAVEL, Booking
from gateway.shards.memory.details import Detail

BOOKED = {
    "table": "booked a table", "room": "reserved a room", "appointment": "booked an appointment",
    "visit": "scheduled a visit", "tickets": "bought tickets", "car": "rented a car", "ride": "booked a ride",
    "flight": "booked a flight", "bus": "booked a bus", "train": "booked a train", "": "made a booking",
}  # fmt: skip
RELATIVE = re.compile(r"\b(?:today|tonight|tomorrow|next|this|coming)\b", re.IGNORECASE)
ABSOLUTE = re.compile(r"\d")


@dataclass(frozen=True)
class Told:
    """One statement of a booking: what it says, of what (`attribute`), and the questions it answers."""

    fact: str
    attribute: str
    questions: tuple[str, ...]


def entity_of(one: Booking) -> str:
    """What it is known by: where it is, or where it goes to; "" where nobody can tell."""
    if not one.kind:
        return one.place
    if one.kind in TRAVEL:
        return one.of(Detail.DESTINATION) or one.of(Detail.CITY)
    if one.kind == "car":
        return one.of(Detail.CITY) or one.of(Detail.DESTINATION) or one.place
    if one.kind == "ride":
        return one.of(Detail.DESTINATION) or one.place
    return one.place or one.of(Detail.DESTINATION) or one.of(Detail.CITY)


def where_of(one: Booking) -> str:
    """ "at Amber", "to London", "with Dr. Wong"."""
    entity = entity_of(one)
    if one.kind in TRAVEL or one.kind == "ride":
        return f"to {entity}"
    if one.kind == "appointment" and re.match(r"(?:Dr|Mr|Ms|Mrs|Prof)\b", entity):
        return f"with {entity}"
    if one.kind == "tickets":
        return f"for {entity}"
    if one.kind == "car" and entity != one.place:
        return f"in {entity}"
    return f"at {entity}"


def day_of(one: Booking, kind: Detail) -> str:
    """As it was confirmed, with the user's own date beside it where that says more: "tomorrow (March 2nd)"."""
    day = one.of(kind)
    said = one.said.get(kind, "")
    is_vague = bool(RELATIVE.search(day)) and not ABSOLUTE.search(day)
    return f"{day} ({said})" if is_vague and said != day and ABSOLUTE.search(said) else day


def on(day: str) -> str:
    """With its preposition: "on March 2nd", "tomorrow"."""
    return day if RELATIVE.match(day) or day.lower().startswith(("on ", "the day after", "day after")) else f"on {day}"


def summary_of(one: Booking) -> str:
    """All of it in one sentence."""
    count = one.of(Detail.TICKETS) or one.of(Detail.ROOMS)
    booked = BOOKED.get(one.kind, BOOKED[""])
    if count and one.kind in ("room", "tickets", "flight", "bus", "train"):
        noun = count if re.search(r"room|ticket|seat", count, re.IGNORECASE) else f"{count} tickets"
        booked = f"{booked.split()[0]} {noun}"
    people, tickets = one.of(Detail.PEOPLE), one.of(Detail.TICKETS)
    days = one.of(Detail.DATE)
    parts = [f"The user {booked}"]
    parts += [f"for {_counted(people, 'people', 'person')}"] if people and not (tickets and one.kind in TRAVEL) else []
    parts += [f"from {one.of(Detail.ORIGIN)}"] if one.of(Detail.ORIGIN) else []
    parts += [where_of(one)] if entity_of(one) else []
    parts += [f"at {one.of(Detail.VENUE)}"] if one.of(Detail.VENUE) else []
    parts += (
        [f"in {one.of(Detail.CITY)}"]
        if one.of(Detail.CITY) and entity_of(one) not in one.of(Detail.CITY) and one.kind not in TRAVEL
        else []
    )
    parts += [f"with {one.of(Detail.CARRIER)}"] if one.of(Detail.CARRIER) else []
    seat = one.of(Detail.CLASS)
    parts += [f"in {seat}"] if seat and seat not in booked else []
    parts += (
        [("from " if one.kind == "room" and one.of(Detail.END_DATE) else "for ") + day_of(one, Detail.DATE)]
        if days
        else []
    )
    parts += [f"at {_hour(one.of(Detail.TIME))}"] if one.of(Detail.TIME) else []
    parts += [f"for {_stay(one)}"] if one.of(Detail.DAYS) else []
    if one.of(Detail.END_DATE):
        parts.append((", returning " if one.kind in TRAVEL else "until ") + day_of(one, Detail.END_DATE))
    if one.of(Detail.END_TIME):
        parts.append(f"at {_hour(one.of(Detail.END_TIME))}")
    return re.sub(r" +,", ",", " ".join(parts)) + "."


def _hour(time: str) -> str:
    return re.sub(r"^at ", "", time)


def _stay(one: Booking) -> str:
    days = one.of(Detail.DAYS).replace("-", " ")
    return days if days.lower().endswith("s") or days.split()[0] in ("1", "one", "a") else f"{days}s"


def _counted(text: str, many: str, single: str) -> str:
    number = text.split()[0] if text else ""
    if len(text.split()) == 1:
        return f"{number} {single if number in ('1', 'one') else many}"
    return text


def told(one: Booking) -> Iterator[Told]:
    """Each detail as a sentence of its own; readers below 1B take one at a time."""
    entity = entity_of(one)
    if not entity:
        return
    where, thing = where_of(one), one.kind if one.kind != "tickets" else "event"
    thing = thing or "booking"
    if one.of(Detail.DATE):
        yield from _told_day(one, entity, where, thing)
    if one.of(Detail.TIME):
        hour = _hour(one.of(Detail.TIME))
        fact = (
            f"The user's {thing} {where} leaves at {hour}."
            if one.kind in TRAVEL
            else f"The user's {thing} {where} is at {hour}."
        )
        yield Told(
            fact,
            "time",
            (
                f"At what time is my {thing} {where}?",
                f"What time does my {thing} {where} {'leave' if one.kind in TRAVEL else 'start'}?",
                f"When is my {thing} {where}?",
            ),
        )
    if one.of(Detail.PEOPLE):
        people = _counted(one.of(Detail.PEOPLE), "people", "person")
        yield Told(
            f"The user {BOOKED.get(one.kind, BOOKED[''])} {where} for {people}.",
            "people",
            (f"For how many people did I book {entity}?", f"How many people is my {thing} {where} for?"),
        )
    yield from _told_stay(one, entity, where)
    yield from _told_travel(one, entity, where, thing)
    yield from _told_rest(one, entity, where, thing)


def _told_day(one: Booking, entity: str, where: str, thing: str) -> Iterator[Told]:
    day = day_of(one, Detail.DATE)
    if one.kind in TRAVEL:
        verb = "flies" if one.kind == "flight" else "travels"
        asked = "fly" if one.kind == "flight" else "travel"
        fact = f"The user {verb} {where}{'' if one.kind == 'flight' else ' by ' + one.kind} {on(day)}."
        yield Told(
            fact,
            "date",
            (f"Which day do I {asked} {where}?", f"When is my {thing} {where}?", f"What date do I leave for {entity}?"),
        )
    elif one.kind == "room":
        yield Told(
            f"The user checks in {where} {on(day)}.",
            "date",
            (
                f"When do I check in {where}?",
                f"Which day does my stay {where} begin?",
                f"Which day did I book {entity} for?",
            ),
        )
    elif one.kind == "car":
        yield Told(
            f"The user picks up the rental car {where} {on(day)}.",
            "date",
            (f"When do I pick up the car {where}?", "Which day does my car rental start?"),
        )
    else:
        fact = f"The user {BOOKED.get(one.kind, BOOKED[''])} {where} for {day}."
        yield Told(
            fact,
            "date",
            (
                f"Which day did I book {entity} for?",
                f"When is my {thing} {where}?",
                f"What date is my {thing} {where}?",
            ),
        )


def _told_stay(one: Booking, entity: str, where: str) -> Iterator[Told]:
    rooms, tickets = one.of(Detail.ROOMS), one.of(Detail.TICKETS)
    if rooms:
        yield Told(
            f"The user reserved {_counted(rooms, 'rooms', 'room')} {where}.",
            "rooms",
            (f"How many rooms did I reserve {where}?", f"How many rooms do I have {where}?"),
        )
    if tickets and not one.of(Detail.PEOPLE):
        yield Told(
            f"The user bought {_counted(tickets, 'tickets', 'ticket')} {where}.",
            "tickets",
            (f"How many tickets did I buy {where}?", f"For how many people did I book {entity}?"),
        )
    if one.of(Detail.DAYS):
        yield Told(
            f"The user is staying {_stay(one)} {where}.",
            "days",
            (f"How many days am I staying {where}?", f"How long is my stay {where}?"),
        )
    if one.of(Detail.END_DATE) and one.kind not in TRAVEL:
        day = on(day_of(one, Detail.END_DATE))
        fact = (
            f"The user returns the rental car {day}."
            if one.kind == "car"
            else f"The user checks out of {entity} {day}."
        )
        asked = (
            ("When do I have to return the car?",)
            if one.kind == "car"
            else (f"When do I check out of {entity}?", f"Until when am I staying {where}?")
        )
        yield Told(fact, "end date", asked)


def _told_travel(one: Booking, entity: str, where: str, thing: str) -> Iterator[Told]:
    if one.kind not in TRAVEL and one.kind != "ride":
        return
    verb, asked = ("flies", "fly") if one.kind == "flight" else ("travels", "travel")
    origin, carrier = one.of(Detail.ORIGIN), one.of(Detail.CARRIER)
    if origin:
        yield Told(
            f"The user {verb} {where} from {origin}.",
            "origin",
            (f"From which city do I {asked} {where}?", f"Where does my {thing} {where} leave from?"),
        )
    if carrier:
        yield Told(
            f"The user {verb} {where} with {carrier}.",
            "carrier",
            (
                f"Which {'airline' if one.kind == 'flight' else 'company'} do I take {where}?",
                f"Who do I {asked} {where} with?",
            ),
        )
    if one.of(Detail.CLASS):
        yield Told(
            f"The user {verb} {where} in {one.of(Detail.CLASS)}.",
            "class",
            (f"In which class do I {asked} {where}?", f"What is my seating class {where}?"),
        )
    if one.of(Detail.END_DATE):
        yield Told(
            f"The user returns from {entity} {on(day_of(one, Detail.END_DATE))}.",
            "end date",
            (f"Which day do I return from {entity}?", f"When do I come back from {entity}?"),
        )
    if one.of(Detail.END_TIME):
        yield Told(
            f"The user's return {thing} from {entity} leaves at {_hour(one.of(Detail.END_TIME))}.",
            "end time",
            (f"At what time does my return {thing} from {entity} leave?",),
        )


def _told_rest(one: Booking, entity: str, where: str, thing: str) -> Iterator[Told]:
    city = one.of(Detail.CITY)
    if city and entity not in city and one.kind not in TRAVEL:
        yield Told(
            f"The {thing} the user booked {where} is in {city}.",
            "city",
            (f"In which city is {entity}?", f"Where is {entity}?"),
        )
    if one.of(Detail.VENUE):
        yield Told(
            f"{entity} is at {one.of(Detail.VENUE)}.", "venue", (f"Where is {entity}?", f"At which venue is {entity}?")
        )
    if one.of(Detail.PHONE):
        yield Told(
            f"The phone number of {entity} is {one.of(Detail.PHONE)}.",
            "phone",
            (f"What is the phone number of {entity}?", f"How can I reach {entity}?"),
        )
    if one.of(Detail.PRICE):
        yield Told(
            f"The user's {thing} {where} costs {one.of(Detail.PRICE)}.",
            "price",
            (f"How much does my {thing} {where} cost?", f"What is the price of my {thing} {where}?"),
        )
    if one.of(Detail.SORT) and one.kind in ("car", "ride"):
        sort = one.of(Detail.SORT)
        yield Told(
            f"The user booked a {sort} {one.kind} {where}.", "sort", (f"What type of {one.kind} did I book {where}?",)
        )
