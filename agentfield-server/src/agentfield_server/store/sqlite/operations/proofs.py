"""Credentials, heads, anchors and the control plane's own log, see `agentfield_server.store.proofs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentfield_server.store.json_text import dump
from agentfield_server.store.proofs import (
    AppendToOwnLog,
    PutHead,
    PutSecret,
    ReplaceWebhookSecret,
    StoreCredentials,
)
from agentfield_server.store.records import EventRow
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["OPERATIONS", "enqueue"]

_ENQUEUE = "INSERT INTO credential_queue (execution_id, run_id, at) VALUES (?, ?, ?)"
_CREDENTIAL = "INSERT INTO credentials (run_id, number, execution_id, document, leaf) VALUES (?, ?, ?, ?, ?)"
_SALTS = (
    "UPDATE executions SET input_salt = COALESCE(input_salt, ?), output_salt = COALESCE(output_salt, ?) WHERE id = ?"
)
_ANCHOR = "INSERT OR IGNORE INTO anchors (run_id, size, leaf) VALUES (?, ?, ?)"


def enqueue(transaction: Transaction, rows: Sequence[EventRow]) -> None:
    """Queue the executions that ended for their credentials, in the transaction that records the events of their ends."""
    transaction.many(
        _ENQUEUE, [(row.execution_id, row.run_id, row.at) for row in rows if row.type == "execution.ended"]
    )


def store(transaction: Transaction, operation: StoreCredentials) -> None:
    """Store credentials, see `ProofStore.store_credentials`."""
    issued = operation.issued
    transaction.many(
        _CREDENTIAL, [(each.run_id, each.number, each.execution_id, each.document, each.leaf) for each in issued]
    )
    transaction.run(
        "DELETE FROM credential_queue WHERE pos IN (SELECT value FROM json_each(?))",
        dump([each.pos for each in issued]),
    )
    salted = [each for each in issued if each.input_salt is not None or each.output_salt is not None]
    transaction.many(_SALTS, [(each.input_salt, each.output_salt, each.execution_id) for each in salted])
    transaction.many(_ANCHOR, [(each.run_id, each.size, each.leaf) for each in issued if each.size is not None])


def put_head(transaction: Transaction, operation: PutHead) -> None:
    """Store a head, see `ProofStore.put_head`."""
    head = operation.head
    transaction.run(
        "INSERT OR IGNORE INTO heads (run_id, size, final, document, leaf) VALUES (?, ?, ?, ?, ?)",
        head.run_id,
        head.size,
        head.final,
        head.document,
        head.leaf,
    )
    if head.final:
        transaction.run(_ANCHOR, head.run_id, head.size, head.leaf)


def append_to_own_log(transaction: Transaction, operation: AppendToOwnLog) -> bool:
    """Append an entry, see `ProofStore.append_to_own_log`."""
    entry = operation.entry
    if transaction.one("SELECT COALESCE(MAX(seq), 0) + 1 FROM control_plane_log") != (entry.seq,):
        return False
    transaction.run(
        "INSERT INTO control_plane_log (seq, entry, leaf) VALUES (?, ?, ?)", entry.seq, entry.entry, entry.leaf
    )
    transaction.many(
        "UPDATE anchors SET entry = ?, place = ? WHERE run_id = ? AND size = ? AND entry IS NULL",
        [(entry.seq, place, anchor.run_id, anchor.size) for place, anchor in enumerate(operation.anchors)],
    )
    return True


def put_secret(transaction: Transaction, operation: PutSecret) -> None:
    """Store a secret."""
    transaction.run(
        "INSERT INTO secrets (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2",
        operation.name,
        operation.value,
    )


def replace_webhook_secret(transaction: Transaction, operation: ReplaceWebhookSecret) -> None:
    """Replace the stored form of a webhook's secret."""
    transaction.run("UPDATE webhooks SET secret = ? WHERE id = ?", operation.secret, operation.webhook_id)


OPERATIONS: Mapping[type[Any], Callable[[Transaction, Any], Any]] = {
    StoreCredentials: store,
    PutHead: put_head,
    AppendToOwnLog: append_to_own_log,
    PutSecret: put_secret,
    ReplaceWebhookSecret: replace_webhook_secret,
}
"""Operations with a group of their own."""
