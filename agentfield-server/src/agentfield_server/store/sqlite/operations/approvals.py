"""Approvals: suspend an execution, decide, and queue it again."""

from __future__ import annotations

from typing import Any

from agentfield.ids import new_id
from agentfield.wire.rest import ApprovalStatus
from agentfield_server.store.json_text import dump
from agentfield_server.store.records import Approval, NewEvent
from agentfield_server.store.sqlite.operations.events import record
from agentfield_server.store.sqlite.rows import APPROVAL_COLUMNS, approval_row
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["decide", "drop", "suspend"]

# All SQL below is built from constants; values are always bound.
_PARK = """
UPDATE executions SET status = 'waiting', lease_owner = NULL, lease_until = NULL, lease_epoch = lease_epoch + 1,
    accepted = 0, pauses = pauses + 1, deadline = NULL
WHERE id = ? AND attempt = ? AND lease_epoch = ? AND status IN ('running', 'waiting')
RETURNING run_id, session_id, target
"""
_INSERT = f"""
INSERT INTO approvals (id, execution_id, key, run_id, session_id, target, title, details, status, time_left, created_at,
    expires_at)
VALUES (:id, :execution_id, :key, :run_id, :session_id, :target, :title, :details, 'pending', :time_left, :now, :expires_at)
RETURNING {APPROVAL_COLUMNS}
"""  # noqa: S608
_DECIDE = f"""
UPDATE approvals SET status = :status, decided_by = :by, via = :via, note = :note, data = :data, decided_at = :now
WHERE id = :id AND status = 'pending' RETURNING {APPROVAL_COLUMNS}, time_left
"""  # noqa: S608
_RESUME = """
UPDATE executions SET status = 'queued', max_attempts = max_attempts + 1, not_before = NULL,
    deadline = CASE WHEN ?1 IS NULL THEN NULL ELSE ?2 + ?1 END
WHERE id = ?3 AND status = 'waiting'
"""


def suspend(
    transaction: Transaction,
    execution_id: str,
    *,
    attempt: int,
    epoch: int,
    key: str,
    title: str,
    details: Any,
    expires: float,
) -> Approval | None:
    """Suspend an execution for a decision, see `Store.park_execution`."""
    before = transaction.one("SELECT deadline FROM executions WHERE id = ?", execution_id)
    row = transaction.one(_PARK, execution_id, attempt, epoch)
    if row is None or before is None:
        return None
    left = None if before[0] is None else max(before[0] - transaction.now, 0.001)
    values = {
        "id": new_id("apr"),
        "execution_id": execution_id,
        "key": key,
        "run_id": row[0],
        "session_id": row[1],
        "target": row[2],
        "title": title,
        "details": dump(details),
        "time_left": left,
        "now": transaction.now,
        "expires_at": transaction.now + expires,
    }
    made = transaction.one(_INSERT, values)
    assert made is not None  # noqa: S101 - an INSERT that did not raise returns its row
    approval = approval_row(made)
    body = {"approval_id": approval.id, "key": key, "title": title, "expires_at": approval.expires_at}
    record(transaction, row[0], [NewEvent(type="approval.requested", body=body, execution_id=execution_id)])
    return approval


def decide(
    transaction: Transaction,
    approval_id: str,
    *,
    status: ApprovalStatus,
    by: str | None,
    via: str,
    note: str | None,
    data: Any,
) -> Approval | None:
    """Decide an approval and queue the execution again, see `Store.decide`."""
    values = {
        "id": approval_id,
        "status": status,
        "by": by,
        "via": via,
        "note": note,
        "data": None if data is None else dump(data),
        "now": transaction.now,
    }
    row = transaction.one(_DECIDE, values)
    if row is None:
        return None
    approval, left = approval_row(row[:-1]), row[-1]
    transaction.run(_RESUME, left, transaction.now, approval.execution_id)
    body = {"approval_id": approval.id, "key": approval.key, "status": status, "by": by, "via": via, "note": note}
    record(
        transaction, approval.run_id, [NewEvent(type="approval.decided", body=body, execution_id=approval.execution_id)]
    )
    return approval


def drop(transaction: Transaction, execution_id: str) -> None:
    """Cancel the pending approval of an execution that has ended."""
    transaction.run(
        "UPDATE approvals SET status = 'cancelled', decided_at = ? WHERE execution_id = ? AND status = 'pending'",
        transaction.now,
        execution_id,
    )
