"""Executions: each operation changes a row and records the event of that change; those of a group do it together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from agentfield.errors import InvalidInput, LimitExceeded
from agentfield.identity import new_salt
from agentfield.wire.rest import ExecutionStatus
from agentfield_server.store.json_text import dump, load
from agentfield_server.store.operations import (
    AcceptExecution,
    CompleteExecution,
    CreateExecution,
    LeaseExecution,
    RecordProgress,
    RenewLeases,
    RequeueExecution,
)
from agentfield_server.store.records import LIVE_PRIORITY, Execution, NewEvent, NewExecution
from agentfield_server.store.sqlite.operations import approvals, keys, payloads
from agentfield_server.store.sqlite.operations.events import Change, record, reserve, write
from agentfield_server.store.sqlite.rows import EXECUTION_COLUMNS, execution_row
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["accept", "complete", "create", "find", "lease", "progress", "renew", "requeue", "settle"]

# All SQL below is built from constants; values are always bound.
_SELECT = f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE id = ?"  # noqa: S608
_BY_OP = f"SELECT op_id, {EXECUTION_COLUMNS} FROM executions WHERE op_id = ?"  # noqa: S608
_PARENT = "SELECT id, run_id, share FROM executions WHERE id = ?"
_INSERT = """
INSERT INTO executions (id, run_id, kind, target, node_id, status, input, parent_id, session_id, actor_id, attempt,
    max_attempts, priority, share, place, backoff, lease_owner, lease_epoch, lease_until, not_before, deadline, op_id,
    input_salt, output_salt, created_at, started_at, input_payload, input_size)
VALUES (:id, :run_id, :kind, :target, :node_id, :status, :input, :parent_id, :session_id, :actor_id, :attempt,
    :max_attempts, :priority, :share, :place, :backoff, :lease_owner, :lease_epoch, :lease_until, :not_before, :deadline,
    :op_id, :input_salt, :output_salt, :created_at, :started_at, :input_payload, :input_size)
"""
_NOT_IN_RECORD = {"node_id", "share", "place", "op_id"}
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
_WAITING = "SELECT COUNT(*) FROM (SELECT 1 FROM executions WHERE status = 'queued' AND node_id = ? LIMIT ?)"
_QUEUE_BOUNDS = """
SELECT (SELECT MAX(place) FROM executions WHERE status = 'queued' AND node_id = ?1 AND priority = ?2 AND share = ?3),
    (SELECT place FROM executions WHERE status = 'queued' AND node_id = ?1 AND priority = ?2 ORDER BY place LIMIT 1)
"""
_RETRY_AFTER = 2
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


def create(transaction: Transaction, operations: Sequence[CreateExecution]) -> list[Change]:
    """Create executions, see `Store.create_execution`; `settle` inserts them."""
    earlier = _by_op_id(transaction, operations)
    parents = _parents(transaction, operations)
    return [_create(transaction, operation, earlier, parents) for operation in operations]


def settle(transaction: Transaction, changes: Sequence[Change]) -> None:
    """Insert the created executions of a group, then record the events of all its changes."""
    ends = reserve(transaction, changes)
    transaction.many(_INSERT, [change.row for change in changes if change.row is not None])
    write(transaction, changes, ends)


def _create(
    transaction: Transaction,
    operation: CreateExecution,
    earlier: Mapping[str, Execution],
    parents: Mapping[str, tuple[str, str]],
) -> Change:
    new = operation.new
    if new.op_id is not None and (first := earlier.get(new.op_id)) is not None:
        return Change((first, False))
    if new.idempotency is not None:
        bound = keys.claim(transaction, new.idempotency, execution_id=new.id)
        if bound is not None and (known := find(transaction, bound)) is not None:
            return Change((known, False))
    share = _share(new, parents)
    status: ExecutionStatus = "running" if operation.lease_to is not None else new.status
    values = _values(new, status, transaction.now, operation.lease_to, operation.lease_until)
    values |= {"share": share, "place": 0}
    if status == "queued":
        _check_queue_limit(transaction, values, operation.max_queued)
        values["place"] = _queue_position(transaction, values)
    created = _as_created(new, values)
    values |= _payload_columns(transaction, "input", values["input"], instead="null")
    body: dict[str, Any] = {"kind": new.kind, "target": new.target, "parent_id": new.parent_id, "status": status}
    if new.traceparent is not None:
        body["traceparent"] = new.traceparent
    if new.access is not None:
        body["access"] = dict(new.access)
    event = NewEvent(type="execution.created", body=body, execution_id=new.id)
    return Change((created, True), new.run_id, [event, *new.events], values, principal=new.principal)


def _by_op_id(transaction: Transaction, operations: Sequence[CreateExecution]) -> dict[str, Execution]:
    asked = [(operation.new.op_id,) for operation in operations if operation.new.op_id is not None]
    return {row[0]: execution_row(row[1:]) for row in transaction.many(_BY_OP, asked)}


def _parents(transaction: Transaction, operations: Sequence[CreateExecution]) -> dict[str, tuple[str, str]]:
    """Return run and share of the parents."""
    asked = {operation.new.parent_id for operation in operations if operation.new.parent_id is not None}
    return {row[0]: row[1:] for row in transaction.many(_PARENT, [(parent_id,) for parent_id in sorted(asked)])}


def _share(new: NewExecution, parents: Mapping[str, tuple[str, str]]) -> str:
    """Check the parent and return the fair-queueing share: as given, else the parent's, else the run."""
    if new.parent_id is None:
        return new.share or new.session_id or new.run_id
    parent = parents.get(new.parent_id)
    if parent is None:
        raise InvalidInput(f"There is no execution {new.parent_id!r} to be the parent.", code="foreign_parent")
    if parent[0] != new.run_id:
        raise InvalidInput(f"The execution {new.parent_id!r} belongs to another run.", code="foreign_parent")
    return new.share or new.session_id or parent[1] or new.run_id


