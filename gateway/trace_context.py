"""Whose part a request is: W3C Trace Context, as it comes in headers and as it is sent on."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
SAMPLED, RANDOM = 0x01, 0x02  # flags; the second says that the trace's id is a random number
MOST_STATE = 512  # characters that have to be passed on; more need not be
PARENT = re.compile(r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<parent>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")
MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
MOST_MEMBERS = 32


def new_span_id() -> str:
    """16 hex digits, never all 0. They name a span and guard nothing."""
    return f"{random.getrandbits(64) or 1:016x}"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The trace that a request is part of, for as long as the request lasts.

    Args:
        trace_id: 32 hex digits.
        parent_id: 16 hex digits of the span that asked us; None where the trace begins here.
        flags: as they are sent on; see `is_sampled`.
        state: what others have to say of the trace (`tracestate`), never read here.
        has_spans: each hop may become a span, so who is asked is told of the hop; else only of who asked us.
    """

    trace_id: str
    parent_id: str | None
    flags: int
    state: str = ""
    has_spans: bool = True

    @property
    def is_sampled(self) -> bool:
        return bool(self.flags & SAMPLED)

    def headers(self, span_id: str) -> dict[str, str]:
        """What an upstream is told that the hop `span_id` asks."""
        asking = span_id if self.has_spans or self.parent_id is None else self.parent_id
        headers = {TRACEPARENT: f"00-{self.trace_id}-{asking}-{self.flags:02x}"}
        return {**headers, TRACESTATE: self.state} if self.state else headers


def read_context(headers: Mapping[str, str], *, has_spans: bool) -> TraceContext | None:
    """The context that a request came with; None where it has none, or one that the standard says to ignore."""
    found = PARENT.match(given := headers.get(TRACEPARENT, ""))
    if found is None:
        return None
    rest, version = given[found.end() :], found["version"]
    if version == "ff" or (rest and (version == "00" or rest[0] != "-")):
        return None
    if set(found["trace"]) == {"0"} or set(found["parent"]) == {"0"}:
        return None
    flags = int(found["flags"], 16) & (SAMPLED | RANDOM)
    return TraceContext(found["trace"], found["parent"], flags, _state(headers.get(TRACESTATE, "")), has_spans)


def _state(given: str) -> str:
    """As it is sent on: nothing of one that is malformed."""
    members = [member.strip(" \t") for member in given.split(",")]
    members = [member for member in members if member]
    names = {member.partition("=")[0] for member in members}
    if len(members) > MOST_MEMBERS or len(names) < len(members) or not all(map(MEMBER.fullmatch, members)):
        return ""
    while members and len(",".join(members)) > MOST_STATE:
        members.pop()
    return ",".join(members)
