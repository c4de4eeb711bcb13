"""Identifiers: a typed prefix and a UUIDv7, so that they sort by time and cannot be guessed."""

from __future__ import annotations

import secrets
from typing import Literal

import uuid_utils

__all__ = ["Prefix", "new_id", "new_token"]

Prefix = Literal["ses", "run", "exe", "evt", "node", "op", "spk", "apr", "whk", "dlv"]


def new_id(prefix: Prefix) -> str:
    """Return a new identifier such as ``ses_0198…`` (RFC 9562 UUIDv7 in hexadecimal, no dashes)."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def new_token(prefix: str) -> str:
    """Return a secret of 256 random bits as `prefix` and base64url text; only its digest may be stored."""
    return prefix + secrets.token_urlsafe(32)
