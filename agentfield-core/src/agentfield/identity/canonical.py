"""One spelling for every JSON value (RFC 8785), its digest, and base64url without padding."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any

import rfc8785

from agentfield.errors import InvalidInput

__all__ = ["b64url", "canonical", "digest", "digest_of", "leaf_hash", "unb64url"]

_MULTIHASH_SHA256 = b"\x12\x20"
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


def canonical(value: Any) -> bytes:
    """Return the one canonical JSON encoding of a value (RFC 8785).

    Raises:
        InvalidInput: The value holds something that JSON cannot: NaN, an integer beyond 2^53 - 1, a lone surrogate,
            a key that is no text, or an object of another type.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidInput(f"This value has no canonical JSON form: {error or 'it is nested too deeply'}.") from error


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical form as a multihash in multibase base64url (``uEiA…``)."""
    return digest_of(canonical(value))


def digest_of(data: bytes) -> str:
    """Return what `digest` returns, for a value whose canonical form is at hand."""
    return "u" + b64url(_MULTIHASH_SHA256 + hashlib.sha256(data).digest())


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf of a Merkle tree (RFC 9162, section 2.1.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def b64url(data: bytes) -> str:
    """Return bytes as base64url without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64url(text: str) -> bytes:
    """Return the bytes behind base64url without padding; only the one spelling that `b64url` writes is read.

    Raises:
        InvalidInput: The text is not such an encoding.
    """
    if _BASE64URL.fullmatch(text):
        try:
            data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except binascii.Error:
            data = None
        if data is not None and b64url(data) == text:
            return data
    raise InvalidInput("This is no base64url without padding.")
