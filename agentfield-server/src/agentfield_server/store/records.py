"""The rows of the store, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentfield.wire.rest import ApprovalStatus, DeliveryStatus, ExecutionKind, ExecutionStatus, SessionState

__all__ = [
    "LIVE",
    "Approval",
    "Delivery",
    "EndedRun",
    "EndedRuns",
    "EventRow",
    "Execution",
    "IdempotencyKey",
    "NewEvent",
    "NewExecution",
    "NewSession",
    "PrunedRun",
    "SessionRow",
    "StoreStats",
    "TokenRow",
    "Webhook",
]


LIVE = 100
"""Priority of what a live call waits for; calls over REST may ask for less than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """Something to be recorded in the log of a run, in the transaction of the change that it tells of."""

    type: str
    body: Mapping[str, Any] = field(default_factory=dict)
    execution_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """A recorded event: gap-free `seq` per run, canonical bytes (RFC 8785) and their leaf digest, never changed."""

    run_id: str
    seq: int
    id: str
    type: str
    at: float
    execution_id: str | None
    session_id: str | None
    canonical: bytes
    """The whole event as RFC 8785 JSON: what is served, and what `leaf` is the digest of."""
    leaf: bytes
    """SHA-256 of 0x00 and the canonical bytes (RFC 9162 §2.1.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyKey:
    """Who asked for what under which key; the digest is of the canonical request."""

    principal: str
    route: str
    target: str
    key: str
    body_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class NewExecution:
    """An execution to be created."""

    id: str
    run_id: str
    kind: ExecutionKind
    target: str
    input: Any
    parent_id: str | None = None
    session_id: str | None = None
    actor_id: str | None = None
    status: ExecutionStatus = "queued"
    """`queued` is dispatched by the engine; sessions and turns begin `running` and are closed by the session."""
    max_attempts: int = 1
    priority: int = 0
    """Higher goes first; what belongs to a session is never below `LIVE`."""
    share: str | None = None
    """Among whom a node's room is shared evenly: a session, a principal; by default the parent's."""
    backoff: float = 0.5
    """Seconds before the second attempt."""
    delay: float = 0.0
    """Seconds from creation before which it does not start."""
    timeout: float | None = None
    """Seconds from when it may start to the deadline."""
    op_id: str | None = None
    """Minted by the caller, unique in the store: a second one returns the first execution."""
    idempotency: IdempotencyKey | None = None
    input_digest: str | None = None
    """`agentfield.identity.digest(input)`, where a result is to be compared with it."""
    traceparent: str | None = None
    """Where whoever called is in a trace of their own, checked by `read_traceparent`; recorded, never trusted."""
    events: tuple[NewEvent, ...] = ()
    """Recorded with it, after `execution.created`; not when it is a repetition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """An execution as stored. Times are seconds since the epoch."""

    id: str
    run_id: str
    kind: ExecutionKind
    target: str
    status: ExecutionStatus
    input: Any
    output: Any
    problem: Mapping[str, Any] | None
    parent_id: str | None
    session_id: str | None
    actor_id: str | None
    attempt: int
    max_attempts: int
    priority: int
    backoff: float
    lineage: int
    """Attempts of one lineage go on where the one before stopped; one after a failure begins another."""
    pauses: int
    """How often it was parked for a decision."""
    progress: Any
    """The newest word of the run that is under way, or was."""
    lease_owner: str | None
    """The node instance that holds it."""
    lease_epoch: int
    lease_until: float | None
    accepted: bool
    """Whether the node said that it entered the function in this attempt."""
    not_before: float | None
    deadline: float | None
    input_digest: str | None
    output_digest: str | None
    signature: str | None
    signer: str | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Where it stands in a list: which of `input` and `output` are too large for one, and how large in bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A decision that an execution waits for, or went on with."""

    id: str
    execution_id: str
    key: str
    """Its name within the execution."""
    run_id: str
    session_id: str | None
    target: str
    title: str
    details: Any
    status: ApprovalStatus
    decided_by: str | None
    via: str | None
    """How the decision came: `rest`, `webhook`, or `time` when nobody decided."""
    note: str | None
    data: Any
    created_at: float
    expires_at: float
    decided_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Somebody who is told of events."""

    id: str
    url: str
    events: tuple[str, ...]
    """Types of events, with ``*`` for any part of one."""
    secret: str
    """Signs what is sent; shown once, when the webhook is made."""
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An event on its way to a webhook."""

    id: str
    """Stable over all attempts: the receiver knows a repetition by it."""
    webhook_id: str
    run_id: str
    seq: int
    type: str
    status: DeliveryStatus
    attempts: int
    not_before: float
    answer: str | None
    """What came of the last attempt."""
    created_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSession:
    """A session to be created, together with its root execution."""

    id: str
    run_id: str
    target: str
    node_id: str
    caller: str | None
    metadata: Mapping[str, Any]
    config: Mapping[str, Any]
    """`agentfield.realtime.config.SessionConfig` as JSON: frozen from here on."""
    declaration_hash: str
    principal: str
    idempotency: IdempotencyKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """A session as stored."""

    id: str
    run_id: str
    root_id: str
    target: str
    node_id: str
    caller: str | None
    metadata: Mapping[str, Any]
    config: Mapping[str, Any]
    declaration_hash: str
    principal: str
    state: SessionState
    end_reason: str | None
    end_detail: str | None
    call_ref: Mapping[str, str] | None
    """How to find the call at the provider again; never leaves the server."""
    handler_state: Mapping[str, Any]
    owner: str | None
    """The control-plane process that drives it."""
    epoch: int
    """Raised by each takeover; every write of a runtime is conditional on it."""
    handler_epoch: int
    turns: int
    created_at: float
    live_at: float | None
    ended_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """How large a store is and what is in it."""

    bytes: int
    free_bytes: int
    """Of those, what is free: used again, or given back by compaction."""
    log_bytes: int
    """What the write-ahead log takes besides."""
    runs: int
    pruned_runs: int
    """Runs of which only a record is left."""
    executions: int
    open_executions: int
    sessions: int
    events: int
    approvals: int
    deliveries: int
    payloads: int
    """Large inputs and outputs that are kept apart."""
    oldest_run_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRun:
    """A run that may be pruned."""

    run_id: str
    events: int
    executions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRuns:
    """A page of them."""

    runs: tuple[EndedRun, ...]
    next: str | None
    """Continues, also when this page is empty; None at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedRun:
    """What stays of a run that was pruned: enough to check an exported log of it against."""

    run_id: str
    events: int
    """How many events it had, numbered from 1."""
    last_leaf: bytes
    """The leaf digest of the last one."""
    root: bytes
    """The root of the tree over all leaf digests (RFC 9162 §2.1.1)."""
    pruned_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """A browser token or one-time code; only the SHA-256 digest is stored."""

    digest: bytes
    session_id: str
    kind: str
    """`code` (exchanged once for a token) or `token`."""
    expires_at: float
    used: int
    """How often it was used."""
