"""Bundles: shards and their evidence in one signed file, `NAME.shards`.

gzip around JSON lines: a manifest, one record for each shard, and a signature of every byte before it. `zcat` shows it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from gateway.errors import GatewayError, InvalidRequest
from gateway.shards import Json, Scope, Shard, Standing, State
from gateway.shards.outside import read_shard
from gateway.shards.sharing.adopting import IDS_AT_ONCE, Adopted, Adoption, Receiver
from gateway.shards.sharing.records import Record, body_to_share, is_foreign, read_record, record_of
from gateway.shards.sharing.sidecar import FOLDER, read_json, write_file, write_json
from gateway.shards.sharing.signing import PublicKey, Signer, find_trusted
from gateway.shards.store import ShardStore, Where

SUFFIX = ".shards"
FORMAT = 1
MAGIC = "onion-gateway shards"
PURPOSE = b"shards bundle"
MAX_BYTES = 64 * 2**20  # unpacked
MAX_RECORDS = 100_000
AT_ONCE_BYTES = 2**20
IMPORTS = "imports.json"
NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
VERSION = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,3}")


class BundleError(GatewayError):
    """The file is no bundle, was cut or changed, or cannot be taken."""

    status = 400
    type = "invalid_request_error"


class NewerFormat(BundleError):
    pass


class BundleTooLarge(BundleError):
    status = 413


class OlderBundle(BundleError):
    status = 409


@dataclass(frozen=True)
class Manifest:
    """`created` in unix seconds; `sha256` of the records, as they stand."""

    name: str
    version: str
    publisher: str
    key: str
    created: float
    count: int
    sha256: str


@dataclass(frozen=True)
class Bundle:
    """One whose signature has been found right."""

    manifest: Manifest
    records: tuple[Record, ...]
    rejected: tuple[tuple[str, str], ...]


@dataclass
class Imported(Adopted):
    """`personal`: records about one user elsewhere, left out because no user was named here."""

    manifest: Manifest | None = None
    personal: int = 0


# -- out ---------------------------------------------------------------------------------------------------------


async def export(
    store: ShardStore,
    where: Where,
    *,
    name: str,
    version: str,
    signer: Signer,
    republish: bool = False,
    private_cases: bool = False,
    clock: Callable[[], float] = time.time,
) -> bytes:
    """The bundle of what `where` names, less what is retired or waits for review.

    Args:
        where: the shards of a user only where it names that user, and the tenant.
        republish: also what came from other gateways.
        private_cases: also cases that may hold what users have asked.
    Raises: InvalidRequest, BundleError.
    """
    _check_name(name, version)
    if where.user is not None and where.tenant is None:
        raise InvalidRequest("the shards of a user are exported for a named tenant", param="tenant")
    shards = [shard for shard in await store.find(where) if _is_exported(shard, where, republish)]
    shards.sort(key=lambda shard: shard.id)
    standings = await _standings(store, shards)
    lines = []
    for shard in shards:
        _check_readable(shard)
        record = record_of(shard, standings.get(shard.id, ()), private_cases=private_cases)
        lines.append(orjson.dumps(record, option=orjson.OPT_SORT_KEYS) + b"\n")
    return await asyncio.to_thread(_written, lines, name, version, signer, clock())


def save(folder: Path, name: str, data: bytes) -> Path:
    """`folder/NAME.shards`, all of it or nothing. Raises: InvalidRequest, GatewayError."""
    _check_name(name, "1")
    path = folder / f"{name}{SUFFIX}"
    write_file(path, data)
    return path


def _check_name(name: str, version: str) -> None:
    if not NAME.fullmatch(name):
        raise InvalidRequest("a bundle's name is 1 to 64 of a-z, 0-9, '.', '_' and '-'", param="name")
    if not VERSION.fullmatch(version):
        raise InvalidRequest("a bundle's version is written as 1, 1.2 or 2026.11.21", param="version")


def _is_exported(shard: Shard, where: Where, republish: bool) -> bool:
    is_known_user = shard.scope is not Scope.USER or (where.user is not None and shard.user == where.user)
    is_ours = republish or not is_foreign(shard)
    return is_known_user and is_ours and shard.state is not State.RETIRED and not shard.needs_review


async def _standings(store: ShardStore, shards: Sequence[Shard]) -> dict[str, list[Standing]]:
    found: dict[str, list[Standing]] = {}
    for start in range(0, len(shards), IDS_AT_ONCE):
        for one in await store.standings([shard.id for shard in shards[start : start + IDS_AT_ONCE]]):
            found.setdefault(one.shard, []).append(one)
    return {id: sorted(own, key=lambda one: one.reader) for id, own in found.items()}


def _check_readable(shard: Shard) -> None:
    """Others read strictly: better a word here than there."""
    try:
        read_shard(body_to_share(shard))
    except InvalidRequest as exc:
        raise BundleError(f"the shard {shard.id} cannot be exported: {exc.message}", param=exc.param) from None


def _written(lines: list[bytes], name: str, version: str, signer: Signer, created: float) -> bytes:
    payload = b"".join(lines)
    manifest = {"format": FORMAT, "magic": MAGIC, "name": name, "version": version, "created": created}
    manifest |= {"publisher": signer.public.id, "key": str(signer.public)}
    manifest |= {"count": len(lines), "sha256": sha256(payload).hexdigest()}
    signed = orjson.dumps(manifest) + b"\n" + payload
    signature = {"signature": base64.b64encode(signer.sign(PURPOSE, signed)).decode()}
    whole = signed + orjson.dumps(signature) + b"\n"
    if len(whole) > MAX_BYTES or len(lines) > MAX_RECORDS:
        most = f"{MAX_BYTES >> 20} MiB and {MAX_RECORDS} shards"
        raise BundleTooLarge(f"a bundle may take {most}, and this one has {len(whole) >> 20} MiB and {len(lines)}")
    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # no time and no file name in its head
    return packer.compress(whole) + packer.flush()


# -- in ----------------------------------------------------------------------------------------------------------


class ManifestSpec(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    format: Annotated[int, Field(ge=1)]
    magic: Literal["onion-gateway shards"]
    name: Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]
    version: Annotated[str, StringConstraints(pattern=f"^{VERSION.pattern}$")]
    created: float
    publisher: Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")]
    key: Annotated[str, StringConstraints(max_length=64)]
    count: Annotated[int, Field(ge=0, le=MAX_RECORDS)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


def open_bundle(data: bytes, trusted: Mapping[str, PublicKey]) -> Bundle:
    """Nothing of it is believed before its signature has been found to be that of a trusted publisher.

    Raises: BundleError, SigningError.
    """
    whole = _unpacked(data)
    if not whole.endswith(b"\n"):
        raise BundleError("the bundle was cut: it does not end with a signature")
    first = whole.find(b"\n") + 1
    last = whole.rfind(b"\n", 0, -1) + 1
    if not 0 < first <= last:
        raise BundleError("this is no bundle: it holds a single line")
    manifest = _manifest(whole[: first - 1])
    key = find_trusted(trusted, manifest.publisher)
    key.check(PURPOSE, whole[:last], _signature(whole[last:]))
    payload = whole[first:last]
    lines = payload.splitlines() if payload else []
    if len(lines) != manifest.count or sha256(payload).hexdigest() != manifest.sha256:
        raise BundleError("the bundle's records are not those that its manifest tells of")
    return _read(manifest, lines)


def _unpacked(data: bytes) -> bytes:
    """In steps, and never more than `MAX_BYTES`, however much it would come to."""
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    parts, size = [], 0
    try:
        while not unpacker.eof:
            part = unpacker.decompress(data, AT_ONCE_BYTES)
            data = unpacker.unconsumed_tail
            size += len(part)
            if size > MAX_BYTES:
                raise BundleTooLarge(f"the bundle unpacks to more than {MAX_BYTES >> 20} MiB")
            if not part and not data:
                raise BundleError("the bundle was cut: its end is missing")
            parts.append(part)
    except zlib.error:
        raise BundleError("this is no bundle, or it was damaged: it cannot be unpacked") from None
    if unpacker.unused_data:
        raise BundleError("something follows the bundle in its file")
    return b"".join(parts)


def _manifest(line: bytes) -> Manifest:
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise BundleError("this is no bundle: it does not begin with a manifest") from None
    version = data.get("format") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT and data.get("magic") == MAGIC:
        raise NewerFormat(f"the bundle has format {version}, and this version knows {FORMAT}: upgrade the gateway")
    try:
        spec = ManifestSpec.model_validate(data)
    except ValidationError as exc:
        fault = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise BundleError(f"the bundle's manifest is wrong: '{where}': {fault['msg']}", param=where) from None
    return Manifest(spec.name, spec.version, spec.publisher, spec.key, spec.created, spec.count, spec.sha256)


def _signature(line: bytes) -> bytes:
    try:
        data = orjson.loads(line)
        if isinstance(data, dict) and data.keys() == {"signature"} and isinstance(data["signature"], str):
            return base64.b64decode(data["signature"], validate=True)
    except (orjson.JSONDecodeError, binascii.Error, ValueError):
        pass
    raise BundleError("the bundle was cut: it does not end with a signature")


def _read(manifest: Manifest, lines: Sequence[bytes]) -> Bundle:
    records: dict[str, Record] = {}
    rejected = []
    for n, line in enumerate(lines, start=1):
        try:
            record = read_record(orjson.loads(line))
        except orjson.JSONDecodeError:
            raise BundleError(f"record {n} of the bundle is no JSON") from None
        except InvalidRequest as exc:
            rejected.append((f"record {n}", exc.message))
            continue
        if record.id in records:
            raise BundleError(f"record {n} of the bundle has the id of an earlier one")
        records[record.id] = record
    return Bundle(manifest, tuple(records.values()), tuple(rejected))


async def import_bundle(
    store: ShardStore,
    data: bytes,
    *,
    home: Path,
    trusted: Mapping[str, PublicKey],
    receiver: Receiver | None = None,
    force: bool = False,
) -> Imported:
    """Take a bundle in: its shards become candidates here, and what its last version held beside them is retired.

    Args: `force`: also one that is older than the one taken before.
    Raises: BundleError, SigningError; then nothing was written.
    """
    receiver = receiver or Receiver()
    bundle = await asyncio.to_thread(open_bundle, data, trusted)
    manifest = bundle.manifest
    adoption = Adoption(store, receiver, "bundle", manifest.publisher, manifest.name)
    held = await store.find(Where(source=adoption.source, audiences=(adoption.audience,)))
    log, place = home / FOLDER / IMPORTS, f"{adoption.source} {adoption.audience}"
    imports = await asyncio.to_thread(read_json, log)
    last = imports.get(place, {}) if held else {}  # of a store that was emptied since, nothing is known
    if not force:
        _check_newer(manifest, last)
    report = Imported(manifest=manifest)
    for id, why in bundle.rejected:
        report.reject(id, why)
    wanted = [record for record in bundle.records if not record.personal or receiver.scope is Scope.USER]
    report.personal = len(bundle.records) - len(wanted)
    await adoption.take(wanted, report)
    ids = {record.id for record in wanted}
    gone = {shard.id for shard in held} | {adoption.local_id(id) for id in last.get("ids", ())}
    await adoption.retire(gone - {adoption.local_id(id) for id in ids}, report, f"not in {manifest.version}")
    noted = {"version": manifest.version, "created": manifest.created, "ids": sorted(ids)}
    await asyncio.to_thread(write_json, log, imports | {place: noted})
    return report


def _check_newer(manifest: Manifest, last: Json) -> None:
    """Raises: OlderBundle."""
    if last and (_order(manifest.version), manifest.created) < (_order(last["version"]), last["created"]):
        same = manifest.version == last["version"]
        raise OlderBundle(
            f"{manifest.name} {manifest.version} is older than the {'one' if same else last['version']} taken before: "
            "it is only taken when forced"
        )


def _order(version: str) -> tuple[int, ...]:
    parts = tuple(map(int, version.split(".")))
    return parts + (0,) * (4 - len(parts))