def _check_queue_limit(transaction: Transaction, values: Mapping[str, Any], max_queued: int | None) -> None:
    """Reject an execution when the queue of its node is full; executions of live sessions may use twice the limit."""
    if max_queued is None:
        return
    most = max_queued * 2 if values["priority"] >= LIVE_PRIORITY else max_queued
    waiting = transaction.one(_WAITING, values["node_id"], most)
    if waiting is not None and waiting[0] >= most:
        raise LimitExceeded(
            f"{most} executions wait for the node {values['node_id']!r} already.",
            code="queue_full",
            hint="try again in a moment, start more instances of the node, or raise AGENTFIELD_MAX_QUEUED",
            node_id=values["node_id"],
            retry_after=_RETRY_AFTER,
        )


def _queue_position(transaction: Transaction, values: Mapping[str, Any]) -> int:
    """Return the position in the queue of a node: n waiting shares get every n-th position, a new share the next one.

    This is start-time fair queueing (Goyal, Vin and Cheng, 1996) with executions of equal weight: after the last one of
    the same share, and not before the one that starts next.
    """
    ends = transaction.one(_QUEUE_BOUNDS, values["node_id"], values["priority"], values["share"])
    last, first = ends or (None, None)
    return max(0 if last is None else last + 1, first or 0)


def _values(
    new: NewExecution, status: ExecutionStatus, now: float, lease_to: str | None, lease_until: float | None
) -> dict[str, Any]:
    leased = lease_to is not None
    # sessions and turns are not dispatched: they begin as running, in their first attempt
    begun = leased or status != "queued"
    return {
        "id": new.id,
        "run_id": new.run_id,
        "kind": new.kind,
        "target": new.target,
        "node_id": new.target.partition(".")[0],
        "status": status,
        "input": new.input_text or dump(new.input),
        "parent_id": new.parent_id,
        "session_id": new.session_id,
        "actor_id": new.actor_id,
        "attempt": 1 if begun else 0,
        "max_attempts": new.max_attempts,
        "priority": new.priority if new.session_id is None else max(new.priority, LIVE_PRIORITY),
        "backoff": new.backoff,
        "not_before": now + new.delay if new.delay and not begun else None,
        "lease_owner": lease_to,
        "lease_epoch": 1 if leased else 0,
        "lease_until": lease_until,
        "deadline": None if new.timeout is None else now + new.delay + new.timeout,
        "op_id": new.op_id,
        "input_salt": new.input_salt,
        "output_salt": new_salt() if leased else None,
        "created_at": now,
        "started_at": now if begun and not leased else None,
    }


def _as_created(new: NewExecution, values: Mapping[str, Any]) -> Execution:
    """Return the record of the inserted row; building it is cheaper than reading the row back."""
    stored = {name: value for name, value in values.items() if name not in _NOT_IN_RECORD}
    return Execution(
        **stored | {"input": new.input},
        output=None,
        problem=None,
        lineage=0,
        pauses=0,
        progress=None,
        accepted=False,
        input_digest=None,
        output_digest=None,
        signature=None,
        signer=None,
        statement=None,
        proof=None,
        ended_at=None,
    )


def _payload_columns(transaction: Transaction, name: str, text: str | None, *, instead: str | None) -> dict[str, Any]:
    """Return the columns of an input or output; store a large one separately."""
    apart = None if text is None else payloads.put(transaction, text)
    digest, size = apart or (None, None)
    return {name: text if apart is None else instead, f"{name}_payload": digest, f"{name}_size": size}


def lease(transaction: Transaction, operation: LeaseExecution) -> Execution | None:
    """Lease a queued execution, see `Store.lease_execution`."""
    row = transaction.one(_LEASE, operation.owner, operation.until, new_salt(), operation.execution_id)
    return None if row is None else execution_row(row)


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
    } | _payload_columns(transaction, "output", text, instead=None)


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
