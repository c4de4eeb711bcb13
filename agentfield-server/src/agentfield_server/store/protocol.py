"""The contract of every store. A method that returns has committed; events are numbered in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from agentfield.wire.rest import ApprovalStatus, DeliveryStatus, ExecutionStatus, SessionState
from agentfield_server.store.identities import IdentityStore
from agentfield_server.store.operations import Operation, Then
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
    TokenRights,
    TokenRow,
    Webhook,
)

__all__ = ["Store"]

T = TypeVar("T")


class Store(IdentityStore, Protocol):
    """Rows, their events and nothing else: no policy, no dispatch.

    All methods are called from the event loop; writes that are queued share a commit, and no commit waits for more writes.
    A method that returns one execution returns all of it. One that returns a list omits large inputs and outputs and gives
    their sizes (`Execution.left_out`), and omits statement and proof, so that no list reads them.
    """

    async def open(self) -> None:
        """Open, lock and migrate.

        Raises:
            Unavailable: Another process holds the store, or its schema is newer than this program.
        """

    async def close(self) -> None:
        """Finish submitted writes and close; idempotent."""

    def post(self, operation: Operation[T], then: Then[T]) -> None:
        """Submit a write without waiting for it; submitted writes take effect in the order of submission.

        Args:
            operation: The write; each has a method here that describes it.
            then: Called once on the event loop, after this method returned: with the result after the commit, or with the
                error, see the method; `LimitExceeded` (code `store_busy`) when the queue of writes stayed full for 10 s.
        """

    # --- executions

    async def create_execution(
        self,
        new: NewExecution,
        *,
        lease_to: str | None = None,
        lease_until: float | None = None,
        max_queued: int | None = None,
    ) -> tuple[Execution, bool]:
        """Create an execution, and its run if this is the first one, with the event `execution.created`.

        With `lease_to` it is leased in the insert: status `running`, attempt 1, not yet accepted.
        Returns the execution and whether it is new; a known `op_id` or idempotency key returns the first execution.
        `max_queued` limits the queue of the node; executions of live sessions may use twice the limit.

        Raises:
            InvalidInput: The idempotency key was used with another body (code `idempotency_mismatch`), or the parent
                does not exist or belongs to another run (code `foreign_parent`).
            LimitExceeded: The queue of the node is full (code `queue_full`).
        """

    async def lease_execution(self, execution_id: str, *, owner: str, until: float) -> Execution | None:
        """Lease a queued execution: attempt and epoch rise, status `running`, a new `output_salt`; None when it is not queued."""

    async def accept_execution(self, execution_id: str, *, attempt: int, epoch: int, ago: float | None = None) -> bool:
        """Record that the function was entered (event `execution.started`); False when the attempt is not current.

        `ago` says how many seconds ago, None for now.
        """

    async def renew_leases(self, owner: str, *, until: float) -> int:
        """Extend all leases of a node instance; return how many."""

    async def requeue_execution(
        self,
        execution_id: str,
        *,
        attempt: int,
        epoch: int,
        entered: bool = True,
        counts: bool = False,
        not_before: float | None = None,
        anew: bool = False,
        events: Sequence[NewEvent] = (),
    ) -> bool:
        """Put a leased execution back into the queue, with `events`; False when the attempt is not current.

        With `entered` false, an execution whose function was entered meanwhile is not put back either.
        An attempt whose entry is not recorded is not counted, unless `counts`: it may have been entered.
        With `anew` the next attempt begins a new lineage: it does not resume where this one stopped.
        """

    async def progress(self, execution_id: str, *, attempt: int, epoch: int, value: Any) -> bool:
        """Record the progress of an attempt, with the event `execution.progress`; False when the attempt is not current."""

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
        statement: str | None = None,
        proof: str | None = None,
        entered: float | None = None,
        events: Sequence[NewEvent] = (),
        known: Execution | None = None,
    ) -> Execution | None:
        """Close an open execution if that attempt is current (None: any), with the event `execution.ended`.

        Returns the closed execution, or None when nothing changed (closed already, or another attempt is current); then
        no event is written either. `entered` also records, as `accept_execution` does, that the function was entered so
        many seconds ago: a short function takes one write. `events` are appended after `execution.ended`. `known` is the
        execution as the caller has it since its lease: then the closed one is made from it instead of being read back.
        """

    async def get_execution(self, execution_id: str) -> Execution | None:
        """Return an execution."""

    async def execution_for_op(self, op_id: str) -> Execution | None:
        """Return the execution that was created with an operation id."""

    async def get_executions(self, execution_ids: Sequence[str]) -> list[Execution]:
        """Return the existing ones of these executions, in no order."""

    async def list_executions(self, run_id: str, *, after: str | None = None, limit: int = 200) -> list[Execution]:
        """Return executions of a run in the order of creation; `after` is the id of the last one seen."""

    async def open_executions(
        self, *, session_id: str | None = None, lease_owner: str | None = None, run_id: str | None = None
    ) -> list[Execution]:
        """Return executions that are not in a final state, oldest first; each filter narrows them."""

    async def count_turns(self, run_id: str) -> dict[str, int]:
        """Return how many turns of a run have each status."""

    async def queued_executions(
        self, node_id: str, *, now: float, limit: int, without: Sequence[str] = ()
    ) -> list[Execution]:
        """Return queued executions of a node that may start now, except those of the targets in `without`.

        Sorted by priority; at equal priority the shares take turns (`NewExecution.share`), oldest first within a share.
        """

    async def next_start(self, node_id: str, *, after: float) -> float | None:
        """Return when the next delayed execution of a node may start, None when there is none."""

    # --- approvals

    async def suspend_execution(
        self, execution_id: str, *, attempt: int, epoch: int, key: str, title: str, details: Any, expires: float
    ) -> Approval | None:
        """Suspend a leased execution for a decision: status `waiting`, no lease, and its deadline does not run.

        Writes the event `approval.requested`. Returns None when the attempt is not current.
        """

    async def decide(
        self,
        approval_id: str,
        *,
        status: ApprovalStatus,
        principal: str | None,
        own: bool = False,
        by: str | None,
        via: str,
        note: str | None = None,
        data: Any = None,
    ) -> Approval | None:
        """Decide a pending approval and queue its execution again, with the event `approval.decided`.

        `own` records that the principal belongs to the chain of the execution, as only development mode lets it.

        Returns None when the approval is not pending or does not exist.
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

    # --- webhooks: the transaction that records an event also creates its deliveries

    async def add_webhook(self, webhook: Webhook) -> None:
        """Add a webhook; it gets the events that are recorded from then on."""

    async def remove_webhook(self, webhook_id: str) -> bool:
        """Delete a webhook and its deliveries; False when it does not exist."""

    async def list_webhooks(self) -> list[Webhook]:
        """Return the webhooks, oldest first."""

    async def due_deliveries(self, *, now: float, limit: int) -> list[tuple[Delivery, Webhook, EventRow]]:
        """Return due deliveries with their webhook and event, longest due first."""

    async def next_delivery(self) -> float | None:
        """Return when the next delivery is due, None when none is pending."""

    async def record_delivered(self, delivery_id: str, answer: str) -> None:
        """Record that a delivery arrived, with the answer of the receiver."""

    async def record_not_delivered(self, delivery_id: str, answer: str, *, not_before: float | None) -> None:
        """Record a failed attempt; the next one is not before `not_before`, None makes the delivery dead."""

    async def redrive(self, webhook_id: str) -> int:
        """Queue the dead deliveries of a webhook again with all attempts; return how many."""

    async def list_deliveries(
        self, webhook_id: str, *, status: DeliveryStatus | None = None, before: str | None = None, limit: int = 100
    ) -> list[Delivery]:
        """Return deliveries of a webhook, newest first; `before` is the id of the last one seen."""

    # --- sessions

    async def create_session(
        self, session: NewSession, root: NewExecution, *, owner: str, events: Sequence[NewEvent] = ()
    ) -> tuple[SessionRow, bool]:
        """Create a session, its run and its root execution in one transaction; a repeated key returns the first session.

        `events` are recorded before `execution.created` of the root.
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
        """Change a session if `epoch` still owns it, with events; None when a later epoch owns it.

        `live_at` and `ended_at` follow the state; an end reason never changes once it is set.
        """

    async def take_session(self, session_id: str, *, owner: str) -> SessionRow | None:
        """Take over a session by raising its epoch; None when it has ended or does not exist."""

    async def get_session(self, session_id: str) -> SessionRow | None:
        """Return a session."""

    async def session_for_key(self, key: IdempotencyKey) -> SessionRow | None:
        """Return the session that `create_session` created with this key, if any.

        Raises:
            InvalidInput: The key was used with another body (code `idempotency_mismatch`).
        """

    async def list_sessions(
        self,
        *,
        state: SessionState | None = None,
        principal: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[SessionRow]:
        """Return sessions, newest first; with `principal`, only those that it started."""

    async def unfinished_sessions(self) -> list[SessionRow]:
        """Return all sessions that have not ended."""

    # --- events

    async def append_events(
        self, run_id: str, events: Sequence[NewEvent], *, session_id: str | None = None, epoch: int | None = None
    ) -> list[EventRow]:
        """Append to the log of a run; with `epoch` only if that epoch still owns the session, else return []."""

    async def read_events(self, run_id: str, *, after: int = 0, limit: int = 500) -> list[EventRow]:
        """Return recorded events with a larger `seq`, in order."""

    async def history(self, run_id: str, execution_ids: Sequence[str]) -> list[EventRow]:
        """Return the events between start and end of executions of a run, in order: retries, returns, approval requests and decisions."""

    async def erase_bodies(self, run_id: str, seqs: Sequence[int]) -> int | None:
        """Erase bodies and salts of events; return how many there were. Entries and leaves stay, so the log stays verifiable.

        Returns None when the run has format 1, whose entries hold their bodies.

        Raises:
            NotFound: The run does not exist or was pruned (code `unknown_run`).
        """

    async def last_event(self, run_id: str, kind: str) -> EventRow | None:
        """Return the newest event of a type."""

    # --- tokens

    async def put_token(
        self,
        digest: bytes,
        *,
        session_id: str,
        kind: str,
        expires_at: float,
        rights: TokenRights = "caller",
        details: bool = False,
    ) -> None:
        """Store a token by its digest; it must be used before `expires_at`."""

    async def use_token(self, digest: bytes, *, kind: str, now: float, once: bool = False) -> TokenRow | None:
        """Count a use and return the token; None when it is unknown, expired, or `once` and used before."""

    async def drop_tokens(self, session_id: str) -> None:
        """Delete all tokens of a session."""

    # --- nodes

    async def remember_node(self, node_id: str, declared: Mapping[str, Any]) -> None:
        """Store the declarations of a linked node, replacing earlier ones."""

    async def known_nodes(self) -> dict[str, Mapping[str, Any]]:
        """Return the declarations of nodes that linked within the last 30 days, by node id."""

    # --- maintenance

    async def stats(self) -> StoreStats:
        """Return the size of the store and the number of its rows."""

    async def ended_runs(self, *, before: float, after: str = "") -> EndedRuns:
        """Return runs that may be pruned: ended, no delivery pending, and last event before `before`.

        Runs of the last day are never among them. `after` is the `next` of the previous page.
        """

    async def prune_run(self, run_id: str, *, before: float, rows: int = 500) -> int | None:
        """Delete up to `rows` rows of a run in one short transaction; return how many, 0 when none is left.

        The first call marks the run as pruned: readers no longer see its executions, log and session, and nothing is
        added to it any more. Returns None when it may not be pruned.
        """

    async def pruned_run(self, run_id: str) -> PrunedRun | None:
        """Return the record of a pruned run, None for any other run."""

    async def compact(self, *, pages: int = 1000) -> int:
        """Return up to `pages` free pages to the disk in one short transaction; return how many are left."""

    # --- idempotency of routes that create no execution

    async def save_response(
        self, key: IdempotencyKey, *, response: Mapping[str, Any] | None
    ) -> Mapping[str, Any] | None:
        """Claim a key (response None) or store its response; returns the stored response of an earlier call.

        Raises:
            InvalidInput: The key was used with another body (code `idempotency_mismatch`).
            Conflict: The first call is still under way (code `in_flight`).
        """

    async def release_key(self, key: IdempotencyKey) -> None:
        """Release a key whose first call failed without effect, so that it may be used again."""
