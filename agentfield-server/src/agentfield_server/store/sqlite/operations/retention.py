"""Retention: a run that ended long ago is marked as pruned, then deleted in parts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from agentfield_server.store.operations import DeleteRows, MarkPruned, Vacuum
from agentfield_server.store.sqlite.operations import keys, payloads
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["PRUNABLE", "delete_rows", "mark", "root_of", "vacuum"]

PRUNABLE = """
runs.created_at < :before AND runs.pruned_at IS NULL
    AND COALESCE((SELECT at FROM events WHERE run_id = runs.id ORDER BY seq DESC LIMIT 1), runs.created_at) < :before
    AND NOT EXISTS (SELECT 1 FROM sessions WHERE run_id = runs.id AND state <> 'ended')
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE run_id = runs.id AND status = 'pending')
    AND NOT EXISTS (SELECT 1 FROM executions WHERE run_id = runs.id AND status IN ('queued', 'running', 'waiting'))
    AND NOT EXISTS (SELECT 1 FROM credential_queue WHERE run_id = runs.id)
    AND NOT EXISTS (SELECT 1 FROM anchors WHERE run_id = runs.id AND entry IS NULL)
    AND (runs.session_id IS NULL OR EXISTS (SELECT 1 FROM heads WHERE run_id = runs.id AND size = runs.seq AND final))
"""
"""SQL condition: the run has ended, nothing of it waits (deliveries, credentials, heads, anchors), and its last event is older
than `:before`."""

# All SQL below is built from constants; values are always bound.
_MARK = f"""
UPDATE runs SET pruned_at = :now, last_leaf = :leaf, root = :root WHERE id = :id AND seq = :seq AND {PRUNABLE}
RETURNING id
"""  # noqa: S608
_LARGE_AT_ONCE = 16 * 1024 * 1024


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root of the Merkle tree over leaf digests (RFC 9162 §2.1.1)."""
    level: list[tuple[int, bytes]] = []
    for leaf in leaves:
        level.append((1, leaf))
        while len(level) > 1 and level[-1][0] == level[-2][0]:
            (size, right), (_, left) = level.pop(), level.pop()
            level.append((2 * size, _node(left, right)))
    if not level:
        return hashlib.sha256(b"").digest()
    _, root = level.pop()
    while level:
        _, left = level.pop()
        root = _node(left, root)
    return root


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def mark(transaction: Transaction, operation: MarkPruned) -> bool:
    """Mark a run as pruned if it still qualifies in this transaction; nothing is added to it afterwards."""
    keys.purge(transaction)
    run = operation.run
    values = {
        "id": run.run_id,
        "seq": run.events,
        "leaf": run.last_leaf,
        "root": run.root,
        "now": transaction.now,
        "before": operation.before,
    }
    if transaction.one(_MARK, values) is None:
        return False
    transaction.run(
        "DELETE FROM tokens WHERE session_id = (SELECT session_id FROM runs WHERE id = ?) AND session_id IS NOT NULL",
        run.run_id,
    )
    transaction.run("DELETE FROM sessions WHERE run_id = ?", run.run_id)
    return True


def delete_rows(transaction: Transaction, operation: DeleteRows) -> int:
    """Delete up to `rows` rows of a pruned run, referring rows first; return 0 when none is left."""
    for step in (_events, _deliveries, _approvals, _credentials, _executions):
        if gone := step(transaction, operation.run_id, operation.rows):
            return gone
    return 0


def _events(transaction: Transaction, run_id: str, rows: int) -> int:
    first = transaction.one("SELECT MIN(seq) FROM events WHERE run_id = ?", run_id)
    if first is None or first[0] is None:
        return 0
    return transaction.run("DELETE FROM events WHERE run_id = ? AND seq < ?", run_id, first[0] + rows)


def _deliveries(transaction: Transaction, run_id: str, rows: int) -> int:
    return transaction.run(
        "DELETE FROM deliveries WHERE pos IN (SELECT pos FROM deliveries WHERE run_id = ? LIMIT ?)", run_id, rows
    )


def _approvals(transaction: Transaction, run_id: str, rows: int) -> int:
    return transaction.run(
        "DELETE FROM approvals WHERE pos IN (SELECT approvals.pos FROM executions "
        "JOIN approvals ON approvals.execution_id = executions.id WHERE executions.run_id = ? LIMIT ?)",
        run_id,
        rows,
    )


def _credentials(transaction: Transaction, run_id: str, rows: int) -> int:
    # the anchor stays: it proves the root that is left of the run, and other runs of its batch
    gone = transaction.run(
        "DELETE FROM credentials WHERE pos IN (SELECT pos FROM credentials WHERE run_id = ? LIMIT ?)", run_id, rows
    )
    return gone or transaction.run("DELETE FROM heads WHERE run_id = ?", run_id)


def _executions(transaction: Transaction, run_id: str, rows: int) -> int:
    # children are created after their parents: deleting the newest first never breaks a reference
    newest: list[tuple[Any, ...]] = transaction.connection.execute(
        "SELECT pos, COALESCE(input_size, 0) + COALESCE(output_size, 0), input_payload, output_payload "
        "FROM executions WHERE run_id = ? ORDER BY pos DESC LIMIT ?",
        (run_id, rows),
    ).fetchall()
    last, large, apart = None, 0, set[bytes]()
    for pos, size, *digests in newest:
        if last is not None and large + size > _LARGE_AT_ONCE:
            break
        last, large = pos, large + size
        apart |= {digest for digest in digests if digest is not None}
    if last is None:
        return 0
    gone = transaction.run("DELETE FROM executions WHERE run_id = ? AND pos >= ?", run_id, last)
    payloads.sweep(transaction, apart)
    return gone


def vacuum(transaction: Transaction, operation: Vacuum) -> None:
    """Return free pages to the disk."""
    # each step of this statement returns one page, so it must be read to its end
    transaction.one(f"PRAGMA incremental_vacuum({int(operation.pages)})")
