"""The key of a node: made on the node, kept there (mode 0600), known to others only by its DID."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
from pathlib import Path

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agentfield.errors import AgentFieldError, Unavailable
from agentfield.identity.canonical import unb64url

__all__ = ["NodeKey", "verify_signature"]

_ED25519 = b"\xed\x01"
"""Multicodec prefix of an Ed25519 public key."""

_DID_KEY = "did:key:z"


class NodeKey:
    """An Ed25519 key pair and the ``did:key`` that names it."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        public = private.public_key().public_bytes_raw()
        self.did: str = _DID_KEY + base58.b58encode(_ED25519 + public).decode("ascii")

    def __repr__(self) -> str:
        return f"NodeKey({self.did})"

    @classmethod
    def generate(cls) -> NodeKey:
        """Return a new key that exists in memory only."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path | str) -> NodeKey:
        """Return the key kept at `path` (PEM, PKCS #8), made first when there is none.

        Several processes may ask at once: one of them makes the key and all of them use it.

        Raises:
            Unavailable: The file cannot be read or written, or holds no Ed25519 key.
        """
        path = Path(path)
        try:
            if not path.exists():
                _create(path)
            return cls(_parse(path))
        except OSError as error:
            raise Unavailable(
                f"The key of this node cannot be kept at {path}: {error.strerror or error}.",
                hint="Set AGENTFIELD_HOME to a folder that you may write to.",
            ) from error

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the Ed25519 signature over a message."""
        return self._private.sign(message)


def verify_signature(did: str, message: bytes, signature: bytes | str) -> bool:
    """Tell whether a signature (raw, or base64url as on the wire) over a message was made by the key that `did` names."""
    try:
        proof = unb64url(signature) if isinstance(signature, str) else signature
        _public_key(did).verify(proof, message)
    except (ValueError, AgentFieldError, InvalidSignature):
        return False
    return True


@functools.lru_cache(1024)
def _public_key(did: str) -> Ed25519PublicKey:
    """Return the key that a DID names; a node signs again and again with the same one.

    Raises:
        ValueError: It names no Ed25519 key.
    """
    if not did.startswith(_DID_KEY):
        raise ValueError("this is no did:key")
    raw = base58.b58decode(did.removeprefix(_DID_KEY))
    if not raw.startswith(_ED25519):
        raise ValueError("this key is not Ed25519")
    return Ed25519PublicKey.from_public_bytes(raw[len(_ED25519) :])


def _parse(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise Unavailable(f"{path} holds no private key.", hint=f"Move it away: mv {path} {path}.bad") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise Unavailable(f"{path} holds a key that is not Ed25519.", hint=f"Move it away: mv {path} {path}.bad")
    return key


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # Written beside and linked into place, so that no other process ever reads half a key or sees a second one.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
