"""The writes of a store as frozen values: what an operation means, and what it touches.

`Store` has a method for each of them, which describes it. A commit runs the operations that were submitted to it as if one after
the other, in the order of submission. `plan` divides them into groups that may be executed together; how a group becomes SQL is
decided by the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

from msgspec import Struct

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
    TokenRights,
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
    "Then",
    "Touched",
    "UpdateSession",
    "UseToken",
    "Vacuum",
    "plan",
    "settling",
]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Touched(NamedTuple):
    """Names of what an operation depends on or changes: executions, `op_id`s, idempotency keys, sessions."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]


class Then(Protocol[T_contra]):
    """What follows a write: called on the event loop once it is committed or has failed."""

    def __call__(self, result: T_contra | None, error: BaseException | None, /) -> None:
        """Take the result, or None and the error."""


def settling(future: asyncio.Future[T]) -> Then[T]:
    """Return what settles a future, unless its caller has given up."""

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(cast("T", result))
        else:
            future.set_exception(error)

    return settle


class Operation(Struct, Generic[T], frozen=True):
    """A write whose result is a `T`."""

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


class CreateExecution(Operation[tuple[Execution, bool]], frozen=True):
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


class LeaseExecution(Operation[Execution | None], frozen=True):
    """See `Store.lease_execution`."""

    execution_id: str
    owner: str
    until: float


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
        """Return its execution."""
        return Touched((), (self.execution_id,))


# --- approvals


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


# --- sessions and events


class CreateSession(Operation[tuple[SessionRow, bool]], frozen=True):
    """See `Store.create_session`."""

    session: NewSession
    root: NewExecution
    owner: str
    events: Sequence[NewEvent]


class UpdateSession(Operation[SessionRow | None], frozen=True, kw_only=True):
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


class TakeSession(Operation[SessionRow | None], frozen=True):
    """See `Store.take_session`."""

    session_id: str
    owner: str


class AppendEvents(Operation[list[EventRow]], frozen=True):
    """See `Store.append_events`."""

    run_id: str
    events: Sequence[NewEvent]
    session_id: str | None
    epoch: int | None

    def touches(self) -> Touched:
        """Return its session, which it reads."""
        return Touched(() if self.session_id is None else (self.session_id,), ())


class EraseBodies(Operation[int | None], frozen=True):
    """See `Store.erase_bodies`."""

    run_id: str
    seqs: Sequence[int]


# --- webhooks and nodes


class AddWebhook(Operation[None], frozen=True):
    """See `Store.add_webhook`."""

    webhook: Webhook


class RemoveWebhook(Operation[bool], frozen=True):
    """See `Store.remove_webhook`."""

    webhook_id: str


class RecordDelivered(Operation[None], frozen=True):
    """See `Store.record_delivered`."""

    delivery_id: str
    answer: str


class RecordNotDelivered(Operation[None], frozen=True):
    """See `Store.record_not_delivered`."""

    delivery_id: str
    answer: str
    not_before: float | None


class Redrive(Operation[int], frozen=True):
    """See `Store.redrive`."""

    webhook_id: str


class RememberNode(Operation[None], frozen=True):
    """See `Store.remember_node`."""

    node_id: str
    declared: Mapping[str, Any]


# --- keys and tokens


class FindSessionForKey(Operation[str | None], frozen=True):
    """See `Store.session_for_key`; it deletes an expired key."""

    key: IdempotencyKey


class SaveResponse(Operation[Mapping[str, Any] | None], frozen=True):
    """See `Store.save_response`."""

    key: IdempotencyKey
    response: Mapping[str, Any] | None


class ReleaseKey(Operation[None], frozen=True):
    """See `Store.release_key`."""

    key: IdempotencyKey


class PutToken(Operation[None], frozen=True):
    """See `Store.put_token`."""

    digest: bytes
    session_id: str
    kind: str
    expires_at: float
    rights: TokenRights = "caller"
    details: bool = False


class UseToken(Operation[TokenRow | None], frozen=True):
    """See `Store.use_token`."""

    digest: bytes
    kind: str
    now: float
    once: bool


class DropTokens(Operation[None], frozen=True):
    """See `Store.drop_tokens`."""

    session_id: str


# --- maintenance


class PurgeKeys(Operation[None], frozen=True):
    """Delete expired keys and tokens, and keys whose first call can never finish: those of an earlier process."""


class MarkPruned(Operation[bool], frozen=True):
    """Mark a run as pruned if it still qualifies, see `Store.prune_run`."""

    run: PrunedRun
    before: float


class DeleteRows(Operation[int], frozen=True):
    """Delete a part of a pruned run, see `Store.prune_run`."""

    run_id: str
    rows: int


class Vacuum(Operation[None], frozen=True):
    """Return free pages to the disk, see `Store.compact`."""

    pages: int
