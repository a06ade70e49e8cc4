"""Who publishes shards: Ed25519 keys, their short names for people, and signatures that say what they are for."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import GatewayError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ALGORITHM = "ed25519:"
KEY_BYTES = 32
FOLDER = "keys"
FILE = "shards.key"
PUBLIC_FILE = "shards.pub"


class SigningError(GatewayError):
    """A key that cannot be used, a publisher who is not trusted, or a signature that is not theirs."""

    status = 403
    type = "permission_error"


@dataclass(frozen=True)
class PublicKey:
    raw: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Of `ed25519:BASE64`. Raises: SigningError."""
        try:
            raw = base64.b64decode(text.strip().removeprefix(ALGORITHM), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if not text.strip().startswith(ALGORITHM) or len(raw) != KEY_BYTES:
            raise SigningError(f"a publisher's key is written as {ALGORITHM}BASE64, of {KEY_BYTES} bytes")
        return cls(raw)

    def __str__(self) -> str:
        return ALGORITHM + base64.b64encode(self.raw).decode()

    @cached_property
    def id(self) -> str:
        """16 hex digits, to be compared by people. It finds a key, and proves nothing: the key itself does."""
        return sha256(self.raw).hexdigest()[:16]

    def check(self, purpose: bytes, data: bytes, signature: bytes) -> None:
        """Raises: SigningError."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, _stated(purpose, data))
        except (InvalidSignature, ValueError):
            raise SigningError(
                f"the signature is not that of the publisher {self.id}: it was changed on its way"
            ) from None


@dataclass(frozen=True)
class Signer:
    """A node's own key pair."""

    private: Ed25519PrivateKey
    public: PublicKey

    def sign(self, purpose: bytes, data: bytes) -> bytes:
        """`purpose`: a signature for one thing does not serve for another."""
        return self.private.sign(_stated(purpose, data))


def _stated(purpose: bytes, data: bytes) -> bytes:
    return b"onion-gateway " + purpose + b"\n" + data


def trusted_keys(texts: Iterable[str]) -> dict[str, PublicKey]:
    """By id. Raises: SigningError."""
    keys = map(PublicKey.parse, texts)
    return {key.id: key for key in keys}


def find_trusted(trusted: Mapping[str, PublicKey], id: str) -> PublicKey:
    """Raises: SigningError."""
    key = trusted.get(id)
    if key is None:
        raise SigningError(f"the publisher {id} is not trusted: if you know it, add its public key to the trusted ones")
    return key


def own_signer(home: Path) -> Signer:
    """The key pair under `home/keys`, made where there is none. Raises: SigningError."""
    path = home / FOLDER / FILE
    try:
        if not path.exists():
            _make(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise SigningError(f"{path} can be read by others: `chmod 600` it")
        signer = _read(path)
        public = path.with_name(PUBLIC_FILE)
        if not public.exists():
            public.write_text(f"{signer.public}\n")
    except OSError as exc:
        raise SigningError(f"the signing key {path} cannot be used: {exc.strerror}") from exc
    return signer


def _read(path: Path) -> Signer:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError):
        raise SigningError(f"{path} is no private key: put a backup there, or move it away for a new one") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise SigningError(f"{path} is a key of another kind than Ed25519")
    return Signer(private, PublicKey(private.public_key().public_bytes_raw()))


def _make(path: Path) -> None:
    """Written beside its place and linked there: of two processes, one wins, and nobody reads half a key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # another process was first: its key is the one
    finally:
        draft.unlink(missing_ok=True)
