"""Transition tables of a session, a turn and an utterance.

Each table maps a state and a trigger to the next state; the machine looks up every change of state here, and a change
that is not in the table raises `TransitionError`. A trigger is an input or a provider event (its class), a deadline
(`TimerKind`) or a condition that the machine finds to hold (`Condition`). `docs/session-machine.md` shows the tables;
`transition_docs` writes them into that page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from agentfield.realtime.events import (
    Event,
    ProviderFault,
    ReplyEnded,
    ReplyStarted,
    SessionClosed,
    SessionReady,
    TurnDiscarded,
)
from agentfield.wire.rest import SessionState
from agentfield_server.sessions.conversation.inputs import (
    CallRefused,
    EndSession,
    HandlerEnd,
    HandlerInput,
    HandlerLost,
    Input,
    OfferAccepted,
    ProviderFailed,
)
from agentfield_server.sessions.conversation.timers import TimerKind

__all__ = [
    "SESSION_TRANSITIONS",
    "TURN_TRANSITIONS",
    "UTTERANCE_TRANSITIONS",
    "Condition",
    "EndReason",
    "SessionPhase",
    "Transition",
    "TransitionError",
    "TransitionTable",
    "Trigger",
    "TurnStage",
    "UtteranceStage",
]


class SessionPhase(StrEnum):
    """State of a session; the values are those of `agentfield.wire.rest.SessionState`."""

    CREATED = "created"
    """No call exists at the provider."""
    CONNECTING = "connecting"
    """A call exists at the provider, or did before a restart; its session is not ready."""
    LIVE = "live"
    """The provider's session can be commanded."""
    ENDING = "ending"
    """The end has a reason; a goodbye may still be spoken."""
    ENDED = "ended"
    """The call is over. Calls of the handler are accepted until the grace period ends."""

    @property
    def wire(self) -> SessionState:
        """The same state as the wire models and the store type it."""
        return self.value


class EndReason(StrEnum):
    """Why a session ended, as it is stored. A transport plugin may end a session with a reason of its own."""

    NEVER_CONNECTED = "never_connected"
    CALLER_HANGUP = "caller_hangup"
    OPERATOR = "operator"
    HANDLER_ENDED = "handler_ended"
    HANDLER_FAILED = "handler_failed"
    NODE_LOST = "node_lost"
    LIMIT_COST = "limit_cost"
    LIMIT_DURATION = "limit_duration"
    LIMIT_IDLE = "limit_idle"
    LIMIT_TOOLS = "limit_tools"
    LIMIT_TURNS = "limit_turns"
    PROVIDER_ERROR = "provider_error"
    PROVIDER_EXPIRED = "provider_expired"
    MISMATCH = "mismatch"
    ICE_FAILED = "ice_failed"
    CONTROL_PLANE_RESTART = "control_plane_restart"


class TurnStage(StrEnum):
    """Where a turn stands on its way to the handler."""

    PENDING = "pending"
    """Committed; its words or its predecessor are awaited."""
    WAITING = "waiting"
    """Accepted; the handler has not taken it."""
    TAKEN = "taken"
    """The handler works on it."""
    CLOSED = "closed"
    """Its execution is closed, or it was discarded."""


class UtteranceStage(StrEnum):
    """Where an utterance of the agent stands."""

    QUEUED = "queued"
    """It waits for the reply slot."""
    SENT = "sent"
    """The provider was asked for it and has not begun."""
    STARTED = "started"
    """The provider generates it; the caller may hear it already."""
    GENERATED = "generated"
    """It is generated; its playback or the measurement of it is awaited."""
    FINISHED = "finished"
    """Its outcome is recorded."""


class Condition(StrEnum):
    """A trigger that is neither an input nor a deadline: something that the machine finds when it looks."""

    RESTORED = "the machine starts from a snapshot"
    MISMATCH = "the provider reports another model or voice, or drift that is not allowed"
    TURN_LIMIT = "the limit of turns is passed"
    TOOL_LIMIT = "the limit of tool calls is passed"
    COST_LIMIT = "the limit of cost is passed"
    ROTATION_FAILED = "no other provider session can take over"
    HANDLER_FATAL = "the handler failed too often, or took no turn"
    NO_GOODBYE = "no goodbye is to be spoken"
    SPEECH_DONE = "nothing is spoken or queued"
    WORDS_KNOWN = "its words and its predecessor are known, or no longer awaited"
    REJECTED = "it is empty, or too many turns wait, or the limit of turns is passed"
    TURN_DONE = "it is answered, released or superseded, and nothing of it is under way"
    SESSION_ENDED = "the session has ended"
    SLOT_FREE = "the reply slot is free, and it need not wait for the caller"
    RETURNED_TO_QUEUE = "the provider was busy, or its session was replaced"
    TAKEN_BACK = "its command was cancelled, or it is stale, or the session ends, or the queue is full"
    FAILED = "it failed, timed out, or the provider's session is gone"
    OUTCOME_KNOWN = "it was played, or how much of it was heard is known"


