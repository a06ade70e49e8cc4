"""What of a request tells who should answer it: the user's own last words, worked out once, whoever asks first."""

from __future__ import annotations

from typing import NamedTuple

from gateway.chat import ChatRequest

KEPT_AS = "_wording"


class Wording(NamedTuple):
    """`read`: beginning and end of what is long, without padding. `asked`: its most telling part, which is embedded:
    at most 128 tokens or so. Both are "" where the user has said nothing."""

    read: str
    asked: str


def wording_of(request: ChatRequest) -> Wording:
    kept: Wording | None = request.__dict__.get(KEPT_AS)
    if kept is None:
        from gateway.capability.hashing import asked, readable  # numpy, which only those need who come here

        read = readable(request.last_user_text.strip())
        kept = request.__dict__[KEPT_AS] = Wording(read, asked(read))  # as `gateway.chat.lazy` keeps things
    return kept
