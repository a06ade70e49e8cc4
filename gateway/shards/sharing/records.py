"""A shard as gateways hand it to each other: its text, and what was found out about it there.

Tenants, users, writers, sources and states of readers' watches stay at home.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gateway.errors import InvalidRequest
from gateway.shards import Json, Scope, Shard, Standing
from gateway.shards.outside import FROM_GATEWAYS, KEYS, read_shard
from gateway.shards.writing import as_json

SHARED = frozenset(KEYS) - {"scope", "user", "source", "needs_review"}
ASKED_FOR = ("examples", "hand")
"""Authors whose cases were written for the purpose. A model's are made of what users have asked."""
MAX_CLAIM_BYTES = 8 * 1024
MAX_CLAIMS = 32
MAX_VIA = 8
CHECKS = frozenset(
    {"finish_reason", "not_empty", "length", "not_refusal", "not_echo", "no_loop", "language", "regex", "one_of"}
    | {"json", "json_schema", "tool_arguments", "logprob", "agreement", "grounded", "used_shard"}
)
"""What a shard from elsewhere may have checked: nothing that runs code, asks a model or opens a connection."""


@dataclass(frozen=True)
class Claim:
    """How a shard stands with a reader elsewhere, as its publisher says. No proof here: the reader may be another."""

    reader: str
    state: str
    fingerprint: str
    evidence: Json


@dataclass(frozen=True)
class Record:
    """Args:
    id: the publisher's.
    via: key ids of the publishers that it came by before this one, the first first.
    personal: it was about one user there.
    shard: its text; who it is for and where it comes from are the receiver's to say.
    """

    id: str
    lot: str
    via: tuple[str, ...]
    personal: bool
    shard: Shard
    claims: tuple[Claim, ...]


KeyId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")]
STRICT = ConfigDict(extra="forbid", strict=True)


class ClaimSpec(BaseModel):
    model_config = STRICT

    reader: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    state: Literal["candidate", "trial", "live", "retired"]
    fingerprint: Annotated[str, StringConstraints(max_length=64)] = ""
    evidence: dict[str, Any] = {}


class RecordSpec(BaseModel):
    model_config = STRICT

    id: Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
    version: Annotated[int, Field(ge=1, le=2**31)] = 1
    author: Annotated[str, StringConstraints(max_length=256)] = "hand"
    state: Literal["candidate", "trial", "live"] = "candidate"
    lot: Annotated[str, StringConstraints(max_length=32)] = ""
    via: Annotated[list[KeyId], Field(max_length=MAX_VIA)] = []
    personal: bool = False
    shard: dict[str, Any]
    evidence: Annotated[list[ClaimSpec], Field(max_length=MAX_CLAIMS)] = []


def body_to_share(shard: Shard) -> Json:
    return {name: value for name, value in as_json(shard).items() if name in SHARED}


def content_hash(shard: Shard) -> str:
    """Of all that is handed on. It tells whether somebody here has changed a shard from elsewhere."""
    return sha256(orjson.dumps(body_to_share(shard), option=orjson.OPT_SORT_KEYS)).hexdigest()


def is_foreign(shard: Shard) -> bool:
    return shard.source.startswith(FROM_GATEWAYS)


def record_of(shard: Shard, standings: Iterable[Standing], *, private_cases: bool = False) -> Json:
    """`private_cases`: also those that may hold what users here have asked."""
    body = body_to_share(shard)
    if shard.author not in ASKED_FOR and not private_cases:
        body.pop("cases", None)
    record: Json = {"id": shard.id, "version": shard.version, "author": shard.author, "state": str(shard.state)}
    proofs = [_claim(one) for one in standings if one.evidence and "claim" not in one.evidence]  # no hearsay
    proofs = [proof for proof in proofs if len(orjson.dumps(proof["evidence"])) <= MAX_CLAIM_BYTES][:MAX_CLAIMS]
    record |= {"shard": body, "evidence": proofs}
    optional = {"lot": shard.lot, "via": list(via_of(shard)), "personal": shard.scope is Scope.USER}
    return record | {name: value for name, value in optional.items() if value}


def _claim(standing: Standing) -> Json:
    claim: Json = {"reader": standing.reader, "state": str(standing.state), "fingerprint": standing.fingerprint}
    return claim | {"evidence": standing.evidence}


def source_of(channel: str, publisher: str, name: str, via: Sequence[str] = ()) -> str:
    """`feed:KEY/NAME` or `bundle:KEY/NAME`, and by whom it came to that publisher."""
    return f"{channel}:{publisher}/{name}" + (f" via {','.join(via)}" if via else "")


def via_of(shard: Shard) -> tuple[str, ...]:
    """Key ids of the publishers that it came by, the first first; none for one of this node's own."""
    if not is_foreign(shard):
        return ()
    named, _, before = shard.source.partition(" via ")
    publisher = named.partition(":")[2].partition("/")[0]
    return (*(before.split(",") if before else ()), publisher)


def read_record(data: object, checks: Collection[str] = CHECKS) -> Record:
    """Raises: InvalidRequest for what is no record, or holds what a shard from elsewhere may not."""
    try:
        spec = RecordSpec.model_validate(data)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequest(f"no record of a shard: '{where}': {first['msg']}", param=where) from None
    for name in spec.shard:
        if name in KEYS and name not in SHARED:
            raise InvalidRequest(f"'{name}' of a shard from elsewhere is not the sender's to set", param=name)
    shard = read_shard(spec.shard, id=spec.id, author=spec.author)
    for n, one in enumerate(shard.checks):
        name = one if isinstance(one, str) else next(iter(one))
        if name not in checks:
            raise InvalidRequest(f"the check '{name[:60]}' is not taken from elsewhere", param=f"checks[{n}]")
    claims = tuple(Claim(one.reader, one.state, one.fingerprint, _weighed(one)) for one in spec.evidence)
    return Record(spec.id, spec.lot, tuple(spec.via), spec.personal, shard, claims)


def _weighed(claim: ClaimSpec) -> Json:
    try:
        size = len(orjson.dumps(claim.evidence))
    except TypeError as exc:
        raise InvalidRequest(f"evidence must be JSON: {exc}", param="evidence") from None
    if size > MAX_CLAIM_BYTES:
        raise InvalidRequest(f"the evidence for a reader may take {MAX_CLAIM_BYTES // 1024} KB", param="evidence")
    return claim.evidence


def digest(*parts: str) -> str:
    """32 hex digits; parts cannot be moved into one another."""
    state = blake2b(digest_size=16)
    for part in parts:
        state.update(len(part.encode()).to_bytes(8, "big") + part.encode())
    return state.hexdigest()
