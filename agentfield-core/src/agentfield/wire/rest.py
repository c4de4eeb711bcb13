"""Bodies of the REST interface, as both the control plane and its clients read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AdapterView",
    "ApprovalStatus",
    "ApprovalView",
    "CancelRequest",
    "CompactView",
    "DagView",
    "DecisionRequest",
    "DeliveryStatus",
    "DeliveryView",
    "EndRequest",
    "ExchangeRequest",
    "ExchangeResponse",
    "ExecuteRequest",
    "ExecutionKind",
    "ExecutionStatus",
    "ExecutionView",
    "HistoryView",
    "InputRequest",
    "NodeView",
    "PluginView",
    "PruneRequest",
    "PruneView",
    "SessionState",
    "SessionView",
    "SignedDecision",
    "StartRequest",
    "StartResponse",
    "StatusRequest",
    "StatusView",
    "StoreView",
    "WebhookRequest",
    "WebhookView",
]

ExecutionKind = Literal["session", "turn", "tool", "call"]
ExecutionStatus = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled", "timeout"]
DeliveryStatus = Literal["pending", "delivered", "dead"]
ApprovalStatus = Literal["pending", "approved", "rejected", "changes_requested", "expired", "cancelled"]
SessionState = Literal["created", "connecting", "live", "ending", "ended"]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class ExecuteRequest(_Request):
    """``POST /api/v1/execute/{target}`` and ``/execute/async/{target}``."""

    input: dict[str, Any] = Field(default_factory=dict)
    timeout: float | None = Field(default=None, gt=0, le=86_400)
    priority: int = Field(default=0, ge=-10, le=10)
    """Higher goes first where work has to wait; what a live call waits for goes before all of it."""
    delay: float = Field(default=0, ge=0, le=30 * 86_400)
    """Seconds before which it does not start (``/execute/async`` only)."""


class CancelRequest(_Request):
    """``POST /api/v1/executions/{id}/cancel`` and ``POST /api/v1/workflows/{run}/cancel``."""

    reason: str = Field(default="asked for over REST", max_length=500)
    tree: bool = True
    """Whether what it called is cancelled too; else that goes on, and nobody waits for it."""


class StatusRequest(_Request):
    """``POST /api/v1/executions/status``."""

    ids: tuple[str, ...] = Field(min_length=1, max_length=500)


class HistoryView(_View):
    """Something that happened to an execution before its end: another attempt, a question to a person, a decision."""

    type: str
    """`execution.retrying`, `approval.requested` or `approval.decided`."""
    at: float
    body: dict[str, Any]
    """What the event says."""


class ExecutionView(_View):
    """One execution."""

    id: str
    kind: ExecutionKind
    target: str
    status: ExecutionStatus
    run_id: str
    parent_id: str | None = None
    session_id: str | None = None
    attempt: int = 0
    max_attempts: int = 1
    priority: int = 0
    not_before: float | None = None
    """When it may start, where it waits for its time."""
    deadline: float | None = None
    progress: dict[str, Any] | None = None
    """The newest word of the run, as `agentfield.context.update` was given it."""
    input: Any = None
    output: Any = None
    problem: dict[str, Any] | None = None
    left_out: dict[str, int] | None = None
    """In a list: which of `input` and `output` are too large for one, with their bytes; the execution by itself has them."""
    node_id: str | None = None
    instance_id: str | None = None
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    history: tuple[HistoryView, ...] = ()
    """In the graph of a run: what happened to it on the way."""


class ApprovalView(_View):
    """A decision that an execution waits for, or went on with."""

    id: str
    execution_id: str
    run_id: str
    session_id: str | None = None
    target: str
    key: str
    """Its name within the execution."""
    title: str
    details: Any = None
    status: ApprovalStatus
    by: str | None = None
    via: str | None = None
    """How the decision came: `rest`, `webhook`, or `time` when nobody decided."""
    note: str | None = None
    data: Any = None
    created_at: float
    expires_at: float
    decided_at: float | None = None


class DecisionRequest(_Request):
    """``POST /api/v1/approvals/{id}/decision``."""

    decision: Literal["approved", "rejected", "changes_requested"]
    by: str | None = Field(default=None, min_length=1, max_length=256)
    """Who decides, for the record."""
    note: str | None = Field(default=None, max_length=4000)
    data: Any = None
    """What the reasoner is told with it; any JSON."""


class SignedDecision(DecisionRequest):
    """``POST /api/v1/webhooks/approvals``: a decision of another system, signed with the secret of the control plane."""

    approval_id: str = Field(max_length=100)


class WebhookRequest(_Request):
    """``POST /api/v1/webhooks``: who wants to be told of events."""

    url: str = Field(max_length=2000)
    events: tuple[Annotated[str, Field(pattern=r"^[a-z*]+(\.[a-z_*]+)*$", max_length=100)], ...] = Field(
        min_length=1, max_length=50
    )
    """Types of events, with ``*`` for any part of one: ``approval.*``, ``execution.ended``, ``*``."""


class WebhookView(_View):
    """Somebody who is told of events."""

    id: str
    url: str
    events: tuple[str, ...]
    created_at: float
    secret: str | None = None
    """Signs what is sent; in the answer that makes the webhook, and never again."""


class DeliveryView(_View):
    """An event on its way to a webhook."""

    id: str
    webhook_id: str
    run_id: str
    seq: int
    type: str
    status: DeliveryStatus
    attempts: int
    not_before: float
    answer: str | None = None
    created_at: float
    ended_at: float | None = None


class StatusView(_View):
    """Where executions stand, without their inputs."""

    executions: tuple[ExecutionView, ...]
    unknown: tuple[str, ...] = ()
    """Ids that are nobody's."""