Trigger = type[Input] | type[Event] | TimerKind | Condition
"""What makes a state change: the class of an input or event, a deadline, or a condition."""

S = TypeVar("S", bound=StrEnum)


class TransitionError(AssertionError):
    """The machine tried to change a state in a way that its table does not contain: a defect of the machine."""


@dataclass(frozen=True, slots=True)
class Transition(Generic[S]):
    """One row of a table."""

    source: S
    trigger: Trigger
    target: S
    reasons: frozenset[EndReason] = frozenset()
    """Reasons that the end of a session may have by this row; empty where no reason is set, or with `any_reason`."""
    any_reason: bool = False
    """Whether the trigger carries the reason itself."""
    guard: str = ""
    """What must hold besides the trigger, in words."""


class TransitionTable(Generic[S]):
    """All transitions of one kind of state.

    Args:
        initial: The state that everything starts in.
        rows: The transitions; a state and a trigger lead to one state.
    """

    def __init__(self, initial: S, rows: Iterable[Transition[S]]) -> None:
        self.initial = initial
        self._rows: dict[tuple[S, Trigger], Transition[S]] = {}
        for row in rows:
            if (row.source, row.trigger) in self._rows:
                raise TransitionError(f"two transitions from {row.source} by {row.trigger}")
            self._rows[row.source, row.trigger] = row

    def __iter__(self) -> Iterator[Transition[S]]:
        return iter(self._rows.values())

    def next(self, source: S, trigger: Trigger) -> S:
        """Return the state that a trigger leads to.

        Raises:
            TransitionError: The table has no such transition.
        """
        return self._row(source, trigger).target

    def end(self, source: S, trigger: Trigger, reason: str) -> S:
        """Return the state that a trigger leads to when it ends the session for a reason.

        Raises:
            TransitionError: The table has no such transition, or not with this reason.
        """
        row = self._row(source, trigger)
        if not row.any_reason and reason not in row.reasons:
            raise TransitionError(f"{source} by {trigger!r} does not end with the reason {reason}")
        return row.target

    def _row(self, source: S, trigger: Trigger) -> Transition[S]:
        row = self._rows.get((source, trigger))
        if row is None:
            raise TransitionError(f"no transition from {source} by {trigger!r}")
        return row


def _from(
    sources: Iterable[S],
    trigger: Trigger,
    target: S,
    *reasons: EndReason,
    any_reason: bool = False,
    guard: str = "",
) -> Iterator[Transition[S]]:
    for source in sources:
        yield Transition(source, trigger, target, frozenset(reasons), any_reason=any_reason, guard=guard)


_CREATED, _CONNECTING, _LIVE = SessionPhase.CREATED, SessionPhase.CONNECTING, SessionPhase.LIVE
_ENDING, _ENDED = SessionPhase.ENDING, SessionPhase.ENDED
_OPEN = (_CREATED, _CONNECTING, _LIVE)
_CALLED = (_CONNECTING, _LIVE)

