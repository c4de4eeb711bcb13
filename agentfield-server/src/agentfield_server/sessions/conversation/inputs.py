"""Inputs of the session machine besides the provider's events: one frozen value for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield.realtime.events import Event
from agentfield_server.sessions.conversation.effects import RecordEvent
from agentfield_server.sessions.conversation.usage.totals import UsageTotals

__all__ = [
    "CallRefused",
    "CallerBegan",
    "CallerConnected",
    "CallerDisconnected",
    "CancelSpeech",
    "EndSession",
    "HandlerCall",
    "HandlerCommand",
    "HandlerDone",
    "HandlerEnd",
    "HandlerInput",
    "HandlerLost",
    "HandlerOpened",
    "HandlerReattached",
    "HandlerReply",
    "HandlerSay",
    "HandlerUnavailable",
    "Input",
    "OfferAccepted",
    "OpenCallSnapshot",
    "OpenTurnSnapshot",
    "ProviderFailed",
    "Rotated",
    "Snapshot",
    "TextInput",
    "ToolFinished",
    "ToolStarted",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerInput:
    """The handler asks for the next turn."""

    op_id: str
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSay:
    """The handler asks for a text to be spoken."""

    op_id: str
    epoch: int
    text: str
    interruptible: bool = True
    stale: Literal["drop", "speak"] = "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerReply:
    """The handler asks the model for a reply; `tools` None means all declared tools."""

    op_id: str
    epoch: int
    instructions: str | None = None
    tools: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelSpeech:
    """The handler cancels a `say` or `reply`: the one with the op id `speech_op`, None means all of them."""

    op_id: str
    epoch: int
    speech_op: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerCall:
    """The handler calls a target, until 60 s after the end. `filler` is spoken if the call takes longer than a moment."""

    op_id: str
    epoch: int
    target: str
    args: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    filler: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerEnd:
    """The handler ends the session."""

    op_id: str
    epoch: int
    reason: str = "handler_ended"


HandlerCommand = HandlerInput | HandlerSay | HandlerReply | CancelSpeech | HandlerCall | HandlerEnd


@dataclass(frozen=True, slots=True)
class HandlerOpened:
    """A linked node received the handler's run."""

    epoch: int


@dataclass(frozen=True, slots=True)
class HandlerDone:
    """The handler returned (problem None) or raised."""

    epoch: int
    problem: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class HandlerUnavailable:
    """No linked instance runs the handler now; one may link (again)."""

    detail: str = "no instance of the handler's node is linked"
    """Detail of the end if none links in time."""


@dataclass(frozen=True, slots=True)
class HandlerReattached:
    """The same node process linked again and still runs the handler of this epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class HandlerLost:
    """The handler run of this epoch is lost for good."""

    epoch: int


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """The execution of a tool call exists."""

    call_id: str
    execution_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFinished:
    """The execution of a tool call has ended."""

    call_id: str
    value: Any = None
    problem: Mapping[str, Any] | None = None
    execution_id: str | None = None
    notes: tuple[RecordEvent, ...] = ()
    """Records of what plugins changed, to be recorded with its end."""


@dataclass(frozen=True, slots=True)
class OfferAccepted:
    """The call exists at the provider; a second offer makes a second call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRefused:
    """The provider refused to create a call, or could not be reached."""

    code: str
    """The provider's own error code if it gave one, else one of the control plane."""
    message: str
    final: bool = False
    """Whether another attempt cannot succeed."""


@dataclass(frozen=True, slots=True)
class ProviderFailed:
    """The connection to the provider broke without a closing event, or a replacement could not be opened."""

    message: str
    retry: bool = False
    """Whether a session may be opened again: the connection broke, it was not refused."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """A replacement has taken over, as the effect `Rotate` asked, or after a restart; its `SessionReady` follows."""

    known: int | None = None
    """How many entries of the history it knows, resumed by the provider's handle; None if it is empty."""


@dataclass(frozen=True, slots=True)
class TextInput:
    """The caller typed text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallerBegan:
    """The caller began a turn of push to talk."""


@dataclass(frozen=True, slots=True)
class CallerConnected:
    """The caller's page listens."""


@dataclass(frozen=True, slots=True)
class CallerDisconnected:
    """The caller's page no longer listens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSession:
    """The caller, an operator, a transport plugin or a restart ends the session."""

    reason: str
    """An `EndReason` of `transitions`, or the reason of a transport plugin."""
    detail: str | None = None


Input = (
    Event
    | HandlerCommand
    | HandlerOpened
    | HandlerDone
    | HandlerUnavailable
    | HandlerReattached
    | HandlerLost
    | ToolStarted
    | ToolFinished
    | OfferAccepted
    | CallRefused
    | ProviderFailed
    | Rotated
    | TextInput
    | CallerBegan
    | CallerConnected
    | CallerDisconnected
    | EndSession
)
"""Every input of the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTurnSnapshot:
    """A turn that was open when its control plane stopped."""

    turn_id: str
    item: str
    number: int
    text: str | None
    text_missing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCallSnapshot:
    """A tool call that was requested and not answered when its control plane stopped."""

    call_id: str
    target: str
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the store knows of a live session, enough to continue it after a restart."""

    handler_epoch: int
    turns: int
    tool_calls: int = 0
    live_for: float = 0.0
    """Seconds since the session went live."""
    open_turns: tuple[OpenTurnSnapshot, ...] = ()
    open_calls: tuple[OpenCallSnapshot, ...] = ()
    call_ids: tuple[str, ...] = ()
    """Ids of earlier tool calls; a second use of one is refused."""
    open_speeches: tuple[tuple[str, str | None], ...] = ()
    """Id and asked words of speeches that were under way; their outcome is unknown."""
    history: tuple[Mapping[str, Any], ...] = ()
    """The newest entries."""
    history_count: int = 0
    """How many there were."""
    used: UsageTotals = field(default_factory=UsageTotals)
    """Usage before the restart."""
