"""Executions: each operation changes a row and records the event of that change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentfield.errors import InvalidInput, LimitExceeded
from agentfield.identity import new_salt
from agentfield.wire.rest import ExecutionStatus
from agentfield_server.store.json_text import dump
from agentfield_server.store.records import LIVE_PRIORITY, Execution, NewEvent, NewExecution
from agentfield_server.store.sqlite.operations import approvals, keys, payloads
from agentfield_server.store.sqlite.operations.events import record, reserve_numbers
from agentfield_server.store.sqlite.rows import EXECUTION_COLUMNS, execution_row
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["accept", "complete", "create", "find", "lease", "progress", "renew", "requeue"]

# All SQL below is built from constants; values are always bound.
_SELECT = f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE id = ?"  # noqa: S608
_BY_OP = f"SELECT {EXECUTION_COLUMNS} FROM executions WHERE op_id = ?"  # noqa: S608
_INSERT = """
INSERT INTO executions (id, run_id, kind, target, node_id, status, input, parent_id, session_id, actor_id, attempt,
    max_attempts, priority, share, place, backoff, lease_owner, lease_epoch, lease_until, not_before, deadline, op_id,
    input_digest, input_salt, output_salt, created_at, started_at, input_payload, input_size)
VALUES (:id, :run_id, :kind, :target, :node_id, :status, :input, :parent_id, :session_id, :actor_id, :attempt,
    :max_attempts, :priority, :share, :place, :backoff, :lease_owner, :lease_epoch, :lease_until, :not_before, :deadline,
    :op_id, :input_digest, :input_salt, :output_salt, :created_at, :started_at, :input_payload, :input_size)
"""
_NOT_IN_RECORD = {"node_id", "share", "place", "op_id"}
_LEASE = f"""
UPDATE executions SET status = 'running', attempt = attempt + 1, lease_epoch = lease_epoch + 1, lease_owner = ?,
    lease_until = ?, accepted = 0, not_before = NULL, started_at = NULL, output_salt = ?
WHERE id = ? AND status = 'queued' RETURNING {EXECUTION_COLUMNS}
"""  # noqa: S608
_CURRENT = "WHERE id = ? AND attempt = ? AND lease_epoch = ? AND status IN ('running', 'waiting')"
_ENTER = f"UPDATE executions SET accepted = 1, started_at = MAX(created_at, ?) {_CURRENT} AND accepted = 0"  # noqa: S608
_ACCEPT = f"{_ENTER} RETURNING run_id, lease_owner, kind, target, started_at"
_REQUEUE = f"""
UPDATE executions SET status = 'queued', lease_owner = NULL, lease_until = NULL, lease_epoch = lease_epoch + 1,
    max_attempts = max_attempts + (accepted = 0 AND NOT ?), accepted = 0, not_before = ?, lineage = lineage + ?
{_CURRENT} AND accepted <= ? RETURNING run_id
"""  # noqa: S608
_PROGRESS = f"UPDATE executions SET progress = ? {_CURRENT} RETURNING run_id"  # noqa: S608
_WAITING = "SELECT COUNT(*) FROM (SELECT 1 FROM executions WHERE status = 'queued' AND node_id = ? LIMIT ?)"
_QUEUE_BOUNDS = """
SELECT (SELECT MAX(place) FROM executions WHERE status = 'queued' AND node_id = ?1 AND priority = ?2 AND share = ?3),
    (SELECT place FROM executions WHERE status = 'queued' AND node_id = ?1 AND priority = ?2 ORDER BY place LIMIT 1)
"""
_RETRY_AFTER = 2
_COMPLETE = f"""
UPDATE executions SET status = :status, output = :output, problem = :problem, output_digest = :output_digest,
    input_digest = COALESCE(:input_digest, input_digest), signature = :signature, signer = :signer,
    statement = :statement, proof = :proof,
    lease_until = NULL, ended_at = :now, output_payload = :output_payload, output_size = :output_size
WHERE id = :id AND status IN ('queued', 'running', 'waiting')
    AND (:attempt IS NULL OR (attempt = :attempt AND status <> 'queued'))
    AND (:epoch IS NULL OR lease_epoch = :epoch)
