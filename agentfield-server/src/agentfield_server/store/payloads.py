"""Large inputs and outputs, as operations of the writer: kept once each, apart from the rows that lists are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from agentfield_server.store.schema import LARGE
from agentfield_server.store.writer import Transaction

__all__ = ["put", "sweep"]

# who else has it is found by the partial indexes of the two columns
_SWEEP = """
DELETE FROM payloads WHERE digest = ?1
    AND NOT EXISTS (SELECT 1 FROM executions WHERE input_payload = ?1)
    AND NOT EXISTS (SELECT 1 FROM executions WHERE output_payload = ?1)
"""


def put(transaction: Transaction, text: str) -> tuple[bytes, int] | None:
    """Keep a large JSON text apart, once however often it comes; returns its digest and size, None when it is not large."""
    if len(text) <= LARGE:
        return None
    data = text.encode()
    digest = hashlib.sha256(data).digest()
    transaction.run("INSERT OR IGNORE INTO payloads (digest, body) VALUES (?, ?)", digest, text)
    return digest, len(data)


def sweep(transaction: Transaction, digests: Iterable[bytes]) -> int:
    """Forget those of these payloads that no execution has any more; returns how many."""
    return sum(transaction.run(_SWEEP, digest) for digest in set(digests))
