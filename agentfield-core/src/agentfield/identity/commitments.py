"""Commitments to bodies: a salted digest stands for a JSON value in what is signed or logged, so that the value can be erased.

Whoever has body and salt opens a commitment: `commitment(salt, canonical(body))` gives it again. Without the salt it tells
nothing about the body, also if the body is one of few possible values.
"""

from __future__ import annotations

import hashlib
import os

__all__ = ["SALT_BYTES", "commitment", "new_salt"]

SALT_BYTES = 32

_PREFIX = b"\x02"
"""0x00 and 0x01 begin the leaves and the inner nodes of a Merkle tree."""


def new_salt() -> bytes:
    """Return a random salt for one body."""
    return os.urandom(SALT_BYTES)


def commitment(salt: bytes, body: bytes) -> bytes:
    """Return the commitment to a body, SHA-256(0x02 ‖ salt ‖ body).

    Args:
        salt: The salt of this body, 32 bytes.
        body: The body in canonical form (`agentfield.identity.canonical`).

    Raises:
        ValueError: The salt has another length, so that the same bytes could stand for another pair of salt and body.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes, not {len(salt)}")
    return hashlib.sha256(_PREFIX + salt + body).digest()
