"""The writes of a store as frozen values: what an operation means, and what it touches.

`Store` has a method for each of them, which describes it. A commit runs the operations that were submitted to it as if one after
the other, in the order of submission. `plan` divides them into groups that may be executed together; how a group becomes SQL is
decided by the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from agentfield.wire.rest import ApprovalStatus, ExecutionStatus, SessionState
from agentfield_server.store.records import (
    Approval,
    EventRow,
    Execution,
    IdempotencyKey,
    NewEvent,
    NewExecution,
    NewSession,
    PrunedRun,
    SessionRow,
    TokenRow,
    Webhook,
)

__all__ = [
    "AcceptExecution",
    "AddWebhook",
    "AppendEvents",
    "CompleteExecution",
    "CreateExecution",
    "CreateSession",
    "Decide",
    "DeleteRows",
    "DropTokens",
    "EraseBodies",
    "FindSessionForKey",
    "LeaseExecution",
    "MarkPruned",
    "Operation",
    "PurgeKeys",
    "PutToken",
    "RecordDelivered",
    "RecordNotDelivered",
    "RecordProgress",
    "Redrive",
    "ReleaseKey",
    "RememberNode",
    "RemoveWebhook",
    "RenewLeases",
    "RequeueExecution",
    "SaveResponse",
    "SuspendExecution",
    "TakeSession",
    "Touched",
    "UpdateSession",
    "UseToken",
    "Vacuum",
    "plan",
]

T = TypeVar("T")


class Touched(NamedTuple):
    """Names of what an operation depends on or changes: executions, `op_id`s, idempotency keys, sessions."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]


class Operation(Generic[T]):
    """A write whose result is a `T`."""

    __slots__ = ()

    def touches(self) -> Touched | None:
        """Return what it touches; None when it is executed alone."""
        return None


def plan(operations: Sequence[Operation[Any]]) -> Iterator[tuple[int, int]]:
    """Divide operations into groups; yield the begin and end of each.

    A group ends where an operation touches something that an earlier one of the group changes, or changes something that an
    earlier one reads. Operations of one run may share a group, because the numbers of its events are assigned in the order of
    submission after the rows of the group are changed.
    """
    begin, reads, writes = 0, set[str](), set[str]()
    for at, operation in enumerate(operations):
        touched = operation.touches()
        if touched is None:
            if at > begin:
                yield begin, at
            yield at, at + 1
            begin = at + 1
            reads.clear()
            writes.clear()
            continue
        if not (
            writes.isdisjoint(touched.writes) and writes.isdisjoint(touched.reads) and reads.isdisjoint(touched.writes)
        ):
            yield begin, at
            begin = at
            reads.clear()
            writes.clear()
        reads.update(touched.reads)
        writes.update(touched.writes)
    if len(operations) > begin:
        yield begin, len(operations)


# --- executions


@dataclass(frozen=True, slots=True)
class CreateExecution(Operation[tuple[Execution, bool]]):
    """See `Store.create_execution`."""

    new: NewExecution
    lease_to: str | None = None
    lease_until: float | None = None
    max_queued: int | None = None

    def touches(self) -> Touched | None:
        """A place in a queue depends on all that is queued before it, so a queued execution is created alone."""
        new = self.new
        if self.lease_to is None and new.status == "queued":
            return None
        writes = [new.id]
        if new.op_id is not None:
            writes.append(f"op {new.op_id}")
        if (key := new.idempotency) is not None:
            writes.append(f"key {(key.principal, key.route, key.target, key.key)}")
        return Touched(() if new.parent_id is None else (new.parent_id,), tuple(writes))


@dataclass(frozen=True, slots=True)
class LeaseExecution(Operation[Execution | None]):
    """See `Store.lease_execution`."""

    execution_id: str
    owner: str
    until: float


@dataclass(frozen=True, slots=True)
class AcceptExecution(Operation[bool]):
    """See `Store.accept_execution`."""

    execution_id: str
    attempt: int
    epoch: int
    ago: float | None

    def touches(self) -> Touched:
        """Return its execution."""
        return Touched((), (self.execution_id,))


@dataclass(frozen=True, slots=True)
class RenewLeases(Operation[int]):
    """See `Store.renew_leases`."""

    owner: str
    until: float


@dataclass(frozen=True, slots=True)
class RequeueExecution(Operation[bool]):
    """See `Store.requeue_execution`."""

    execution_id: str
    attempt: int
    epoch: int
    entered: bool
    counts: bool
    not_before: float | None
    anew: bool
    events: Sequence[NewEvent]


@dataclass(frozen=True, slots=True)
class RecordProgress(Operation[bool]):
    """See `Store.progress`."""

    execution_id: str
    attempt: int
    epoch: int
    value: Any

    def touches(self) -> Touched:
        """Return its execution."""
        return Touched((), (self.execution_id,))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompleteExecution(Operation[Execution | None]):
    """See `Store.complete_execution`."""

    execution_id: str
    attempt: int | None
    epoch: int | None
    status: ExecutionStatus
    output: Any
    problem: Mapping[str, Any] | None
    input_digest: str | None
    output_digest: str | None
    signature: str | None
    signer: str | None
    statement: str | None
    proof: str | None
    entered: float | None
    events: Sequence[NewEvent]
    known: Execution | None

    def touches(self) -> Touched:
        """Return its execution."""
        return Touched((), (self.execution_id,))


