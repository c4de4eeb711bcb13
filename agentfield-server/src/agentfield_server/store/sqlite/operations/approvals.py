"""Approvals: suspend an execution, decide, and queue it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentfield.ids import new_id
from agentfield_server.store.json_text import dump
from agentfield_server.store.operations import Decide, SuspendExecution
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
UPDATE approvals SET status = :status, principal = :principal, decided_by = :by, via = :via, note = :note, data = :data, decided_at = :now
WHERE id = :id AND status = 'pending' RETURNING {APPROVAL_COLUMNS}, time_left
"""  # noqa: S608
_RESUME = """
UPDATE executions SET status = 'queued', max_attempts = max_attempts + 1, not_before = NULL,
    deadline = CASE WHEN ?1 IS NULL THEN NULL ELSE ?2 + ?1 END
WHERE id = ?3 AND status = 'waiting'
"""


def suspend(transaction: Transaction, operation: SuspendExecution) -> Approval | None:
    """Suspend an execution for a decision, see `Store.park_execution`."""
    before = transaction.one("SELECT deadline FROM executions WHERE id = ?", operation.execution_id)
    row = transaction.one(_PARK, operation.execution_id, operation.attempt, operation.epoch)
    if row is None or before is None:
        return None
    left = None if before[0] is None else max(before[0] - transaction.now, 0.001)
    values = {
        "id": new_id("apr"),
        "execution_id": operation.execution_id,
        "key": operation.key,
        "run_id": row[0],
        "session_id": row[1],
        "target": row[2],
        "title": operation.title,
        "details": dump(operation.details),
        "time_left": left,
        "now": transaction.now,
        "expires_at": transaction.now + operation.expires,
    }
    made = transaction.one(_INSERT, values)
    assert made is not None  # noqa: S101 - an INSERT that did not raise returns its row
    approval = approval_row(made)
    body = {
        "approval_id": approval.id,
        "key": operation.key,
        "title": operation.title,
        "expires_at": approval.expires_at,
    }
    record(transaction, row[0], [NewEvent(type="approval.requested", body=body, execution_id=operation.execution_id)])
    return approval


def decide(transaction: Transaction, operation: Decide) -> Approval | None:
    """Decide an approval and queue the execution again, see `Store.decide`."""
    values = {
        "id": operation.approval_id,
        "status": operation.status,
        "principal": operation.principal,
        "by": operation.by,
        "via": operation.via,
        "note": operation.note,
        "data": None if operation.data is None else dump(operation.data),
        "now": transaction.now,
    }
    row = transaction.one(_DECIDE, values)
    if row is None:
        return None
    approval, left = approval_row(row[:-1]), row[-1]
    transaction.run(_RESUME, left, transaction.now, approval.execution_id)
    body: dict[str, Any] = {
        "approval_id": approval.id,
        "key": approval.key,
        "status": operation.status,
        "principal": operation.principal,
        "by": operation.by,
        "via": operation.via,
        "note": operation.note,
    }
    if operation.own:
        body["own"] = True
    record(
        transaction, approval.run_id, [NewEvent(type="approval.decided", body=body, execution_id=approval.execution_id)]
    )
    return approval


def drop(transaction: Transaction, execution_ids: Sequence[str]) -> None:
    """Cancel the pending approvals of executions that have ended."""
    transaction.many(
        "UPDATE approvals SET status = 'cancelled', decided_at = ? WHERE execution_id = ? AND status = 'pending'",
        [(transaction.now, execution_id) for execution_id in execution_ids],
    )
