"""What signals read of a request: worked out once, whoever of them asks first."""

from __future__ import annotations

from typing import NamedTuple

from gateway.chat import ChatRequest

LOOKED_AT_CHARS = 20_000
KEPT_AS = "_wording"


class Wording(NamedTuple):
    """`read`: the user's last words without padding, beginning and end of what is long. `asked`: their most telling
    part, which is embedded: at most 128 tokens or so."""

    read: str
    asked: str


def wording_of(request: ChatRequest) -> Wording:
    kept: Wording | None = request.__dict__.get(KEPT_AS)
    if kept is None:
        from gateway.capability.hashing import asked, readable  # numpy, which only those need who come here

        read = readable(request.last_user_text[:LOOKED_AT_CHARS].strip())
        kept = request.__dict__[KEPT_AS] = Wording(read, asked(read))  # as `gateway.chat.lazy` keeps things
    return kept