# --- approvals


@dataclass(frozen=True, slots=True)
class SuspendExecution(Operation[Approval | None]):
    """See `Store.suspend_execution`."""

    execution_id: str
    attempt: int
    epoch: int
    key: str
    title: str
    details: Any
    expires: float


@dataclass(frozen=True, slots=True)
class Decide(Operation[Approval | None]):
    """See `Store.decide`."""

    approval_id: str
    status: ApprovalStatus
    by: str | None
    via: str
    note: str | None
    data: Any


# --- sessions and events


@dataclass(frozen=True, slots=True)
class CreateSession(Operation[tuple[SessionRow, bool]]):
    """See `Store.create_session`."""

    session: NewSession
    root: NewExecution
    owner: str
    events: Sequence[NewEvent]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSession(Operation[SessionRow | None]):
    """See `Store.update_session`."""

    session_id: str
    epoch: int
    state: SessionState | None
    end_reason: str | None
    end_detail: str | None
    call_ref: Mapping[str, str] | None
    handler_state: Mapping[str, Any] | None
    handler_epoch: int | None
    turns: int | None
    events: Sequence[NewEvent]


@dataclass(frozen=True, slots=True)
class TakeSession(Operation[SessionRow | None]):
    """See `Store.take_session`."""

    session_id: str
    owner: str


@dataclass(frozen=True, slots=True)
class AppendEvents(Operation[list[EventRow]]):
    """See `Store.append_events`."""

    run_id: str
    events: Sequence[NewEvent]
    session_id: str | None
    epoch: int | None

    def touches(self) -> Touched:
        """Return its session, which it reads."""
        return Touched(() if self.session_id is None else (self.session_id,), ())


@dataclass(frozen=True, slots=True)
class EraseBodies(Operation[int | None]):
    """See `Store.erase_bodies`."""

    run_id: str
    seqs: Sequence[int]


# --- webhooks and nodes


@dataclass(frozen=True, slots=True)
class AddWebhook(Operation[None]):
    """See `Store.add_webhook`."""

    webhook: Webhook


@dataclass(frozen=True, slots=True)
class RemoveWebhook(Operation[bool]):
    """See `Store.remove_webhook`."""

    webhook_id: str


@dataclass(frozen=True, slots=True)
class RecordDelivered(Operation[None]):
    """See `Store.record_delivered`."""

    delivery_id: str
    answer: str


@dataclass(frozen=True, slots=True)
class RecordNotDelivered(Operation[None]):
    """See `Store.record_not_delivered`."""

    delivery_id: str
    answer: str
    not_before: float | None


@dataclass(frozen=True, slots=True)
class Redrive(Operation[int]):
    """See `Store.redrive`."""

    webhook_id: str


@dataclass(frozen=True, slots=True)
class RememberNode(Operation[None]):
    """See `Store.remember_node`."""

    node_id: str
    declared: Mapping[str, Any]


# --- keys and tokens


@dataclass(frozen=True, slots=True)
class FindSessionForKey(Operation[str | None]):
    """See `Store.session_for_key`; it deletes an expired key."""

    key: IdempotencyKey


@dataclass(frozen=True, slots=True)
class SaveResponse(Operation[Mapping[str, Any] | None]):
    """See `Store.save_response`."""

    key: IdempotencyKey
    response: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class ReleaseKey(Operation[None]):
    """See `Store.release_key`."""

    key: IdempotencyKey


@dataclass(frozen=True, slots=True)
class PutToken(Operation[None]):
    """See `Store.put_token`."""

    digest: bytes
    session_id: str
    kind: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class UseToken(Operation[TokenRow | None]):
    """See `Store.use_token`."""

    digest: bytes
    kind: str
    now: float
    once: bool


@dataclass(frozen=True, slots=True)
class DropTokens(Operation[None]):
    """See `Store.drop_tokens`."""

    session_id: str


# --- maintenance


@dataclass(frozen=True, slots=True)
class PurgeKeys(Operation[None]):
    """Delete expired keys and tokens, and keys whose first call can never finish: those of an earlier process."""


@dataclass(frozen=True, slots=True)
class MarkPruned(Operation[bool]):
    """Mark a run as pruned if it still qualifies, see `Store.prune_run`."""

    run: PrunedRun
    before: float


@dataclass(frozen=True, slots=True)
class DeleteRows(Operation[int]):
    """Delete a part of a pruned run, see `Store.prune_run`."""

    run_id: str
    rows: int


@dataclass(frozen=True, slots=True)
class Vacuum(Operation[None]):
    """Return free pages to the disk, see `Store.compact`."""

    pages: int
