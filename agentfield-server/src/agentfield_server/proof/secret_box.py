"""Stored secrets: encrypted with a data key of the store, which is wrapped with the issuer's key.

A copy of the database alone opens none of them. The data key stays the same when the issuer's key is replaced: it is wrapped again.
"""

from __future__ import annotations

import secrets
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentfield.errors import InvalidInput, Unavailable
from agentfield.identity import NodeKey, b64url, unb64url
from agentfield_server.store.proofs import ProofStore

__all__ = ["SecretBox"]

_NAME = "data-key"
_PURPOSE = "data-key/1"
_PREFIX = "box1."
_NONCE_BYTES = 12
_KEY_BYTES = 32


class SecretBox:
    """Encrypts and decrypts stored secrets (AES-256-GCM), each bound to the name of its place.

    Args:
        data_key: The data key of the store.
    """

    def __init__(self, data_key: bytes) -> None:
        self._cipher = AESGCM(data_key)

    @classmethod
    async def open(cls, store: ProofStore, key: NodeKey, *, before: NodeKey | None = None) -> Self:
        """Return the box of a store; make its data key at the first start.

        Args:
            store: The open store.
            key: The issuer's key.
            before: The key that it replaces; the data key is wrapped anew.

        Raises:
            Unavailable: The data key is wrapped with another key (code `issuer_changed`).
        """
        wrapped = await store.secret(_NAME)
        if wrapped is None:
            data_key = secrets.token_bytes(_KEY_BYTES)
            await store.put_secret(_NAME, _seal(_wrapping(key), data_key, _NAME))
            return cls(data_key)
        data_key_now = _open(_wrapping(key), wrapped, _NAME)
        if data_key_now is None and before is not None:
            data_key_now = _open(_wrapping(before), wrapped, _NAME)
            if data_key_now is not None:
                await store.put_secret(_NAME, _seal(_wrapping(key), data_key_now, _NAME))
        if data_key_now is None:
            raise Unavailable(
                f"The store belongs to another issuer than {key.did}: its data key cannot be opened.",
                code="issuer_changed",
                hint="start with the key of before, or name it once as AGENTFIELD_IDENTITY_KEY_BEFORE to record a rotation",
            )
        return cls(data_key_now)

    @staticmethod
    def is_sealed(stored: str) -> bool:
        """Return whether a stored secret is encrypted; those of earlier versions are not."""
        return stored.startswith(_PREFIX)

    def seal(self, name: str, secret: str) -> str:
        """Return a secret in its stored form.

        Args:
            name: The place that it is stored in, such as the id of a webhook.
            secret: The secret.
        """
        return _PREFIX + b64url(_seal(self._cipher, secret.encode(), name))

    def open_text(self, name: str, stored: str) -> str:
        """Return a secret from its stored form; one that was stored before there was a data key is returned as it is.

        Raises:
            Unavailable: It was sealed with another data key or for another place (code `secret_unreadable`).
        """
        if not self.is_sealed(stored):
            return stored
        try:
            secret = _open(self._cipher, unb64url(stored.removeprefix(_PREFIX)), name)
        except InvalidInput:
            secret = None
        if secret is None:
            raise Unavailable(
                f"The stored secret of {name} cannot be opened.",
                code="secret_unreadable",
                hint="remove what it belongs to and add it again",
            )
        return secret.decode()


def _wrapping(key: NodeKey) -> AESGCM:
    return AESGCM(key.derive(_PURPOSE))


def _seal(cipher: AESGCM, secret: bytes, name: str) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, secret, name.encode())


def _open(cipher: AESGCM, sealed: bytes, name: str) -> bytes | None:
    try:
        return cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
    except (InvalidTag, ValueError):
        return None