SESSION_TRANSITIONS = TransitionTable(
    _CREATED,
    (
        *_from([_CREATED], Condition.RESTORED, _CONNECTING),
        *_from(_OPEN, OfferAccepted, _CONNECTING),
        *_from([_CREATED, _CONNECTING], SessionReady, _LIVE),
        # before the call, and during it
        *_from([_CREATED], TimerKind.OFFER, _ENDING, EndReason.NEVER_CONNECTED),
        *_from([_CONNECTING], TimerKind.MEDIA, _ENDING, EndReason.NEVER_CONNECTED, EndReason.CONTROL_PLANE_RESTART),
        *_from(_CALLED, TimerKind.CALLER_GONE, _ENDING, EndReason.CALLER_HANGUP),
        *_from(_CALLED, TimerKind.DURATION, _ENDING, EndReason.LIMIT_DURATION),
        *_from(_CALLED, TimerKind.EXPIRY, _ENDING, EndReason.PROVIDER_EXPIRED),
        *_from(
            _CALLED, TimerKind.IDLE, _ENDING, EndReason.LIMIT_IDLE, guard="nobody speaks and nothing is in progress"
        ),
        *_from(_CALLED, TimerKind.NODE, _ENDING, EndReason.NODE_LOST),
        *_from(_OPEN, CallRefused, _ENDING, EndReason.PROVIDER_ERROR, guard="it is final"),
        *_from(_OPEN, ProviderFault, _ENDING, EndReason.PROVIDER_ERROR, guard="it is fatal"),
        *_from(_OPEN, ProviderFailed, _ENDING, EndReason.PROVIDER_ERROR, guard="no replacement can take over"),
        *_from(
            _OPEN,
            SessionClosed,
            _ENDING,
            EndReason.CALLER_HANGUP,
            EndReason.PROVIDER_EXPIRED,
            EndReason.PROVIDER_ERROR,
            EndReason.ICE_FAILED,
            guard="no replacement can take over",
        ),
        *_from(_OPEN, HandlerEnd, _ENDING, EndReason.HANDLER_ENDED),
        *_from(_OPEN, EndSession, _ENDING, any_reason=True),
        *_from(_OPEN, Condition.MISMATCH, _ENDING, EndReason.MISMATCH),
        *_from(_OPEN, Condition.TURN_LIMIT, _ENDING, EndReason.LIMIT_TURNS),
        *_from(_OPEN, Condition.TOOL_LIMIT, _ENDING, EndReason.LIMIT_TOOLS),
        *_from(_OPEN, Condition.COST_LIMIT, _ENDING, EndReason.LIMIT_COST),
        *_from(_CALLED, Condition.ROTATION_FAILED, _ENDING, EndReason.PROVIDER_ERROR, EndReason.PROVIDER_EXPIRED),
        *_from(_CALLED, Condition.HANDLER_FATAL, _ENDING, EndReason.HANDLER_FAILED),
        # the goodbye
        *_from([_ENDING], Condition.NO_GOODBYE, _ENDED),
        *_from([_ENDING], Condition.SPEECH_DONE, _ENDED),
        *_from([_ENDING], TimerKind.GOODBYE, _ENDED),
        *_from([_ENDING], EndSession, _ENDED),
        *_from([_ENDING], SessionClosed, _ENDED),
        *_from([_ENDING], ProviderFailed, _ENDED),
    ),
)
"""States of a session. The reason is set once, by the row that leads to `ending`."""

_PENDING, _WAITING, _TAKEN, _CLOSED = TurnStage.PENDING, TurnStage.WAITING, TurnStage.TAKEN, TurnStage.CLOSED

TURN_TRANSITIONS = TransitionTable(
    _PENDING,
    (
        *_from([_PENDING], Condition.RESTORED, _WAITING),
        *_from([_PENDING], Condition.WORDS_KNOWN, _WAITING),
        *_from([_PENDING], Condition.REJECTED, _CLOSED),
        *_from([_PENDING], TurnDiscarded, _CLOSED),
        *_from([_WAITING], HandlerInput, _TAKEN),
        # on the model's floor a turn's execution closes when the model has answered it, even if the handler has not
        # read the turn or its predecessor is still awaited; the turn then goes its way to the handler all the same
        *_from([_CLOSED], Condition.WORDS_KNOWN, _WAITING, guard="the floor is the model's"),
        *_from([_CLOSED], Condition.REJECTED, _CLOSED, guard="the floor is the model's"),
        *_from([_CLOSED], TurnDiscarded, _CLOSED, guard="the floor is the model's"),
        *_from([_CLOSED], HandlerInput, _TAKEN, guard="the floor is the model's"),
        *_from([_TAKEN], HandlerLost, _WAITING, guard="the handler had not finished it"),
        *_from([_PENDING, _WAITING, _TAKEN], Condition.TURN_DONE, _CLOSED),
        *_from([_PENDING, _WAITING, _TAKEN], Condition.SESSION_ENDED, _CLOSED),
    ),
)
"""Stages of a turn."""

_QUEUED, _SENT, _STARTED = UtteranceStage.QUEUED, UtteranceStage.SENT, UtteranceStage.STARTED
_GENERATED, _FINISHED = UtteranceStage.GENERATED, UtteranceStage.FINISHED

UTTERANCE_TRANSITIONS = TransitionTable(
    _QUEUED,
    (
        *_from([_QUEUED], Condition.SLOT_FREE, _SENT),
        *_from([_QUEUED], ReplyStarted, _STARTED, guard="the model began it by itself"),
        *_from([_SENT], ReplyStarted, _STARTED),
        *_from([_SENT], Condition.RETURNED_TO_QUEUE, _QUEUED),
        *_from([_STARTED], ReplyEnded, _GENERATED),
        *_from([_QUEUED], Condition.TAKEN_BACK, _FINISHED),
        *_from([_SENT, _STARTED, _GENERATED], Condition.FAILED, _FINISHED),
        *_from([_STARTED, _GENERATED], Condition.OUTCOME_KNOWN, _FINISHED),
    ),
)
"""Stages of an utterance."""
