"""Identity and signatures: node keys with their DIDs, canonical JSON (RFC 8785), digests, and the messages that nodes sign.

JSON values, keys and signatures go in; canonical bytes, digests, DIDs and verification results come out. Read `canonical`
and `commitments`, then `keys`, then `signed_messages`.
"""

from __future__ import annotations

from agentfield.identity.canonical import b64url, canonical, digest, digest_of, leaf_hash, unb64url
from agentfield.identity.commitments import SALT_BYTES, commitment, new_salt
from agentfield.identity.keys import NodeKey, verify_signature
from agentfield.identity.signed_messages import challenge_message, result_message

__all__ = [
    "SALT_BYTES",
    "NodeKey",
    "b64url",
    "canonical",
    "challenge_message",
    "commitment",
    "digest",
    "digest_of",
    "leaf_hash",
    "new_salt",
    "result_message",
    "unb64url",
    "verify_signature",
]
