"""Which slot of a server holds which conversation. A slot keeps what it has read of its last conversation, so that the
next turn need not be read from its beginning."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

WORTH_STORING_TOKENS = 512
REMEMBERED = 10_000  # conversations


@runtime_checkable
class Slotted(Protocol):
    """An engine whose server lets a request say which slot it goes to."""

    def slot_folder(self) -> Path | None:
        """Where its server stores what its slots hold, to be asked once it is loaded; None where it does not.

        What lies there fits the model as its files are at this moment.
        """


@dataclass(slots=True, eq=False)
class Slot:
    """`tokens`: of its conversation, as far as its last request has told; 0 where nobody knows."""

    id: int
    conversation: str | None = None
    tokens: int = 0
    is_free: bool = True
    turn: int = 0  # when it was last given back


class SlotTable:
    """The slots of one run of a server, all empty at first.

    Args:
        folder: as of `Slotted`.
    """

    def __init__(self, count: int, folder: Path | None = None) -> None:
        self.slots = [Slot(id) for id in range(count)]
        self.folder = folder
        self._turn = 0
        self._ahead: OrderedDict[str, None] = OrderedDict()

    def take(self, conversation: str | None) -> Slot | None:
        """A free slot: that of the conversation, else an empty one, else the least recently used. None where no slot is
        free, which is for the caller to prevent.

        What the slot holds is unchanged until `begin`.
        """
        free = [slot for slot in self.slots if slot.is_free]
        if not free:
            return None
        own = [slot for slot in free if conversation is not None and slot.conversation == conversation]
        empty = [slot for slot in free if slot.conversation is None]
        slot = max(own, key=lambda slot: slot.turn) if own else min(empty or free, key=lambda slot: slot.turn)
        slot.is_free = False
        return slot

    def begin(self, slot: Slot, conversation: str, tokens: int = 0) -> None:
        """From now on it holds this conversation. `tokens`: that have been put there already."""
        if conversation != slot.conversation:
            slot.conversation, slot.tokens = conversation, tokens

    def empty(self, slot: Slot) -> None:
        """What it holds is not known any more."""
        slot.conversation, slot.tokens = None, 0

    def doubt(self) -> None:
        """The server has chosen a slot by itself, and it may have been any of the free ones. They may still hold what
        they did, so conversations go on there, but nothing is stored before they have."""
        for slot in self.slots:
            if slot.is_free:
                slot.tokens = 0

    def give_back(self, slot: Slot, tokens: int = 0) -> None:
        """`tokens`: of the prompt and its answer; 0 where they are not known."""
        self._turn += 1
        slot.is_free, slot.turn = True, self._turn
        if slot.conversation is None:
            return
        slot.tokens = tokens or slot.tokens
        self._ahead[slot.conversation] = None
        self._ahead.move_to_end(slot.conversation)
        if len(self._ahead) > REMEMBERED:
            self._ahead.popitem(last=False)

    def is_ahead(self, conversation: str) -> bool:
        """Has it gone on here since it was stored?"""
        return conversation in self._ahead

    def note_stored(self, conversation: str) -> None:
        self._ahead.pop(conversation, None)

    def worth_storing(self) -> list[Slot]:
        """Free ones, the last used first, one for each conversation."""
        found: dict[str, Slot] = {}
        for slot in sorted(self.slots, key=lambda slot: -slot.turn):
            if slot.is_free and slot.conversation is not None and self.is_worth_storing(slot):
                found.setdefault(slot.conversation, slot)
        return list(found.values())

    def is_worth_storing(self, slot: Slot) -> bool:
        known = slot.conversation
        return known is not None and slot.tokens >= WORTH_STORING_TOKENS and self.is_ahead(known)
