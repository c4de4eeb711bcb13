"""What the session machine is told, beside the provider's events: one frozen value per input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentfield.realtime.events import Event
from agentfield_server.sessions.effects import Record
from agentfield_server.sessions.totals import Totals

__all__ = [
    "CallRefused",
    "CallerGone",
    "CallerPresent",
    "CancelSpeech",
    "EndSession",
    "HandlerAway",
    "HandlerBack",
    "HandlerCall",
    "HandlerCommand",
    "HandlerDone",
    "HandlerEnd",
    "HandlerInput",
    "HandlerLost",
    "HandlerOpened",
    "HandlerReply",
    "HandlerSay",
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
    """The handler wants a text spoken."""

    op_id: str
    epoch: int
    text: str
    interruptible: bool = True
    stale: Literal["drop", "speak"] = "drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerReply:
    """The handler lets the model answer; `tools` None means all that are declared."""

    op_id: str
    epoch: int
    instructions: str | None = None
    tools: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelSpeech:
    """The handler takes a `say` or `reply` back; `speech_op` is the op id of that command, None means all of them."""

    op_id: str
    epoch: int
    speech_op: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerCall:
    """The handler calls a target; allowed until 60 s after the end. `filler` is spoken when it takes longer than a moment."""

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
    """The handler was sent to a linked node."""

    epoch: int


@dataclass(frozen=True, slots=True)
class HandlerDone:
    """The handler returned (problem None) or raised."""

    epoch: int
    problem: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class HandlerAway:
    """No instance has the handler now; one may come (back)."""

    detail: str = "no instance of the handler's node is linked"
    """What to say when none did."""


@dataclass(frozen=True, slots=True)
class HandlerBack:
    """The same process linked again and still runs the handler of this epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class HandlerLost:
    """The handler of this epoch is gone for good."""

    epoch: int


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """The execution of a call exists."""

    call_id: str
    execution_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFinished:
    """A call came to an end."""

    call_id: str
    value: Any = None
    problem: Mapping[str, Any] | None = None
    execution_id: str | None = None
    notes: tuple[Record, ...] = ()
    """What plugins did to it, to be recorded with its end."""


@dataclass(frozen=True, slots=True)
class OfferAccepted:
    """The call exists at the provider (again, when it is a second offer)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRefused:
    """The provider refused to make a call, or could not be reached for it."""

    code: str
    """The provider's own name for it, else ours."""
    message: str
    final: bool = False
    """Whether no other attempt would be any better."""


@dataclass(frozen=True, slots=True)
class ProviderFailed:
    """The provider's end of the session broke without a word, or another one could not be opened."""

    message: str
    retry: bool = False
    """Whether a session may be opened again: the line broke, nobody refused."""


@dataclass(frozen=True, slots=True)
class Rotated:
    """Another session at the provider has taken over, as was asked for; it is empty, and its `SessionReady` follows."""


@dataclass(frozen=True, slots=True)
class TextInput:
    """The caller typed."""

    text: str


@dataclass(frozen=True, slots=True)
class CallerPresent:
    """The caller's page listens."""


@dataclass(frozen=True, slots=True)
class CallerGone:
    """The caller's page stopped listening."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSession:
    """Somebody else ends the session."""

    reason: str
    detail: str | None = None


Input = (
    Event
    | HandlerCommand
    | HandlerOpened
    | HandlerDone
    | HandlerAway
    | HandlerBack
    | HandlerLost
    | ToolStarted
    | ToolFinished
    | OfferAccepted
    | CallRefused
    | ProviderFailed
    | Rotated
    | TextInput
    | CallerPresent
    | CallerGone
    | EndSession
)
"""Anything the machine is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTurnSnapshot:
    """A turn that was open when its control plane went away."""

    turn_id: str
    item: str
    number: int
    text: str | None
    text_missing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCallSnapshot:
    """A tool call that was asked for and not answered when its control plane went away."""

    call_id: str
    target: str
    args: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a store knows of a live session: enough to go on with it."""

    handler_epoch: int
    turns: int
    tool_calls: int = 0
    live_for: float = 0.0
    """Seconds since the session went live."""
    open_turns: tuple[OpenTurnSnapshot, ...] = ()
    open_calls: tuple[OpenCallSnapshot, ...] = ()
    call_ids: tuple[str, ...] = ()
    """Tool calls that were asked for before: a second use of one is refused."""
    open_speeches: tuple[tuple[str, str | None], ...] = ()
    """Id and words asked for of what was being said: what came of it will never be known."""
    history: tuple[Mapping[str, Any], ...] = ()
    used: Totals = field(default_factory=Totals)
    """What was used."""
