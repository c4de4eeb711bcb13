"""Creation of executions: what a group of new ones depends on is read together, and they are inserted in the order of submission."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from agentfield.errors import InvalidInput, LimitExceeded
from agentfield.identity import new_salt
from agentfield.wire.rest import ExecutionStatus
from agentfield_server.store.json_text import dump
from agentfield_server.store.operations import CreateExecution
from agentfield_server.store.records import LIVE_PRIORITY, Execution, NewEvent, NewExecution
from agentfield_server.store.sqlite.operations import keys
from agentfield_server.store.sqlite.operations.events import Change, reserve, write
from agentfield_server.store.sqlite.operations.executions import find, payload_columns
from agentfield_server.store.sqlite.rows import EXECUTION_COLUMNS, execution_row
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["create", "settle"]

# All SQL below is built from constants; values are always bound.
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
_WAITING = "SELECT COUNT(*) FROM (SELECT 1 FROM executions WHERE status = 'queued' AND node_id = ? LIMIT ?)"
_QUEUE_BOUNDS = """
SELECT (SELECT MAX(place) FROM executions WHERE status = 'queued' AND node_id = ?1 AND priority = ?2 AND share = ?3),
    (SELECT place FROM executions WHERE status = 'queued' AND node_id = ?1 AND priority = ?2 ORDER BY place LIMIT 1)
"""
_RETRY_AFTER = 2


def create(transaction: Transaction, operations: Sequence[CreateExecution]) -> list[Change]:
    """Create executions, see `Store.create_execution`; `settle` inserts them."""
    ops = _by_op_id(transaction, operations)
    known = _Known(ops, _by_key(transaction, operations, ops), _parents(transaction, operations), _Queues(transaction))
    return [_create(transaction, operation, known) for operation in operations]


def settle(transaction: Transaction, changes: Sequence[Change]) -> None:
    """Insert the created executions of a group, then record the events of all its changes."""
    ends = reserve(transaction, changes)
    transaction.many(_INSERT, [change.row for change in changes if change.row is not None])
    write(transaction, changes, ends)


class _Known(NamedTuple):
    """What the store has that the creations of a group depend on."""

    ops: Mapping[str, Execution]
    """Executions by `op_id`."""
    keys: Mapping[str, Execution]
    """Executions that were created with the idempotency key of a new one, by the id of the new one."""
    parents: Mapping[str, tuple[str, str]]
    """Run and share of the parents."""
    queues: _Queues


def _create(transaction: Transaction, operation: CreateExecution, known: _Known) -> Change:
    new = operation.new
    first = None if new.op_id is None else known.ops.get(new.op_id)
    if (first := first or known.keys.get(new.id)) is not None:
        return Change((first, False))
    share = _share(new, known.parents)
    status: ExecutionStatus = "running" if operation.lease_to is not None else new.status
    values = _values(new, status, transaction.now, operation.lease_to, operation.lease_until)
    values |= {"share": share, "place": 0}
    if status == "queued":
        values["place"] = known.queues.join(values, operation.max_queued)
    created = _as_created(new, values)
    values |= payload_columns(transaction, "input", values["input"], instead="null")
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


def _by_key(
    transaction: Transaction, operations: Sequence[CreateExecution], ops: Mapping[str, Execution]
) -> dict[str, Execution]:
    """Claim the idempotency keys of new executions; return the executions of those that are bound already."""
    news = [operation.new for operation in operations if operation.new.op_id not in ops]
    bound = keys.claim_all(transaction, {new.id: new.idempotency for new in news if new.idempotency is not None})
    found = ((new_id, find(transaction, earlier)) for new_id, earlier in bound.items())
    return {new_id: execution for new_id, execution in found if execution is not None}


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


class _Queues:
    """The queues of nodes as the store has them, and the executions of a group that joined them and are not inserted yet."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._waiting: dict[tuple[str, int], int] = {}
        self._joined: Counter[str] = Counter()
        self._first: dict[tuple[str, int], int | None] = {}
        """By node and priority: the place of the execution that starts next."""
        self._last: dict[tuple[str, int, str], int | None] = {}
        """By node, priority and share: the last place of the share."""

    def join(self, values: Mapping[str, Any], max_queued: int | None) -> int:
        """Return the place of an execution in the queue of its node.

        Raises:
            LimitExceeded: The queue is full (code `queue_full`).
        """
        node_id, priority, share = str(values["node_id"]), int(values["priority"]), str(values["share"])
        if max_queued is not None:
            self._check_limit(node_id, priority, max_queued)
        place = self._place(node_id, priority, share)
        first = self._first[node_id, priority]
        self._first[node_id, priority] = place if first is None else min(first, place)
        self._last[node_id, priority, share] = place
        self._joined[node_id] += 1
        return place

    def _check_limit(self, node_id: str, priority: int, max_queued: int) -> None:
        """Reject an execution when the queue of its node is full; executions of live sessions may use twice the limit."""
        most = max_queued * 2 if priority >= LIVE_PRIORITY else max_queued
        if (node_id, most) not in self._waiting:
            [(self._waiting[node_id, most],)] = self._transaction.many(_WAITING, [(node_id, most)])
        if self._waiting[node_id, most] + self._joined[node_id] >= most:
            raise LimitExceeded(
                f"{most} executions wait for the node {node_id!r} already.",
                code="queue_full",
                hint="try again in a moment, start more instances of the node, or raise AGENTFIELD_MAX_QUEUED",
                node_id=node_id,
                retry_after=_RETRY_AFTER,
            )

    def _place(self, node_id: str, priority: int, share: str) -> int:
        """Return the next place of a share: n waiting shares get every n-th place, a new share the next one.

        This is start-time fair queueing (Goyal, Vin and Cheng, 1996) with executions of equal weight: after the last one of
        the same share, and not before the one that starts next.
        """
        if (node_id, priority, share) not in self._last:
            [(last, first)] = self._transaction.many(_QUEUE_BOUNDS, [(node_id, priority, share)])
            self._last[node_id, priority, share] = last
            self._first.setdefault((node_id, priority), first)
        last, first = self._last[node_id, priority, share], self._first[node_id, priority]
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
