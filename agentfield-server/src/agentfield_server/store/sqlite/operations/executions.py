"""Executions: each operation changes a row and records the event of that change; those of a group do it together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from agentfield.identity import new_salt
from agentfield_server.store.json_text import dump, load
from agentfield_server.store.operations import (
    AcceptExecution,
    CompleteExecution,
    LeaseExecution,
    RecordProgress,
    RenewLeases,
    RequeueExecution,
)
from agentfield_server.store.records import Execution, NewEvent
from agentfield_server.store.sqlite.operations import approvals, payloads
from agentfield_server.store.sqlite.operations.events import Change, record
from agentfield_server.store.sqlite.rows import EXECUTION_COLUMNS, execution_row
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["accept", "complete", "find", "lease", "payload_columns", "progress", "renew", "requeue"]

# All SQL below is built from constants; values are always bound.
_SELECT = f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE id = ?"  # noqa: S608
_LEASE = f"""
UPDATE executions SET status = 'running', attempt = attempt + 1, lease_epoch = lease_epoch + 1, lease_owner = ?,
    lease_until = ?, accepted = 0, not_before = NULL, started_at = NULL, output_salt = ?
WHERE id = ? AND status = 'queued' RETURNING {EXECUTION_COLUMNS}
"""  # noqa: S608
_CURRENT = "WHERE id = ? AND attempt = ? AND lease_epoch = ? AND status IN ('running', 'waiting')"
_ENTERED = f"UPDATE executions SET accepted = 1, started_at = MAX(created_at, ?) {_CURRENT} AND accepted = 0"  # noqa: S608
_ACCEPT = f"{_ENTERED} RETURNING id, run_id, lease_owner, kind, target, started_at"
_REQUEUE = f"""
UPDATE executions SET status = 'queued', lease_owner = NULL, lease_until = NULL, lease_epoch = lease_epoch + 1,
    max_attempts = max_attempts + (accepted = 0 AND NOT ?), accepted = 0, not_before = ?, lineage = lineage + ?
{_CURRENT} AND accepted <= ? RETURNING run_id
"""  # noqa: S608
_PROGRESS = f"UPDATE executions SET progress = ? {_CURRENT} RETURNING id, run_id"  # noqa: S608
_ENTERED_WITH_RESULT = 2
"""`accepted` where one statement records entry and result: it says which of the two `execution.started` is still missing."""
_COMPLETE = """
UPDATE executions SET status = :status, output = :output, problem = :problem, output_digest = :output_digest,
    input_digest = :input_digest, signature = :signature, signer = :signer,
    statement = :statement, proof = :proof,
    started_at = CASE WHEN accepted = 0 AND :entered IS NOT NULL THEN MAX(created_at, :entered) ELSE started_at END,
    accepted = CASE WHEN accepted = 0 AND :entered IS NOT NULL THEN 2 ELSE accepted END,
    lease_until = NULL, ended_at = :now, output_payload = :output_payload, output_size = :output_size
WHERE id = :id AND status IN ('queued', 'running', 'waiting')
    AND (:attempt IS NULL OR (attempt = :attempt AND status <> 'queued'))
    AND (:epoch IS NULL OR lease_epoch = :epoch)
