"""What every store must do. A call that returns has committed; events are numbered in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from agentfield.wire.rest import ApprovalStatus, DeliveryStatus, ExecutionStatus, SessionState
from agentfield_server.store.records import (
    Approval,
    Delivery,
    EndedRuns,
    EventRow,
    Execution,
    IdempotencyKey,
    NewEvent,
    NewExecution,
    NewSession,
    PrunedRun,
    SessionRow,
    StoreStats,
    TokenRow,
    Webhook,
)

__all__ = ["Store"]


class Store(Protocol):
    """Rows, their events and nothing else: no policy, no dispatch.

    All methods may be called from the event loop; writes are grouped into commits without lingering.
    A method that returns one execution returns all of it. One that returns a list leaves out large inputs and outputs, and
    says how large they are (`Execution.left_out`): no list reads them.
    """

    async def open(self) -> None:
        """Open, lock and migrate.

        Raises:
            Unavailable: Another process holds the store, or its schema is newer than this program.
        """

    async def close(self) -> None:
        """Finish what was submitted and close; idempotent."""

    # --- executions

    async def create_execution(
        self,
        new: NewExecution,
        *,
        lease_to: str | None = None,
        lease_until: float | None = None,
        room: int | None = None,
    ) -> tuple[Execution, bool]:
        """Create an execution (and its run when it is the first), with the event `execution.created`.

        With `lease_to` it is leased in the insert: status `running`, attempt 1, not yet accepted.
        Returns the execution and whether it is new; a known `op_id` or idempotency key returns the first one.
        With `room`, no more than so many may wait for the node; of what belongs to a session, twice as many.

        Raises:
            InvalidInput: The idempotency key was used with another body (code `idempotency_mismatch`), or the parent
                does not exist or belongs to another run (code `foreign_parent`).
            LimitExceeded: There is no room in the queue (code `queue_full`).
        """

    async def lease_execution(self, execution_id: str, *, owner: str, until: float) -> Execution | None:
        """Lease a queued execution: attempt and epoch rise, status `running`; None when it is not queued any more."""

    async def accept_execution(self, execution_id: str, *, attempt: int, epoch: int) -> bool:
        """Record that the function was entered (event `execution.started`); False when the attempt is not current."""

    async def renew_leases(self, owner: str, *, until: float) -> int:
        """Extend all leases of a node instance; returns how many."""

    async def requeue_execution(
        self,
        execution_id: str,
        *,
        attempt: int,
        epoch: int,
        entered: bool = True,
        not_before: float | None = None,
        anew: bool = False,
        events: Sequence[NewEvent] = (),
    ) -> bool:
        """Put a leased execution back into the queue, with `events`; False when the attempt is not current.

        With `entered` false it is not put back either when the function was entered meanwhile.
        With `anew` the next attempt begins another lineage: it does not go on where this one stopped.
        """

    async def progress(self, execution_id: str, *, attempt: int, epoch: int, value: Any) -> bool:
        """Record how far a run has come, with the event `execution.progress`; False when the attempt is not current."""

    async def complete_execution(
        self,
        execution_id: str,
        *,
        attempt: int | None,
        epoch: int | None = None,
        status: ExecutionStatus,
        output: Any = None,
        problem: Mapping[str, Any] | None = None,
        input_digest: str | None = None,
        output_digest: str | None = None,
        signature: str | None = None,
        signer: str | None = None,
        entered: float | None = None,
        events: Sequence[NewEvent] = (),
    ) -> Execution | None:
        """Close an execution that is open, in that attempt (None: any), with the event `execution.ended`.

        Returns the closed execution, None when nothing changed (closed before, or another attempt is current); then
        no event is written either. `entered` says that the function was entered so many seconds ago, as `accept_execution`
        does: a function that is quickly done is recorded once. `events` are appended after `execution.ended`.
        """

    async def get_execution(self, execution_id: str) -> Execution | None:
        """Return an execution."""

    async def execution_of(self, op_id: str) -> Execution | None:
        """Return the execution that an operation made."""

    async def get_executions(self, execution_ids: Sequence[str]) -> list[Execution]:
        """Return those of these executions that there are, in no order."""

    async def list_executions(self, run_id: str, *, after: str | None = None, limit: int = 200) -> list[Execution]:
        """Return executions of a run in the order they were created; `after` is the id of the last one seen."""

    async def open_executions(
        self, *, session_id: str | None = None, lease_owner: str | None = None, run_id: str | None = None
    ) -> list[Execution]:
        """Return executions that are not in a final state, oldest first; each filter narrows them."""

    async def queued_executions(
        self, node_id: str, *, now: float, limit: int, without: Sequence[str] = ()
    ) -> list[Execution]:
        """Return executions of a node that wait for a lease and may start now, without those of some targets.

        By priority; of equal priority each share in turn (`NewExecution.share`), within a share the oldest first.
        """

    async def next_start(self, node_id: str, *, after: float) -> float | None:
        """Return when the next execution of a node that waits for its time may start, None when none does."""

    # --- approvals

    async def park_execution(
        self, execution_id: str, *, attempt: int, epoch: int, key: str, title: str, details: Any, expires: float
    ) -> Approval | None:
        """Let a leased execution wait for a decision: status `waiting`, no lease, its deadline stands still.

        With the event `approval.requested`. None when the attempt is not current.
        """

    async def decide(
        self,
        approval_id: str,
        *,
        status: ApprovalStatus,
        by: str | None,
        via: str,
        note: str | None = None,
        data: Any = None,
    ) -> Approval | None:
        """Decide about a pending approval and queue its execution again, with the event `approval.decided`.

        None when there is nothing to decide: it is decided, or there is none.
        """

    async def get_approval(self, approval_id: str) -> Approval | None:
        """Return an approval."""

    async def list_approvals(
        self,
        *,
        status: ApprovalStatus | None = None,
        execution_id: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[Approval]:
        """Return approvals, newest first; each filter narrows them, `before` is the id of the last one seen."""

    # --- webhooks: each recorded event is on its way to whoever wants to be told, from its own transaction on

    async def add_webhook(self, webhook: Webhook) -> None:
        """Keep a webhook; it is told of what is recorded from then on."""

    async def remove_webhook(self, webhook_id: str) -> bool:
        """Forget a webhook and everything on its way to it; False when there is none."""

    async def list_webhooks(self) -> list[Webhook]:
        """Return the webhooks, oldest first."""

    async def due_deliveries(self, *, now: float, limit: int) -> list[tuple[Delivery, Webhook, EventRow]]:
        """Return what is to be sent now, longest due first."""

    async def next_delivery(self) -> float | None:
        """Return when the next delivery is due, None when nothing is on its way."""

    async def delivered(self, delivery_id: str, answer: str) -> None:
        """A delivery arrived."""

    async def not_delivered(self, delivery_id: str, answer: str, *, not_before: float | None) -> None:
        """An attempt failed; the next one is not before then, and with None there is none: the delivery is dead."""

    async def redrive(self, webhook_id: str) -> int:
        """Try the dead deliveries of a webhook again, from the beginning; returns how many there were."""

    async def list_deliveries(
        self, webhook_id: str, *, status: DeliveryStatus | None = None, before: str | None = None, limit: int = 100
    ) -> list[Delivery]:
        """Return deliveries of a webhook, newest first; `before` is the id of the last one seen."""

    # --- sessions

    async def create_session(
        self, session: NewSession, root: NewExecution, *, owner: str, events: Sequence[NewEvent] = ()
    ) -> tuple[SessionRow, bool]:
        """Create a session, its run and its root execution in one transaction; as `create_execution` for repeated keys.

        `events` are recorded first, before `execution.created` of the root.
        """

    async def update_session(
        self,
        session_id: str,
        *,
        epoch: int,
        state: SessionState | None = None,
        end_reason: str | None = None,
        end_detail: str | None = None,
        call_ref: Mapping[str, str] | None = None,
        handler_state: Mapping[str, Any] | None = None,
        handler_epoch: int | None = None,
        turns: int | None = None,
        events: Sequence[NewEvent] = (),
    ) -> SessionRow | None:
        """Change a session that this epoch still owns, with its events; None when it is owned by a later one.

        `live_at` and `ended_at` follow the state; a reason once set is never changed.
        """

    async def take_session(self, session_id: str, *, owner: str) -> SessionRow | None:
        """Raise the epoch and own the session; None when it has ended or does not exist."""

    async def get_session(self, session_id: str) -> SessionRow | None:
        """Return a session."""

    async def session_of(self, key: IdempotencyKey) -> SessionRow | None:
        """Return the session that an earlier `create_session` with a key created.

        Raises:
            InvalidInput: The key was used with another body (code `idempotency_mismatch`).
        """

    async def list_sessions(
        self, *, state: SessionState | None = None, before: str | None = None, limit: int = 100
    ) -> list[SessionRow]:
        """Return sessions, newest first."""

    async def unfinished_sessions(self) -> list[SessionRow]:
        """Return all sessions that have not ended."""

    # --- events

    async def append_events(
        self, run_id: str, events: Sequence[NewEvent], *, session_id: str | None = None, epoch: int | None = None
    ) -> list[EventRow]:
        """Append to the log of a run; with `epoch` only when the session is still owned by it (else returns [])."""

    async def read_events(self, run_id: str, *, after: int = 0, limit: int = 500) -> list[EventRow]:
        """Return recorded events with a larger `seq`, in order."""

    async def history(self, run_id: str, execution_ids: Sequence[str]) -> list[EventRow]:
        """Return what happened to executions of a run on the way, in order: further attempts, questions and decisions."""

    async def last_event(self, run_id: str, kind: str) -> EventRow | None:
        """Return the newest event of a type."""

    # --- tokens

    async def put_token(self, digest: bytes, *, session_id: str, kind: str, expires_at: float) -> None:
        """Remember a token by its digest."""

    async def use_token(self, digest: bytes, *, kind: str, now: float, once: bool = False) -> TokenRow | None:
        """Count a use and return the token; None when it is unknown, expired, or `once` and used before."""

    async def drop_tokens(self, session_id: str) -> None:
        """Forget all tokens of a session."""

    # --- nodes

    async def remember_node(self, node_id: str, declared: Mapping[str, Any]) -> None:
        """Remember what a node that linked declares, in place of what it declared before."""

    async def known_nodes(self) -> dict[str, Mapping[str, Any]]:
        """Return what the nodes declared that linked within the last 30 days, by node id."""

    # --- upkeep

    async def stats(self) -> StoreStats:
        """Return how large the store is and what is in it."""

    async def ended_runs(self, *, before: float, after: str = "") -> EndedRuns:
        """Return runs that may be pruned: ended, nothing of theirs on its way, last heard of before then.

        The last day is never among them. `after` is the `next` of the page before.
        """

    async def prune_run(self, run_id: str, *, before: float, rows: int = 500) -> int | None:
        """Take away up to so many rows of a run in one short transaction; returns how many, 0 when none is left.

        With the first call the run is recorded as pruned: its graph, its log and its session are gone for readers, and
        nothing is added to it any more. None when it may not be pruned.
        """

    async def pruned_run(self, run_id: str) -> PrunedRun | None:
        """Return what is known of a run that was pruned, None of any other."""

    async def compact(self, *, pages: int = 1000) -> int:
        """Give up to so many free pages back to the disk, in one short transaction; returns how many are left."""

    # --- idempotency of routes that create no execution

    async def remember(self, key: IdempotencyKey, *, response: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Claim a key (response None) or store its response; returns the stored response of an earlier call.

        Raises:
            InvalidInput: The key was used with another body (code `idempotency_mismatch`).
            Conflict: The first call is still under way (code `in_flight`).
        """

    async def forget(self, key: IdempotencyKey) -> None:
        """Free a key whose first call failed before it did anything, so that it may be tried again."""
