"""Large inputs and outputs: stored once per content, separately from the rows that lists read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from agentfield_server.store.sqlite.schema import LARGE, keyed_digest
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["put", "sweep"]

# the partial indexes of the two columns find other references
_SWEEP = """
DELETE FROM payloads WHERE digest = ?1
    AND NOT EXISTS (SELECT 1 FROM executions WHERE input_payload = ?1)
    AND NOT EXISTS (SELECT 1 FROM executions WHERE output_payload = ?1)
"""


def put(transaction: Transaction, text: str) -> tuple[bytes, int] | None:
    """Store a large JSON text once per content; return its keyed digest and size in bytes, None when it is not large."""
    if len(text) <= LARGE:
        return None
    data = text.encode()
    digest = keyed_digest(transaction.digest_key, hashlib.sha256(data).digest())
    transaction.run("INSERT OR IGNORE INTO payloads (digest, body) VALUES (?, ?)", digest, text)
    return digest, len(data)


def sweep(transaction: Transaction, digests: Iterable[bytes]) -> int:
    """Delete those of these payloads that no execution references; return how many."""
    return sum(transaction.run(_SWEEP, digest) for digest in set(digests))
