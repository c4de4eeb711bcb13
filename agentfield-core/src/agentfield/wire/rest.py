"""Request and response bodies of the REST API, shared by the control plane and its clients."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from agentfield.arguments import MAX_TIMEOUT

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
    "TokenRequest",
    "TokenResponse",
    "WebhookRequest",
    "WebhookView",
]

ExecutionKind = Literal["session", "turn", "tool", "call"]
ExecutionStatus = Literal["queued", "running", "waiting", "succeeded", "failed", "cancelled", "timeout"]
DeliveryStatus = Literal["pending", "delivered", "dead"]
ApprovalStatus = Literal["pending", "approved", "rejected", "changes_requested", "expired", "cancelled"]
SessionState = Literal["created", "connecting", "live", "ending", "ended"]


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "input should be a number, not a boolean")
    return value


# pydantic takes `true` as 1; a client that sends it has made an error
_Float = Annotated[float, BeforeValidator(_no_boolean)]
_Int = Annotated[int, BeforeValidator(_no_boolean)]


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class ExecuteRequest(_Request):
    """``POST /api/v1/execute/{target}`` and ``/execute/async/{target}``."""

    input: dict[str, Any] = Field(default_factory=dict)
    timeout: _Float | None = Field(default=None, gt=0, le=MAX_TIMEOUT)
    priority: _Int = Field(default=0, ge=-10, le=10)
    """Among queued executions higher ones start first; those that a live call waits for come before all others."""
    delay: _Float = Field(default=0, ge=0, le=30 * 86_400)
    """Seconds to wait before the start (``/execute/async`` only)."""


class CancelRequest(_Request):
    """``POST /api/v1/executions/{id}/cancel`` and ``POST /api/v1/workflows/{run}/cancel``."""

    reason: str = Field(default="asked for over REST", max_length=500)
    tree: bool = True
    """Whether the executions that it called are cancelled too; otherwise they keep running, unawaited."""


class StatusRequest(_Request):
    """``POST /api/v1/executions/status``."""

    ids: tuple[str, ...] = Field(min_length=1, max_length=500)


class HistoryView(_View):
    """An event of an execution before its end: a retry, a return to the queue, an approval request or a decision."""

    type: str
    """`execution.retrying`, `execution.returned`, `approval.requested` or `approval.decided`."""
    at: float
    body: dict[str, Any]
    """The body of the event."""


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
    """Time before which it does not start."""
    deadline: float | None = None
    progress: dict[str, Any] | None = None
    """The newest progress report, as given to `agentfield.context.update`."""
    input: Any = None
    output: Any = None
    problem: dict[str, Any] | None = None
    left_out: dict[str, int] | None = None
    """In a list: those of `input` and `output` that are too large for it, with their bytes; get the execution itself to see them."""
    node_id: str | None = None
    instance_id: str | None = None
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None
    history: tuple[HistoryView, ...] = ()
    """In the graph of a run: its events before its end."""


class ApprovalView(_View):
    """A decision that an execution waits for, or has received."""

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
    principal: str | None = None
    """Who decided, as the control plane verified it."""
    by: str | None = None
    """A name that the decision came with; nobody verified it."""
    via: str | None = None
    """How the decision was made: `rest`, `webhook`, or `time` when it expired."""
    note: str | None = None
    data: Any = None
    created_at: float
    expires_at: float
    decided_at: float | None = None


class DecisionRequest(_Request):
    """``POST /api/v1/approvals/{id}/decision``."""

    decision: Literal["approved", "rejected", "changes_requested"]
    by: str | None = Field(default=None, min_length=1, max_length=256)
    """A name for the record. It is not verified: the record also has the principal of the request."""
    note: str | None = Field(default=None, max_length=4000)
    data: Any = None
    """Data for the reasoner; any JSON."""


class SignedDecision(DecisionRequest):
    """``POST /api/v1/webhooks/approvals``: a decision of another system, signed with the control plane's secret."""

    approval_id: str = Field(max_length=100)


class WebhookRequest(_Request):
    """``POST /api/v1/webhooks``: a subscription to events."""

    url: str = Field(max_length=2000)
    events: tuple[Annotated[str, Field(pattern=r"^[a-z*]+(\.[a-z_*]+)*$", max_length=100)], ...] = Field(
        min_length=1, max_length=50
    )
    """Event types; ``*`` matches any part of one: ``approval.*``, ``execution.ended``, ``*``."""


class WebhookView(_View):
    """A webhook: an address that events are delivered to."""

    id: str
    url: str
    events: tuple[str, ...]
    created_at: float
    secret: str | None = None
    """Secret that signs the deliveries; present only in the answer that creates the webhook."""


class DeliveryView(_View):
    """A delivery of an event to a webhook."""

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
    """States of executions, without their inputs."""

    executions: tuple[ExecutionView, ...]
    unknown: tuple[str, ...] = ()
    """Ids that match no execution."""


class DagView(_View):
    """``GET /api/v1/workflows/{run}/dag``: executions in order of creation; edges are their parents."""

    run_id: str
    session_id: str | None = None
    executions: tuple[ExecutionView, ...]
    next: str | None = None
    """Cursor of the next page, None on the last one."""


