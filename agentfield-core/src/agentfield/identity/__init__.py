"""Who says what: keys and their DIDs, canonical JSON, digests, and the messages that nodes sign."""

from __future__ import annotations

from agentfield.identity.canonical import b64url, canonical, digest, digest_of, leaf_hash, unb64url
from agentfield.identity.keys import NodeKey, verify_signature
from agentfield.identity.messages import challenge_message, result_message

__all__ = [
    "NodeKey",
    "b64url",
    "canonical",
    "challenge_message",
    "digest",
    "digest_of",
    "leaf_hash",
    "result_message",
    "unb64url",
    "verify_signature",
]
