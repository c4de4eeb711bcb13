"""Effects of the session machine: one frozen value for each thing that the session actor is to do, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from agentfield.realtime.commands import Command
from agentfield.wire.rest import ExecutionStatus, SessionState

__all__ = [
    "Broadcast",
    "CancelTool",
    "CloseRootExecution",
    "CloseTurn",
    "Effect",
    "HangUp",
    "OpEffect",
    "OpenHandler",
    "OpenTurn",
    "RecordEvent",
    "RejectOp",
    "ReleaseMachine",
    "ResolveCall",
    "ResolveInput",
    "ResolveOp",
    "ResolveReply",
    "ResolveSpeech",
    "ResumeUplink",
    "Rotate",
    "RunTool",
    "SendCommand",
    "SetState",
    "Spoken",
    "StopHandler",
    "StoreHandle",
    "TurnValue",
]

HeardMethod = Literal["marks", "provider", "wallclock"]
"""How the heard position is known: marks of the caller, the provider's report, or the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """Outcome of one speech. The words asked for, generated and heard may all differ."""

    asked: str | None
    generated: str
    verbatim: bool | None
    """Whether the generated words are the words asked for; None if none were asked for, or if they were only cut off."""
    heard_ms: int
    heard_text: str
    heard_method: HeardMethod
    interrupted: bool = False
    stale: bool = False
    failed: str | None = None
    remaining: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnValue:
    """A turn as the handler receives it. Times are seconds since the epoch."""

    id: str
    text: str | None
    text_missing: str | None
    started_at: float
    ended_at: float
    attempt: int
    heard: str | None
    """What the caller had heard of the speech that this turn interrupted; None if it interrupted none."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SendCommand:
    """Send a command to the provider, after all events recorded before it are committed."""

    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTurn:
    """Create the execution of a turn as a running child of the session's root execution."""

    turn_id: str
    item: str
    number: int
    text: str | None
    text_missing: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseTurn:
    """Close the execution of a turn with its status and output."""

    turn_id: str
    status: ExecutionStatus
    output: Mapping[str, Any] | None = None
    problem: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """Append an event to the run's log."""

    type: str
    body: Mapping[str, Any] = field(default_factory=dict)
    execution_id: str | None = None


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send an event to the current listeners; it is not stored."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHandler:
    """Start a run of the handler on a linked instance of its node."""

    epoch: int
    resumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StopHandler:
    """Stop the handler's run: its session is over."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class ResolveInput:
    """Answer `input` with a turn."""

    op_id: str
    turn: TurnValue


@dataclass(frozen=True, slots=True)
class ResolveSpeech:
    """Answer `say` with its outcome."""

    op_id: str
    spoken: Spoken


@dataclass(frozen=True, slots=True)
class ResolveReply:
    """Answer `reply` with its outcome and the tool calls that the model made for it, as JSON."""

    op_id: str
    spoken: Spoken
    tool_calls: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ResolveCall:
    """Answer `call` with the output of its execution."""

    op_id: str
    value: Any
    execution_id: str | None


@dataclass(frozen=True, slots=True)
class ResolveOp:
    """Answer a command that returns no value."""

    op_id: str


@dataclass(frozen=True, slots=True)
class RejectOp:
    """Reject a command with a problem document."""

    op_id: str
    problem: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTool:
    """Run a target through the engine as a child of the turn `turn_id` (None: of the session)."""

    call_id: str
    target: str
    args: Mapping[str, Any]
    turn_id: str | None
    kind: Literal["tool", "call"]
    timeout: float | None = None
    resumed: bool = False
    """Whether the call was begun before a restart: its execution exists, and its node may not be linked again yet."""


@dataclass(frozen=True, slots=True)
class CancelTool:
    """Cancel the execution of a tool call."""

    call_id: str
    reason: str = "the caller interrupted"


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the call at the provider; a call that is already over counts as success."""


@dataclass(frozen=True, slots=True)
class StoreHandle:
    """Store the provider's handle of the conversation with the session; None forgets it."""

    handle: str | None = field(repr=False)
    known: int = 0
    """How many entries of the history the conversation has that the handle resumes."""


@dataclass(frozen=True, slots=True)
class ResumeUplink:
    """Resume the caller's audio: the provider's session knows the conversation so far, so that buffered audio may follow."""


@dataclass(frozen=True, slots=True)
class Rotate:
    """Replace the provider's session by a new one, whether the old one still exists or not.

    The input `Rotated` (or `ProviderFailed`) answers it, then the new session's `SessionReady`. Audio of the old session
    that was not played yet is discarded, and its later events are ignored.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class SetState:
    """Store the state of the session and record the event `session.state`."""

    state: SessionState
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class CloseRootExecution:
    """Close the root execution of the session; emitted exactly once."""

    reason: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class ReleaseMachine:
    """Release the machine: it accepts no more inputs."""


OpEffect = ResolveInput | ResolveSpeech | ResolveReply | ResolveCall | ResolveOp | RejectOp
"""Effects that answer a command of the handler."""

Effect = (
    SendCommand
    | OpenTurn
    | CloseTurn
    | RecordEvent
    | Broadcast
    | OpenHandler
    | StopHandler
    | RunTool
    | CancelTool
    | HangUp
    | Rotate
    | ResumeUplink
    | StoreHandle
    | SetState
    | CloseRootExecution
    | ReleaseMachine
    | OpEffect
)
"""Every effect of the machine."""