RETURNING id, run_id, kind, target, attempt, lease_owner, lease_epoch, pauses, accepted, started_at, progress
"""


def find(transaction: Transaction, execution_id: str) -> Execution | None:
    """Return an execution as this transaction sees it."""
    row = transaction.one(_SELECT, execution_id)
    return None if row is None else execution_row(row)


def payload_columns(transaction: Transaction, name: str, text: str | None, *, instead: str | None) -> dict[str, Any]:
    """Return the columns of an input or output; store a large one separately."""
    apart = None if text is None else payloads.put(transaction, text)
    digest, size = apart or (None, None)
    return {name: text if apart is None else instead, f"{name}_payload": digest, f"{name}_size": size}


def lease(transaction: Transaction, operations: Sequence[LeaseExecution]) -> list[Change]:
    """Lease queued executions, see `Store.lease_execution`."""
    asked = [(each.owner, each.until, new_salt(), each.execution_id) for each in operations]
    leased = {row[0]: execution_row(row) for row in transaction.many(_LEASE, asked)}
    return [Change(leased.get(each.execution_id)) for each in operations]


def accept(transaction: Transaction, operations: Sequence[AcceptExecution]) -> list[Change]:
    """Record that functions were entered, see `Store.accept_execution`."""
    now = transaction.now
    asked = [(now - (each.ago or 0.0), each.execution_id, each.attempt, each.epoch) for each in operations]
    entered = {row[0]: row[1:] for row in transaction.many(_ACCEPT, asked)}
    changes = []
    for operation in operations:
        execution_id, row = operation.execution_id, entered.get(operation.execution_id)
        if row is None:
            changes.append(Change(result=False))
            continue
        run_id, instance_id, kind, target, started_at = row
        at = None if operation.ago is None else started_at
        event = _started(execution_id, kind, target, operation.attempt, instance_id, at=at)
        changes.append(Change(result=True, run_id=run_id, events=[event]))
    return changes


def _started(
    execution_id: str, kind: str, target: str, attempt: int, instance_id: str | None, *, at: float | None = None
) -> NewEvent:
    """Return the event of a function that was entered now, or at an earlier time."""
    node_id = target.partition(".")[0]
    body: dict[str, Any] = {"kind": kind, "target": target, "attempt": attempt, "node_id": node_id}
    body["instance_id"] = instance_id
    if at is not None:
        body["entered_at"] = round(at, 6)
    return NewEvent(type="execution.started", body=body, execution_id=execution_id)


def renew(transaction: Transaction, operation: RenewLeases) -> int:
    """Extend the leases of an instance."""
    return transaction.run(
        "UPDATE executions SET lease_until = ? WHERE lease_owner = ? AND status IN ('running', 'waiting')",
        operation.until,
        operation.owner,
    )


def requeue(transaction: Transaction, operation: RequeueExecution) -> bool:
    """Put a leased execution back into the queue; an attempt without a recorded entry counts only if `counts`."""
    row = transaction.one(
        _REQUEUE,
        operation.counts,
        operation.not_before,
        operation.anew,
        operation.execution_id,
        operation.attempt,
        operation.epoch,
        operation.entered,
    )
    if row is None:
        return False
    record(transaction, row[0], operation.events)
    return True


def progress(transaction: Transaction, operations: Sequence[RecordProgress]) -> list[Change]:
    """Record the progress of attempts, see `Store.progress`."""
    asked = [(dump(each.value), each.execution_id, each.attempt, each.epoch) for each in operations]
    runs = dict(transaction.many(_PROGRESS, asked))
    changes = []
    for operation in operations:
        run_id = runs.get(operation.execution_id)
        event = NewEvent(
            type="execution.progress", body={"progress": operation.value}, execution_id=operation.execution_id
        )
        changes.append(Change(result=False) if run_id is None else Change(result=True, run_id=run_id, events=[event]))
    return changes


def complete(transaction: Transaction, operations: Sequence[CompleteExecution]) -> list[Change]:
    """Close executions, see `Store.complete_execution`."""
    values = [_closing_values(transaction, operation) for operation in operations]
    closed = {row[0]: _Closed(*row) for row in transaction.many(_COMPLETE, values)}
    if paused := [row.id for row in closed.values() if row.pauses]:
        approvals.drop(transaction, paused)
    changes = []
    for operation, value in zip(operations, values, strict=True):
        row = closed.get(operation.execution_id)
        if row is None:
            payloads.sweep(transaction, filter(None, [value["output_payload"]]))
            changes.append(Change(None))
            continue
        done = _as_closed(transaction, operation, row)
        body: dict[str, Any] = {"kind": row.kind, "target": row.target, "status": operation.status}
        if operation.problem is not None:
            body["problem"] = dict(operation.problem)
        events = [NewEvent(type="execution.ended", body=body, execution_id=row.id), *operation.events]
        if row.accepted == _ENTERED_WITH_RESULT and operation.entered is not None:
            events.insert(0, _started(row.id, row.kind, row.target, row.attempt, row.lease_owner, at=row.started_at))
        changes.append(Change(done, row.run_id, events))
    return changes


class _Closed(NamedTuple):
    """What the store knows better than the caller about an execution that is closed."""

    id: str
    run_id: str
    kind: str
    target: str
    attempt: int
    lease_owner: str | None
    lease_epoch: int
    pauses: int
    accepted: int
    started_at: float | None
    progress: str | None


def _closing_values(transaction: Transaction, operation: CompleteExecution) -> dict[str, Any]:
    text = None if operation.output is None else operation.output_text or dump(operation.output)
    return {
        "id": operation.execution_id,
        "attempt": operation.attempt,
        "epoch": operation.epoch,
        "status": operation.status,
        "problem": None if operation.problem is None else dump(operation.problem),
        "input_digest": operation.input_digest,
        "output_digest": operation.output_digest,
        "signature": operation.signature,
        "signer": operation.signer,
        "statement": operation.statement,
        "proof": operation.proof,
        "entered": None if operation.entered is None else transaction.now - operation.entered,
        "now": transaction.now,
    } | payload_columns(transaction, "output", text, instead=None)


def _as_closed(transaction: Transaction, operation: CompleteExecution, row: _Closed) -> Execution:
    """Return the closed execution: from what the caller has of this attempt, else read back."""
    known = operation.known
    if (
        known is None
        or known.left_out
        or (known.id, known.attempt, known.lease_epoch) != (row.id, row.attempt, row.lease_epoch)
    ):
        found = find(transaction, row.id)
        assert found is not None  # noqa: S101 - it was changed in this transaction
        return found
    return replace(
        known,
        status=operation.status,
        output=operation.output,
        problem=operation.problem,
        progress=load(row.progress),
        lease_until=None,
        accepted=bool(row.accepted),
        input_digest=operation.input_digest,
        output_digest=operation.output_digest,
        signature=operation.signature,
        signer=operation.signer,
        statement=operation.statement,
        proof=operation.proof,
        started_at=row.started_at,
        ended_at=transaction.now,
    )
