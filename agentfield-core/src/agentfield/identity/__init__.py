"""Identity and signatures: keys with their DIDs, canonical JSON (RFC 8785), commitments, and what nodes sign.

JSON values, keys and signatures go in; canonical bytes, digests, DIDs, proofs and verification results come out. Read
`canonical` and `commitments`, then `event_log`, `keys` and `signed_messages`,
then `merkle` and `result_proofs`.
"""

from __future__ import annotations

from agentfield.identity.canonical import b64url, canonical, canonical_form, digest, digest_of, leaf_hash, unb64url
from agentfield.identity.commitments import SALT_BYTES, commitment, new_salt
from agentfield.identity.event_log import EventFrame, event_frame, event_frame_of
from agentfield.identity.keys import NodeKey, is_did_key, verify_signature
from agentfield.identity.merkle import inclusion_paths, path_length, root_from_path, tree_root
from agentfield.identity.result_proofs import (
    MAX_RESULTS,
    ResultProof,
    parse_proof,
    proof_text,
    result_leaf,
    result_statement,
    root_message,
    sign_results,
)
from agentfield.identity.signed_messages import challenge_message, hello_message, result_message, welcome_message

__all__ = [
    "MAX_RESULTS",
    "SALT_BYTES",
    "EventFrame",
    "NodeKey",
    "ResultProof",
    "b64url",
    "canonical",
    "canonical_form",
    "challenge_message",
    "commitment",
    "digest",
    "digest_of",
    "event_frame",
    "event_frame_of",
    "hello_message",
    "inclusion_paths",
    "is_did_key",
    "leaf_hash",
    "new_salt",
    "parse_proof",
    "path_length",
    "proof_text",
    "result_leaf",
    "result_message",
    "result_statement",
    "root_from_path",
    "root_message",
    "sign_results",
    "tree_root",
    "unb64url",
    "verify_signature",
    "welcome_message",
]
