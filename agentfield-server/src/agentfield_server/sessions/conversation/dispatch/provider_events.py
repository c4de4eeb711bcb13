"""Dispatch of the provider's events to the parts of the machine, and to listeners."""

from __future__ import annotations

from agentfield.realtime.events import (
    Dtmf,
    Event,
    Interrupted,
    PlayoutCleared,
    PlayoutStarted,
    PlayoutStopped,
    ProviderFault,
    RateLimit,
    ReplyAudio,
    ReplyEnded,
    ReplyStarted,
    ReplyTranscript,
    SessionClosed,
    SessionExpiring,
    SessionReady,
    SessionResumable,
    SessionUpdated,
    ToolCancelled,
    ToolRequested,
    ToolTampered,
    TurnCommitted,
    TurnDiscarded,
    TurnStarted,
    TurnStopped,
    TurnTranscript,
    TurnUnanswered,
    Usage,
    UsageReported,
    Warned,
)
from agentfield_server.sessions.conversation.handler_loop import HandlerLoop
from agentfield_server.sessions.conversation.lifecycle import SessionLifecycle
from agentfield_server.sessions.conversation.rotation import ProviderRotation
from agentfield_server.sessions.conversation.speech.interruption import BargeInController
from agentfield_server.sessions.conversation.speech.model_answers import ModelAnswers
from agentfield_server.sessions.conversation.speech.sequencer import NO_LISTENER, SpeechSequencer
from agentfield_server.sessions.conversation.state import MachineState
from agentfield_server.sessions.conversation.tools.calls import ToolCallTracker
from agentfield_server.sessions.conversation.transitions import EndReason, SessionPhase
from agentfield_server.sessions.conversation.turns import TurnTracker
from agentfield_server.sessions.conversation.usage.pricing import UsageKind
from agentfield_server.sessions.conversation.usage_meter import UsageMeter, UsageSample

__all__ = ["ProviderEventDispatcher"]

_CLIENT_WAIT = 0.5
"""Seconds within which a client that adds a typed text to the conversation itself also asks for the answer."""


