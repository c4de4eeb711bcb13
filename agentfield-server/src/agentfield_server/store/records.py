"""Records of the store: frozen values that `Store` takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct, field

from agentfield.identity import event_frame_of, new_salt
from agentfield.wire.rest import ApprovalStatus, DeliveryStatus, ExecutionKind, ExecutionStatus, SessionState

__all__ = [
    "LIVE_PRIORITY",
    "Approval",
    "Delivery",
    "EndedRun",
    "EndedRuns",
    "EventRow",
    "Execution",
    "IdempotencyKey",
    "LinkVerdict",
    "LinkedInstance",
    "NewEvent",
    "NewExecution",
    "NewSession",
    "NodeDid",
    "PrunedRun",
    "SessionRow",
    "StoreStats",
    "TokenCount",
    "TokenRights",
    "TokenRow",
    "TokenVerdict",
    "Webhook",
]


LIVE_PRIORITY = 100
"""Priority of executions that a live session waits for; calls over REST may ask for less."""


class NewEvent(Struct, frozen=True, kw_only=True):
    """An event to be appended to the log of a run, in the transaction of the change that it records."""

    type: str
    body: Mapping[str, Any] = field(default_factory=dict)
    execution_id: str | None = None


class EventRow(Struct, frozen=True, kw_only=True):
    """A recorded event: gap-free `seq` per run; its entry and leaf never change, its body may be erased (format 2)."""

    run_id: str
    seq: int
    id: str
    type: str
    at: float
    execution_id: str | None
    session_id: str | None
    entry: bytes
    """The event as RFC 8785 JSON, the input of `leaf`: with its body in format 1, with a commitment to it in format 2."""
    leaf: bytes
    """SHA-256 of 0x00 and the entry (RFC 9162 §2.1.1)."""
    body: bytes | None
    """The body as RFC 8785 JSON; None in format 1, where the entry has it, and when it was erased."""
    salt: bytes | None
    """The salt of the commitment; None in format 1, and when the body was erased."""

    @property
    def canonical(self) -> bytes:
        """The whole event as RFC 8785 JSON, as it is served; an erased body is empty, and `erased` is true."""
        frame = event_frame_of(self.entry)
        return self.entry if frame is None else frame.shown(self.body)


class IdempotencyKey(Struct, frozen=True, kw_only=True):
    """An idempotency key in its scope."""

    principal: str
    route: str
    target: str
    key: str
    body_digest: bytes
    """Of the canonical request; the store keeps it keyed."""


class NewExecution(Struct, frozen=True, kw_only=True):
    """An execution to be created."""

    id: str
    run_id: str
    kind: ExecutionKind
    target: str
    input: Any
    input_text: str | None = None
    """The input as JSON text, where it is at hand."""
    parent_id: str | None = None
    session_id: str | None = None
    actor_id: str | None = None
    status: ExecutionStatus = "queued"
    """`queued` is dispatched by the engine; sessions and turns begin `running` and are closed by the session."""
    max_attempts: int = 1
    priority: int = 0
    """Higher goes first; executions of a session are never below `LIVE_PRIORITY`."""
    share: str | None = None
    """Fair-queueing share of a node's capacity: a session or a principal; by default the parent's."""
    backoff: float = 0.5
    """Seconds before the second attempt."""
    delay: float = 0.0
    """Seconds after creation before which it does not start."""
    timeout: float | None = None
    """Seconds from the earliest start to the deadline."""
    op_id: str | None = None
    """Operation id chosen by the caller, unique in the store: a repetition returns the first execution."""
    idempotency: IdempotencyKey | None = None
    input_salt: bytes = field(default_factory=new_salt)
    """Salt of the commitment to the input."""
    input_commitment: bytes | None = None
    """That commitment, where it is computed already; not stored."""
    traceparent: str | None = None
    """W3C trace context of an external caller, validated by `parse_traceparent`; recorded, never trusted."""
    principal: str | None = None
    """Who begins the run, where it begins with this execution."""
    access: Mapping[str, Any] | None = None
    """The decision that admitted it: version of the policies and rules; recorded."""
    events: tuple[NewEvent, ...] = ()
    """Appended after `execution.created`; not for a repetition."""


class Execution(Struct, frozen=True, kw_only=True):
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
    """Attempts of one lineage resume where the previous one stopped; an attempt after a failure begins a new lineage."""
    pauses: int
    """How often it was suspended for a decision."""
    progress: Any
    """Newest progress of the current or last attempt."""
    lease_owner: str | None
    """The node instance that holds it."""
    lease_epoch: int
    lease_until: float | None
    accepted: bool
    """Whether the node said that it entered the function in this attempt."""
    not_before: float | None
    deadline: float | None
    input_digest: str | None
    """Digest that a node of protocol 1 signed; None otherwise, since a plain digest would confirm a guess of an erased input."""
    output_digest: str | None
    signature: str | None
    """Signature over this result alone, of a node of protocol 1."""
    signer: str | None
    """DID of the node that signed the result, alone or with others."""
    statement: str | None
    """What the node stated about the result, as canonical JSON (`agentfield.identity.result_statement`)."""
    proof: str | None
    """Proof of the statement as canonical JSON (`agentfield.identity.ResultProof`)."""
    input_salt: bytes | None
    """Opens the commitment to the input in the statement."""
    output_salt: bytes | None
    """Opens the commitment to the output or problem in the statement; new for each attempt."""
    created_at: float
    started_at: float | None
    ended_at: float | None
    left_out: Mapping[str, int] = field(default_factory=dict)
    """In lists: bytes of `input` and `output` where they are omitted because they are large."""


class Approval(Struct, frozen=True, kw_only=True):
    """A decision that an execution waits for or has resumed with."""

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
    principal: str | None
    """Who decided."""
    decided_by: str | None
    """A name that the decision came with; nobody verified it."""
    via: str | None
    """How the decision came: `rest`, `webhook`, or `time` when it expired."""
    note: str | None
    data: Any
    created_at: float
    expires_at: float
    decided_at: float | None


class Webhook(Struct, frozen=True, kw_only=True):
    """A subscriber of events."""

    id: str
    url: str
    events: tuple[str, ...]
    """Patterns of event types; ``*`` matches any part."""
    secret: str
    """Key of the signatures; shown once, when the webhook is created."""
    created_at: float


class Delivery(Struct, frozen=True, kw_only=True):
    """The delivery of an event to a webhook."""

    id: str
    """Stable over all attempts: the receiver recognises a repetition by it."""
    webhook_id: str
    run_id: str
    seq: int
    type: str
    status: DeliveryStatus
    attempts: int
    not_before: float
    answer: str | None
    """Answer of the receiver to the last attempt, or the kind of error."""
    created_at: float
    ended_at: float | None


class NewSession(Struct, frozen=True, kw_only=True):
    """A session to be created together with its root execution."""

    id: str
    run_id: str
    target: str
    node_id: str
    caller: str | None
    metadata: Mapping[str, Any]
    config: Mapping[str, Any]
    """`agentfield.realtime.config.SessionConfig` as JSON; never changes afterwards."""
    declaration_hash: str
    principal: str
    idempotency: IdempotencyKey | None = None


class SessionRow(Struct, frozen=True, kw_only=True):
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
    """Reference of the call at the provider, for reattaching; never leaves the server."""
    handler_state: Mapping[str, Any]
    owner: str | None
    """The control-plane process that drives it."""
    epoch: int
    """Fencing token: raised by each takeover, every write of a session actor is conditional on it."""
    handler_epoch: int
    turns: int
    created_at: float
    live_at: float | None
    ended_at: float | None


class StoreStats(Struct, frozen=True, kw_only=True):
    """Size of a store and number of its rows."""

    bytes: int
    free_bytes: int
    """Free part of `bytes`: reused, or returned to the disk by compaction."""
    log_bytes: int
    """Bytes of the write-ahead log."""
    runs: int
    pruned_runs: int
    """Runs of which only the record of pruning is left."""
    executions: int
    open_executions: int
    sessions: int
    events: int
    approvals: int
    deliveries: int
    payloads: int
    """Large inputs and outputs, stored separately."""
    oldest_run_at: float | None


class EndedRun(Struct, frozen=True, kw_only=True):
    """A run that may be pruned."""

    run_id: str
    events: int
    executions: int


class EndedRuns(Struct, frozen=True, kw_only=True):
    """A page of runs that may be pruned."""

    runs: tuple[EndedRun, ...]
    next: str | None
    """Cursor of the next page, also when this page is empty; None at the end."""


class PrunedRun(Struct, frozen=True, kw_only=True):
    """The record that remains of a pruned run: enough to verify an exported log."""

    run_id: str
    events: int
    """Number of its events, numbered from 1."""
    last_leaf: bytes
    """Leaf digest of the last event."""
    root: bytes
    """Root of the Merkle tree over all leaf digests (RFC 9162 §2.1.1)."""
    pruned_at: float = 0.0


TokenRights = Literal["caller", "watch"]
"""What a browser token may do: make the call, or read its events only."""

TokenCount = Literal["offers", "inputs"]
"""What a request with a browser token may use up."""

TokenVerdict = Literal["ok", "unknown", "foreign_session", "foreign_origin", "not_allowed", "used_up"]
"""What a store decides about a request with a browser token."""


class TokenRow(Struct, frozen=True, kw_only=True):
    """A browser token or one-time code; only the SHA-256 digest is stored."""

    digest: bytes
    session_id: str
    kind: str
    """`code` (exchanged once for a token) or `token`."""
    expires_at: float
    used: int
    """Number of uses of a code; of a token, whether it was used."""
    rights: TokenRights = "caller"
    details: bool = False
    """Whether it shows its session as an operator sees it."""


LinkVerdict = Literal["known", "pinned", "admitted", "unknown_did", "did_revoked", "foreign_instance"]
"""What a store decides about a link; `pinned` is the first DID of a node id, `admitted` a further one."""


class LinkedInstance(Struct, frozen=True):
    """Decision about the link of an instance."""

    verdict: LinkVerdict
    seen: int = 0
    """Place of the instance in the order of first sight; 0 if it may not link."""


class NodeDid(Struct, frozen=True, kw_only=True):
    """A DID of a node id."""

    node_id: str
    did: str
    state: Literal["admitted", "revoked"]
    admitted_by: str
    """Principal that admitted it."""
    admitted_at: float
    linked_at: float | None
    """When it last linked, seconds since the epoch."""
    revoked_at: float | None
