"""Writes of executions and their approvals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentfield.wire.rest import ApprovalStatus, ExecutionStatus
from agentfield_server.store.operations.planning import Operation, Touched
from agentfield_server.store.records import Approval, Execution, NewEvent, NewExecution

__all__ = [
    "AcceptExecution",
    "CompleteExecution",
    "CreateExecution",
    "Decide",
    "LeaseExecution",
    "RecordProgress",
    "RenewLeases",
    "RequeueExecution",
    "SuspendExecution",
]


class CreateExecution(Operation[tuple[Execution, bool]], frozen=True):
    """See `Store.create_execution`."""

    new: NewExecution
    lease_to: str | None = None
    lease_until: float | None = None
    max_queued: int | None = None

    def touches(self) -> Touched:
        """Return its id, `op_id` and key, and its parent: of that, only the creation matters to it."""
        new = self.new
        writes = [new.id, f"new {new.id}"]
        if new.op_id is not None:
            writes.append(f"op {new.op_id}")
        if (key := new.idempotency) is not None:
            writes.append(f"key {(key.principal, key.route, key.target, key.key)}")
        reads = () if new.parent_id is None else (f"new {new.parent_id}",)
        return Touched(reads, tuple(writes), "joins" if self.lease_to is None and new.status == "queued" else None)


class LeaseExecution(Operation[Execution | None], frozen=True):
    """See `Store.lease_execution`."""

    execution_id: str
    owner: str
    until: float

    def touches(self) -> Touched:
        """Return its execution, which leaves its queue."""
        return Touched((), (self.execution_id,), "leaves")


class AcceptExecution(Operation[bool], frozen=True):
    """See `Store.accept_execution`."""

    execution_id: str
    attempt: int
    epoch: int
    ago: float | None

    def touches(self) -> Touched:
        """Return its execution."""
        return Touched((), (self.execution_id,))


class RenewLeases(Operation[int], frozen=True):
    """See `Store.renew_leases`."""

    owner: str
    until: float


class RequeueExecution(Operation[bool], frozen=True):
    """See `Store.requeue_execution`."""

    execution_id: str
    attempt: int
    epoch: int
    entered: bool
    counts: bool
    not_before: float | None
    anew: bool
    events: Sequence[NewEvent]


class RecordProgress(Operation[bool], frozen=True):
    """See `Store.progress`."""

    execution_id: str
    attempt: int
    epoch: int
    value: Any

    def touches(self) -> Touched:
        """Return its execution."""
        return Touched((), (self.execution_id,))


class CompleteExecution(Operation[Execution | None], frozen=True, kw_only=True):
    """See `Store.complete_execution`."""

    execution_id: str
    attempt: int | None
    status: ExecutionStatus
    epoch: int | None = None
    output: Any = None
    output_text: str | None = None
    """The output as JSON text, where it is at hand."""
    problem: Mapping[str, Any] | None = None
    input_digest: str | None = None
    output_digest: str | None = None
    signature: str | None = None
    signer: str | None = None
    statement: str | None = None
    proof: str | None = None
    entered: float | None = None
    events: Sequence[NewEvent] = ()
    known: Execution | None = None

    def touches(self) -> Touched:
        """Return its execution; without an attempt it may be a queued one."""
        return Touched((), (self.execution_id,), "leaves" if self.attempt is None else None)


class SuspendExecution(Operation[Approval | None], frozen=True):
    """See `Store.suspend_execution`."""

    execution_id: str
    attempt: int
    epoch: int
    key: str
    title: str
    details: Any
    expires: float


class Decide(Operation[Approval | None], frozen=True):
    """See `Store.decide`."""

    approval_id: str
    status: ApprovalStatus
    principal: str | None
    own: bool
    by: str | None
    via: str
    note: str | None
    data: Any
