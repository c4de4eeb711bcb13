"""What the session machine asks to be done: one frozen value per effect, carried out in order by the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from agentfield.realtime.commands import Command
from agentfield.wire.rest import ExecutionStatus, SessionState

__all__ = [
    "CancelTool",
    "CloseTurn",
    "Effect",
    "Ended",
    "Finished",
    "HangUp",
    "Live",
    "OpEffect",
    "OpenHandler",
    "OpenTurn",
    "Record",
    "Refuse",
    "ResolveCall",
    "ResolveInput",
    "ResolveOp",
    "ResolveReply",
    "ResolveSpeech",
    "Rotate",
    "RunTool",
    "SendCommand",
    "SetState",
    "Spoken",
    "StopHandler",
    "TakeAudio",
    "TurnValue",
]

HeardMethod = Literal["marks", "provider", "wallclock"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """What became of one speech: asked, generated and heard are three different things."""

    asked: str | None
    generated: str
    verbatim: bool | None
    """Whether the words generated are the words asked for; None where no words were asked for."""
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
    """A turn as the handler gets it; times are seconds since the epoch."""

    id: str
    text: str | None
    text_missing: str | None
    started_at: float
    ended_at: float
    attempt: int
    heard: str | None
    """What the caller had heard of the speech that this turn interrupted, None when it interrupted none."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SendCommand:
    """Send a command to the provider, after everything recorded before it is committed."""

    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTurn:
    """Create the execution of a turn, child of the session's root, running."""

    turn_id: str
    item: str
    number: int
    text: str | None
    text_missing: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseTurn:
    """Close the execution of a turn."""

    turn_id: str
    status: ExecutionStatus
    output: Mapping[str, Any] | None = None
    problem: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """Append an event to the log of the run."""

    type: str
    body: Mapping[str, Any] = field(default_factory=dict)
    execution_id: str | None = None


@dataclass(frozen=True, slots=True)
class Live:
    """Tell those who listen now; not stored."""

    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenHandler:
    """Run the handler on a linked instance of its node."""

    epoch: int
    resumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StopHandler:
    """Tell the handler that its session is over."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class ResolveInput:
    """Answer an `input` with a turn."""

    op_id: str
    turn: TurnValue


@dataclass(frozen=True, slots=True)
class ResolveSpeech:
    """Answer a `say`."""

    op_id: str
    spoken: Spoken


@dataclass(frozen=True, slots=True)
class ResolveReply:
    """Answer a `reply`; `tool_calls` are the calls that the model made on the way, as JSON."""

    op_id: str
    spoken: Spoken
    tool_calls: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ResolveCall:
    """Answer a `call` with the output of its execution."""

    op_id: str
    value: Any
    execution_id: str | None


@dataclass(frozen=True, slots=True)
class ResolveOp:
    """Answer a command that has no value of its own."""

    op_id: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer a command with a problem document."""

    op_id: str
    problem: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTool:
    """Run a target through the engine, child of `turn_id` (None: of the session)."""

    call_id: str
    target: str
    args: Mapping[str, Any]
    turn_id: str | None
    kind: Literal["tool", "call"]
    timeout: float | None = None
    resumed: bool = False
    """Whether it was begun before a restart: its execution is known, its node may need a moment to link again."""


@dataclass(frozen=True, slots=True)
class CancelTool:
    """Cancel the execution of a call."""

    call_id: str


@dataclass(frozen=True, slots=True)
class HangUp:
    """End the call at the provider; a call that is over already is a success."""


@dataclass(frozen=True, slots=True)
class TakeAudio:
    """The provider's session was told all that was said before: what the caller has said since it was asked for may follow."""


@dataclass(frozen=True, slots=True)
class Rotate:
    """Open another session at the provider and let it take over from the one there is, if there still is one.

    Answered by the input `Rotated` (or `ProviderFailed`), then the new session's `SessionReady`. What the caller has
    not heard yet of the old session's replies is thrown away, and nothing that the old session tells is of interest.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class SetState:
    """Store the state of the session, with the event `session.state`."""

    state: SessionState
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is over; close its root execution. Happens exactly once."""

    reason: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """Nothing is accepted any more; the machine may be forgotten."""


OpEffect = ResolveInput | ResolveSpeech | ResolveReply | ResolveCall | ResolveOp | Refuse
"""An answer to a handler's command."""

Effect = (
    SendCommand
    | OpenTurn
    | CloseTurn
    | Record
    | Live
    | OpenHandler
    | StopHandler
    | RunTool
    | CancelTool
    | HangUp
    | Rotate
    | TakeAudio
    | SetState
    | Ended
    | Finished
    | OpEffect
)
"""Anything the machine asks for."""
