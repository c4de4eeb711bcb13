"""Events of a store's log, read and checked without the program that wrote them."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from agentfield.identity import canonical

__all__ = ["event_of", "is_intact"]


def event_of(entry: bytes, body: bytes | None) -> dict[str, Any]:
    """Return an event with its body; in format 1 the entry has it."""
    event: dict[str, Any] = json.loads(entry)
    if isinstance(event["body"], str):
        assert body is not None, "nothing erases bodies here"
        event["body"] = json.loads(body)
    return event


def is_intact(entry: bytes, body: bytes | None, salt: bytes | None, leaf: bytes) -> bool:
    """Return whether an event is the one that was recorded: its entry fits the leaf, and its body the entry."""
    committed = json.loads(entry)["body"]
    if isinstance(committed, str):
        digest = hashlib.sha256(b"\2" + (salt or b"") + (body or b"")).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != committed:
            return False
    return canonical(json.loads(entry)) == entry and hashlib.sha256(b"\0" + entry).digest() == leaf