class StartRequest(_Request):
    """``POST /api/v1/sessions``. A given provider or transport must equal the declared one."""

    target: str
    provider: str | None = None
    transport: str | None = None
    model: str | None = None
    voice: str | None = None
    caller: str | None = Field(default=None, max_length=256)
    metadata: dict[str, Any] = Field(default_factory=dict)
    details: bool | None = None
    """Whether token and page show the session as an operator sees it; only an operator gets that."""


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
    """Browser token, `ek_af_…`: valid for this session only, short-lived, never part of a URL."""
    page_url: str
    """A page that makes the call; its URL fragment holds a one-time code that it exchanges for a token."""
    offer_url: str | None = None
    """URL for the SDP offer, on transports of direct media."""
    media_url: str | None = None
    """URL of the audio WebSocket (`ws:` or `wss:`), on transports of bridged media."""
    turns_url: str | None = None
    """URL for recorded turns, on transports of turns."""
    events_url: str
    details: bool = False
    """Whether token and page show the session as an operator sees it."""


class TokenRequest(_Request):
    """``POST /api/v1/sessions/{id}/tokens``."""

    rights: Literal["caller", "watch"] = "watch"
    """`caller` makes the call, `watch` reads its events only."""
    details: bool = False
    """Whether it shows the session as an operator sees it; only an operator gets that."""


class TokenResponse(_View):
    """A browser token: one session, to be used within a minute."""

    token: str
    rights: Literal["caller", "watch"]
    details: bool


class ExchangeRequest(_Request):
    """``POST /api/v1/sessions/exchange``: exchange a one-time code for a browser token."""

    code: str = Field(max_length=200)


class ExchangeResponse(_View):
    """The data that a page needs to make the call."""

    session_id: str
    token: str
    target: str
    provider: str
    transport: str
    model: str
    details: bool = False
    """Whether the token shows the session as an operator sees it."""


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
    turns_by_state: dict[str, int] | None = None
    """Number of turns in each state of an execution (`running`, `succeeded`, `failed`, `cancelled` …); None in lists."""
    usage: dict[str, dict[str, float]] | None = None
    """Total usage of the session by kind (`reply`, `transcription`, `speech`); None until it ended, and in lists."""
    cost: float | None = None
    """Total cost in US dollars; None until it ended, without known prices, and in lists."""
    evidence: dict[str, Any] | None = None
    """How the transport verified the caller (`method`, `facts`); None if an operator started the session, and in lists."""
    config: dict[str, Any] = Field(default_factory=dict)


class InputRequest(_Request):
    """``POST /api/v1/sessions/{id}/input``: text that the caller typed."""

    text: str = Field(min_length=1, max_length=8000)


class EndRequest(_Request):
    """``POST /api/v1/sessions/{id}/end``."""

    reason: Literal["caller_hangup", "ice_failed", "operator"] = "operator"
    """A caller may send `caller_hangup`, or `ice_failed` if its media connection could not be established."""


class AdapterView(_View):
    """One row of the provider/transport matrix."""

    provider: str
    transport: str
    distribution: str
    version: str
    media: str
    installed: bool = True
    """Whether a session can run on the pair: `state` is ``ok``."""
    capabilities: dict[str, Any]
    notes: str = ""
    state: str = "ok"
    """``ok``, or the code of the error that refuses a session on this pair."""
    reason: str = ""
    """The text of that error."""
    hint: str = ""
    """The hint of that error."""
    transport_distribution: str = ""
    """The distribution that provides the transport, "" if agentfield-core does."""
    transport_version: str = ""
    bridged_from: str | None = None
    """The declared pair that this row was derived from, if the provider and the transport come from two plugins."""


class PluginView(_View):
    """A discovered plugin, usable or not."""

    name: str
    distribution: str
    version: str
    state: str
    """``ok``, ``disabled``, ``broken``, ``incompatible`` or ``invalid``."""
    reason: str = ""
    """Why the state is not ok."""
    pairs: tuple[str, ...] = ()
    """The rows of the matrix that it contributes to."""
    providers: tuple[str, ...] = ()
    transports: tuple[str, ...] = ()


class StoreView(_View):
    """Size and row counts of the store."""

    bytes: int
    free_bytes: int
    """Free part of `bytes`: reused by new rows, or returned to the file system by compaction."""
    log_bytes: int
    """Additional size of the write-ahead log."""
    runs: int
    pruned_runs: int
    """Pruned runs, of which only a summary record is left."""
    executions: int
    open_executions: int
    sessions: int
    events: int
    approvals: int
    deliveries: int
    payloads: int
    """Large inputs and outputs, which are stored separately."""
    oldest_run_at: float | None = None


class PruneRequest(_Request):
    """``POST /api/v1/store/prune``: one round of pruning."""

    older_than_days: _Float = Field(ge=1, le=36_500)
    """Minimum days since the last event of a run."""
    dry_run: bool = False
    """Only count, delete nothing."""
    after: str = Field(default="", max_length=100)
    """The `next` of the previous round."""


class PruneView(_View):
    """Rows that a round deleted, or would delete."""

    runs: int
    executions: int
    events: int
    dry_run: bool
    next: str | None = None
    """Cursor of the next round, even if this one deleted nothing; None at the end."""


class CompactView(_View):
    """The remaining free pages."""

    free_pages: int
