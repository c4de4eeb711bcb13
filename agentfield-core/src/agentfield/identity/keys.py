"""The Ed25519 key of a node or control plane: generated and kept there (mode 0600), known to others by its ``did:key``."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
from pathlib import Path

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agentfield.errors import AgentFieldError, Unavailable
from agentfield.identity.canonical import unb64url
from agentfield.settings import private_folder

__all__ = ["NodeKey", "is_did_key", "verify_signature"]

_ED25519 = b"\xed\x01"
"""Multicodec prefix of an Ed25519 public key."""

_DID_KEY = "did:key:z"

_DERIVED_BYTES = 32


class NodeKey:
    """An Ed25519 key pair and its ``did:key``, of a node or of a control plane."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        public = private.public_key().public_bytes_raw()
        self.did: str = _DID_KEY + base58.b58encode(_ED25519 + public).decode("ascii")

    def __repr__(self) -> str:
        return f"NodeKey({self.did})"

    @classmethod
    def generate(cls) -> NodeKey:
        """Return a new key, kept in memory only."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, path: Path | str) -> NodeKey:
        """Return the key stored at `path` (PEM, PKCS #8); create it if the file does not exist.

        Safe for concurrent processes: one of them creates the key and all of them load it.

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
                f"The key of this process cannot be stored at {path}: {error.strerror or error}.",
                hint="Set AGENTFIELD_HOME to a writable folder.",
            ) from error

    @classmethod
    def load(cls, path: Path | str) -> NodeKey:
        """Return the key stored at `path` (PEM, PKCS #8).

        Raises:
            Unavailable: The file cannot be read, or holds no Ed25519 key.
        """
        path = Path(path)
        try:
            return cls(_parse(path))
        except OSError as error:
            raise Unavailable(
                f"The key {path} cannot be read: {error.strerror or error}.",
                code="key_unreadable",
                hint=f"make one: openssl genpkey -algorithm ed25519 -out {path}",
            ) from error

    def derive(self, purpose: str) -> bytes:
        """Return 32 secret bytes that only the holder of this key can compute, one value per purpose.

        HKDF with SHA-256 (RFC 5869) over the private key; a derived value tells nothing about the key or about other values.
        """
        derivation = HKDF(hashes.SHA256(), _DERIVED_BYTES, salt=None, info=f"agentfield/{purpose}".encode())
        return derivation.derive(self._private.private_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature (64 bytes) of a message."""
        return self._private.sign(message)


def verify_signature(did: str, message: bytes, signature: bytes | str) -> bool:
    """Return whether a signature (raw bytes, or base64url text) of a message was made with the key that `did` names."""
    try:
        proof = unb64url(signature) if isinstance(signature, str) else signature
        _public_key(did).verify(proof, message)
    except (ValueError, AgentFieldError, InvalidSignature):
        return False
    return True


def is_did_key(did: str) -> bool:
    """Return whether a text is the ``did:key`` of an Ed25519 key, in its only spelling."""
    try:
        _public_key(did)
    except ValueError:
        return False
    return True


@functools.lru_cache(1024)
def _public_key(did: str) -> Ed25519PublicKey:
    """Return the public key that a DID names; cached, since a node signs all its results with one key.

    Raises:
        ValueError: The DID does not name an Ed25519 key, or not in its only spelling.
    """
    if not did.startswith(_DID_KEY):
        raise ValueError("not a did:key")
    encoded = did.removeprefix(_DID_KEY)
    raw = base58.b58decode(encoded)
    # the decoder ignores white space: a revoked key must not return under another spelling
    if not raw.startswith(_ED25519) or base58.b58encode(raw).decode("ascii") != encoded:
        raise ValueError("not an Ed25519 key")
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
    private_folder(path.parent)
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # Written to a temporary file and hard-linked into place, so that no other process reads an incomplete key, and the first of
    # several concurrent processes wins.
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