class ProviderEventDispatcher:
    """Passes each event of the provider to the parts that it concerns, in their order.

    Args:
        state: State shared with the parts.
        turns: What the caller says.
        speech: What the agent says.
        calls: Tool calls.
        handler: Runs of the handler.
        interruption: When the caller interrupts.
        model_answers: Answers on the model's floor.
        rotation: Replacement of the provider's session.
        usage: Usage and its cost.
        lifecycle: The session's phase and its end.
        resumed: Whether the session continues after a restart.
    """

    def __init__(
        self,
        state: MachineState,
        turns: TurnTracker,
        speech: SpeechSequencer,
        calls: ToolCallTracker,
        handler: HandlerLoop,
        *,
        interruption: BargeInController,
        model_answers: ModelAnswers,
        rotation: ProviderRotation,
        usage: UsageMeter,
        lifecycle: SessionLifecycle,
        resumed: bool,
    ) -> None:
        self._state = state
        self._turns = turns
        self._speech = speech
        self._calls = calls
        self._handler = handler
        self._interruption = interruption
        self._model_answers = model_answers
        self._rotation = rotation
        self._usage_meter = usage
        self._lifecycle = lifecycle
        self._low: set[str] = set()
        """Rate limits of which nothing was left."""
        self._resumed = resumed

    def dispatch(self, event: Event) -> None:
        """Pass an event on; after the end of the session nothing counts any more."""
        if self._state.phase is SessionPhase.ENDED:
            return
        match event:
            case SessionReady():
                self._ready(event)
            case SessionUpdated():
                self._state.interruption.confirmed()
                self._lifecycle.updated(event)
            case SessionExpiring() if not self._rotation.opening:
                self._lifecycle.expires(event)
            case SessionResumable():
                self._rotation.resumable(event)
            case SessionClosed():
                self._lifecycle.closed(event)
            case TurnStarted() | TurnStopped() | TurnCommitted() | TurnTranscript() | TurnDiscarded():
                self._turn(event)
            case ReplyStarted() | ReplyTranscript() | ReplyEnded() | Interrupted():
                self._reply(event)
            case PlayoutStarted() | PlayoutStopped() | PlayoutCleared():
                self._playout(event)
            case ToolRequested() if not self._rotation.opening:
                self._calls.requested(event)
            case ToolCancelled() if not self._rotation.opening:
                self._calls.taken_back(event)
            case TurnUnanswered() if not self._rotation.opening:
                self._state.broadcast(event)
                self._model_answers.silent(event)
                self._calls.follow_up.model_silent(event)
            case ToolTampered():
                self._calls.tampered(event)
            case Dtmf():
                self._state.record("dtmf", digit=event.digit)
                self._state.broadcast(event)
                self._lifecycle.active()
            case Warned():
                self._state.warn(event.code, event.message)
            case ProviderFault():
                self._fault(event)
            case UsageReported():
                self._usage(event)
            case RateLimit():
                self._rate_limit(event)
            case ReplyAudio():
                pass  # the bridge plays audio, not the machine
            case SessionExpiring() | ToolRequested() | ToolCancelled() | TurnUnanswered():
                pass  # of a session that is being replaced

    # --- inside

    def _ready(self, event: SessionReady) -> None:
        moved = self._rotation.empty
        self._lifecycle.ready(event)
        if self._resumed and self._state.live:
            self._resumed = False
            self._handler.open(resumed=True)
            self._calls.resume(moved=moved)

    def _turn(self, event: TurnStarted | TurnStopped | TurnCommitted | TurnTranscript | TurnDiscarded) -> None:
        self._lifecycle.active()
        match event:
            case TurnStarted():
                self._state.broadcast(event)
                self._turns.started(event)
                self._interruption.began(event)
            case TurnStopped():
                self._state.broadcast(event)
                self._turns.stopped(event)
                self._interruption.stopped(event)
            case TurnCommitted() if not self._state.over:
                self._interruption.committed(event)
                # a text that the machine did not add was typed by a client of the protocol, which also asks for the answer
                self._model_answers.committed(event, hold=_CLIENT_WAIT if self._state.media == "direct" else 0.0)
                self._turns.reported(event.item)
            case TurnTranscript():
                self._turns.transcript(event)
                late = self._turns.late_transcript(event)
                self._state.broadcast(event.model_copy(update={"late": late is not None}), turn_id=late)
            case TurnDiscarded() if not self._state.over:
                self._interruption.discarded(event)
                self._turns.discarded(event)

    def _reply(self, event: ReplyStarted | ReplyTranscript | ReplyEnded | Interrupted) -> None:
        self._lifecycle.active()
        if self._rotation.opening:
            self._reply_usage(event)
            return
        match event:
            case ReplyStarted():
                speech = self._speech.started(event)
                turn_id = speech.turn.turn_id if speech is not None and speech.turn is not None else None
                self._state.broadcast(event, speech_id=self._speech_id(event.reply), turn_id=turn_id)
                if speech is not None and speech.kind == "reply":
                    self._calls.follow_up.model_spoke(speech)
            case ReplyTranscript():
                self._state.broadcast(event, speech_id=self._speech_id(event.reply))
                self._speech.transcript(event)
            case ReplyEnded():
                self._speech.ended(event)
                self._reply_usage(event)
                if event.status == "cancelled" and event.why == "interrupted":
                    self._calls.interrupted(event.reply)
            case Interrupted():
                self._state.broadcast(event, speech_id=self._speech_id(event.reply))
                self._speech.interrupted(event)
                if not self._state.stops_replies:
                    self._calls.interrupted(event.reply)

    def _playout(self, event: PlayoutStarted | PlayoutStopped | PlayoutCleared) -> None:
        self._state.broadcast(event, speech_id=self._speech_id(event.reply))
        self._speech.playout(event)
        self._lifecycle.active()

    def _reply_usage(self, event: Event) -> None:
        if not isinstance(event, ReplyEnded):
            return
        if event.usage is not None:
            self._count(event.reply, event.usage, source="ended")
        elif event.status == "completed":
            self._usage_meter.note_missing()

    def _usage(self, event: UsageReported) -> None:
        self._state.broadcast(event)
        if event.kind == "transcription" and event.item is not None:
            turn = self._turns.find(event.item)
            key = ("transcription", event.item)
            self._usage_meter.add(
                UsageSample(kind="transcription", usage=event.usage, key=key, turn=turn, item=event.item)
            )
        elif event.kind == "reply" and event.reply is not None:
            self._count(event.reply, event.usage, source="reported")
        else:
            self._usage_meter.add(UsageSample(kind=event.kind, usage=event.usage, item=event.item))

    def _count(self, reply: str, usage: Usage, *, source: str) -> None:
        speech = self._speech.utterance_of(reply)
        # a text that is spoken exactly comes from a text-to-speech model, not from the conversation's model
        exact = self._state.capabilities.say == "exact" and speech is not None and speech.kind != "reply"
        kind: UsageKind = "speech" if exact else "reply"
        turn = speech.turn if speech is not None else None
        speech_id = speech.id if speech is not None else None
        self._usage_meter.add(UsageSample(kind=kind, usage=usage, key=(source, reply), speech_id=speech_id, turn=turn))

    def _rate_limit(self, event: RateLimit) -> None:
        self._state.broadcast(event)
        if event.remaining == 0 and event.name not in self._low:
            self._low.add(event.name)
            self._state.warn("rate_limit_low", f"nothing is left of the provider's limit of {event.name}")

    def _speech_id(self, reply: str) -> str | None:
        speech = self._speech.utterance_of(reply)
        return speech.id if speech is not None else None

    def _fault(self, event: ProviderFault) -> None:
        if event.code == NO_LISTENER:
            self._speech.fault(event)  # without a listener there is nobody to broadcast to; the speech's record says it
            return
        self._state.broadcast(event)
        if event.fatal:
            self._lifecycle.end(ProviderFault, EndReason.PROVIDER_ERROR, f"{event.code}: {event.message}")
        elif not self._speech.fault(event) and not event.retry:
            self._state.warn(event.code, event.message)