class DagView(_View):
    """``GET /api/v1/workflows/{run}/dag``: executions in the order they were made; edges are the parents."""

    run_id: str
    session_id: str | None = None
    executions: tuple[ExecutionView, ...]
    next: str | None = None
    """Cursor of the next page, None on the last one."""


class StartRequest(_Request):
    """``POST /api/v1/sessions``. Provider and transport, when given, must be the registered ones."""

    target: str
    provider: str | None = None
    transport: str | None = None
    model: str | None = None
    voice: str | None = None
    caller: str | None = Field(default=None, max_length=256)
    metadata: dict[str, Any] = Field(default_factory=dict)


class StartResponse(_View):
    """A session that waits for its caller."""

    session_id: str
    run_id: str
    target: str
    provider: str
    transport: str
    model: str
    voice: str | None = None
    floor: Literal["handler", "model"]
    token: str
    """Browser token, `ek_af_…`: this session only, short-lived, never in an address."""
    page_url: str
    """A page that makes the call; its fragment holds a one-time code that it exchanges for a token."""
    offer_url: str | None = None
    """Where the SDP offer goes, on transports of direct media."""
    media_url: str | None = None
    """The WebSocket for the audio (`ws:` or `wss:`), on transports of bridged media."""
    turns_url: str | None = None
    """Where recorded turns go, on transports of turns."""
    events_url: str


class ExchangeRequest(_Request):
    """``POST /api/v1/sessions/exchange``: a one-time code for a browser token."""

    code: str = Field(max_length=200)


class ExchangeResponse(_View):
    """What a page needs to make the call."""

    session_id: str
    token: str
    target: str
    provider: str
    transport: str
    model: str


class SessionView(_View):
    """One session."""

    id: str
    run_id: str
    target: str
    provider: str
    transport: str
    model: str
    voice: str | None = None
    floor: Literal["handler", "model"]
    state: SessionState
    end_reason: str | None = None
    end_detail: str | None = None
    caller: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    created_at: float
    live_at: float | None = None
    ended_at: float | None = None
    turns: int = 0
    usage: dict[str, dict[str, float]] | None = None
    """What the session used in all, by kind (`reply`, `transcription`, `speech`); None until it ended, and in lists."""
    cost: float | None = None
    """US dollars; None until it ended, where nothing has a known price, and in lists."""
    evidence: dict[str, Any] | None = None
    """How the caller of a transport was verified (`method`, `facts`); None where an operator started it, and in lists."""
    config: dict[str, Any] = Field(default_factory=dict)


class InputRequest(_Request):
    """``POST /api/v1/sessions/{id}/input``: words that the caller typed."""

    text: str = Field(min_length=1, max_length=8000)


class EndRequest(_Request):
    """``POST /api/v1/sessions/{id}/end``."""

    reason: Literal["caller_hangup", "ice_failed", "operator"] = "operator"
    """A caller may say `caller_hangup`, or `ice_failed` when its own connection for the audio found no way."""


class NodeView(_View):
    """One linked instance of a node."""

    node_id: str
    instance_id: str
    did: str
    connected: bool
    draining: bool = False
    """Whether it takes nothing new and ends when what it has is done."""
    functions: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)
    """Sessions that are not registered, each with the code of the reason; a start of it tells the rest."""
    running: int = 0
    concurrency: int = 0
    linked_at: float


class AdapterView(_View):
    """One pair of the matrix."""

    provider: str
    transport: str
    distribution: str
    version: str
    media: str
    installed: bool = True
    """Whether a session can run on it: `state` is ``ok``."""
    capabilities: dict[str, Any]
    notes: str = ""
    state: str = "ok"
    """``ok``, or the code of the error that a session on this pair is refused with."""
    reason: str = ""
    """The text of that error."""
    hint: str = ""
    """What to do about it."""
    transport_distribution: str = ""
    """The distribution that brings the transport, "" where agentfield-core does."""
    transport_version: str = ""
    bridged_from: str | None = None
    """The declared pair that this row was made from, where a provider and a transport of two plugins meet."""


class PluginView(_View):
    """One plugin that was found, usable or not."""

    name: str
    distribution: str
    version: str
    state: str
    """``ok``, ``disabled``, ``broken``, ``incompatible`` or ``invalid``."""
    reason: str = ""
    """Why the state is not ok."""
    pairs: tuple[str, ...] = ()
    """The rows of the matrix that it has a part in."""
    providers: tuple[str, ...] = ()
    transports: tuple[str, ...] = ()


class StoreView(_View):
    """How large the store is and what is in it."""

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
    oldest_run_at: float | None = None


class PruneRequest(_Request):
    """``POST /api/v1/store/prune``: one round."""

    older_than_days: float = Field(ge=1, le=36_500)
    """Days since the last event of a run."""
    dry_run: bool = False
    """Only count."""
    after: str = Field(default="", max_length=100)
    """The `next` of the round before."""


class PruneView(_View):
    """What a round took away, or would take away."""

    runs: int
    executions: int
    events: int
    dry_run: bool
    next: str | None = None
    """Continues, also when this round found nothing; None at the end."""


class CompactView(_View):
    """What is left to be given back."""

    free_pages: int