RETURNING {EXECUTION_COLUMNS}
"""  # noqa: S608


def find(transaction: Transaction, execution_id: str) -> Execution | None:
    """Return an execution as this transaction sees it."""
    row = transaction.one(_SELECT, execution_id)
    return None if row is None else execution_row(row)


def create(
    transaction: Transaction,
    new: NewExecution,
    *,
    lease_to: str | None = None,
    lease_until: float | None = None,
    max_queued: int | None = None,
) -> tuple[Execution, bool]:
    """Create an execution, see `Store.create_execution`."""
    if (earlier := _existing(transaction, new)) is not None:
        return earlier, False
    share = _share(transaction, new)
    status: ExecutionStatus = "running" if lease_to is not None else new.status
    values = _values(new, status, transaction.now, lease_to, lease_until) | {"share": share, "place": 0}
    if status == "queued":
        _check_queue_limit(transaction, values, max_queued)
        values["place"] = _queue_position(transaction, values)
    numbers = reserve_numbers(transaction, new.run_id, 1 + len(new.events))
    transaction.run(_INSERT, values | _payload_columns(transaction, "input", values["input"], instead="null"))
    body = {"kind": new.kind, "target": new.target, "parent_id": new.parent_id, "status": status}
    if new.traceparent is not None:
        body["traceparent"] = new.traceparent
    created = NewEvent(type="execution.created", body=body, execution_id=new.id)
    record(transaction, new.run_id, [created, *new.events], numbers)
    return _as_created(new, values), True


def _existing(transaction: Transaction, new: NewExecution) -> Execution | None:
    if new.op_id is not None and (row := transaction.one(_BY_OP, new.op_id)) is not None:
        return execution_row(row)
    if new.idempotency is not None:
        earlier = keys.claim(transaction, new.idempotency, execution_id=new.id)
        return None if earlier is None else find(transaction, earlier)
    return None


def _share(transaction: Transaction, new: NewExecution) -> str:
    """Check the parent and return the fair-queueing share: as given, else the parent's, else the run."""
    if new.parent_id is None:
        return new.share or new.session_id or new.run_id
    parent = transaction.one("SELECT run_id, share FROM executions WHERE id = ?", new.parent_id)
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
        "input": dump(new.input),
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
        "input_digest": new.input_digest,
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


def lease(transaction: Transaction, execution_id: str, *, owner: str, until: float) -> Execution | None:
    """Lease a queued execution, see `Store.lease_execution`."""
    row = transaction.one(_LEASE, owner, until, new_salt(), execution_id)
    return None if row is None else execution_row(row)


def accept(transaction: Transaction, execution_id: str, *, attempt: int, epoch: int, ago: float | None) -> bool:
    """Record that the function was entered, see `Store.accept_execution`."""
    row = transaction.one(_ACCEPT, transaction.now - (ago or 0.0), execution_id, attempt, epoch)
    if row is None:
        return False
    run_id, instance_id, kind, target, started_at = row
    at = None if ago is None else started_at
    record(transaction, run_id, [_started(execution_id, kind, target, attempt, instance_id, at=at)])
    return True


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


def renew(transaction: Transaction, owner: str, *, until: float) -> int:
    """Extend the leases of an instance."""
    return transaction.run(
        "UPDATE executions SET lease_until = ? WHERE lease_owner = ? AND status IN ('running', 'waiting')",
        until,
        owner,
    )


def requeue(
    transaction: Transaction,
    execution_id: str,
    *,
    attempt: int,
    epoch: int,
    entered: bool,
    counts: bool,
    not_before: float | None,
    anew: bool,
    events: Sequence[NewEvent],
) -> bool:
    """Put a leased execution back into the queue; an attempt without a recorded entry counts only if `counts`."""
    row = transaction.one(_REQUEUE, counts, not_before, anew, execution_id, attempt, epoch, entered)
    if row is None:
        return False
    if events:
        record(transaction, row[0], events)
    return True


def progress(transaction: Transaction, execution_id: str, *, attempt: int, epoch: int, value: Any) -> bool:
    """Record the progress of an attempt, see `Store.progress`."""
    row = transaction.one(_PROGRESS, dump(value), execution_id, attempt, epoch)
    if row is None:
        return False
    record(
        transaction, row[0], [NewEvent(type="execution.progress", body={"progress": value}, execution_id=execution_id)]
    )
    return True


def complete(
    transaction: Transaction,
    execution_id: str,
    *,
    attempt: int | None,
    epoch: int | None,
    status: ExecutionStatus,
    output: Any,
    problem: Mapping[str, Any] | None,
    input_digest: str | None,
    output_digest: str | None,
    signature: str | None,
    signer: str | None,
    statement: str | None,
    proof: str | None,
    entered: float | None,
    events: Sequence[NewEvent],
) -> Execution | None:
    """Close an execution, see `Store.complete_execution`."""
    begins = entered is not None and (
        transaction.run(_ENTER, transaction.now - entered, execution_id, attempt, epoch) == 1
    )
    text = None if output is None else dump(output)
    kept = _payload_columns(transaction, "output", text, instead=None)
    values = {
        "id": execution_id,
        "attempt": attempt,
        "epoch": epoch,
        "status": status,
        "problem": None if problem is None else dump(problem),
        "input_digest": input_digest,
        "output_digest": output_digest,
        "signature": signature,
        "signer": signer,
        "statement": statement,
        "proof": proof,
        "now": transaction.now,
    }
    row = transaction.one(_COMPLETE, values | kept)
    if row is None:
        if kept["output_payload"] is not None:
            payloads.sweep(transaction, [kept["output_payload"]])
        return None
    done = execution_row(row)
    if done.pauses:
        approvals.drop(transaction, execution_id)
    body: dict[str, Any] = {"kind": done.kind, "target": done.target, "status": status}
    if problem is not None:
        body["problem"] = dict(problem)
    ended = NewEvent(type="execution.ended", body=body, execution_id=execution_id)
    started = (
        [_started(done.id, done.kind, done.target, done.attempt, done.lease_owner, at=done.started_at)]
        if begins
        else []
    )
    record(transaction, done.run_id, [*started, ended, *events])
    return done
