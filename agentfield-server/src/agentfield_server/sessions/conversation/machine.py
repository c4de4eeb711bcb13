"""Sans-I/O state machine of a session: it takes inputs and the current time and returns effects.

The machine has no clock, no socket and no randomness. `docs/session-machine.md` describes it for readers, with the
transition tables; this is the theory of operation.

**Inputs.** `feed(input, now)` takes an event of the provider (`agentfield.realtime.events`) or an input of `inputs`:
commands and news of the handler, results of tools, the caller's page, typed text, a request to end. `tick(now)` lets
deadlines fire; `next_deadline()` says when the next one is due.

**Effects.** Both return the effects (`effects`) in the order in which the session actor must carry them out. Nothing
else leaves the machine.

**Time.** `now` is seconds of any monotonic clock and never runs backwards. Before an input is handled, the deadlines
that have passed fire in their order, each followed by a settle. A deadline is a typed key (`timers.Timer`).

**Parts.** `MachineState` is shared. `TurnTracker` knows what the caller says, `SpeechSequencer` what the agent says,
`ToolCallTracker` the calls, `HandlerLoop` the runs of the handler, `BargeInController` when the caller interrupts,
`ProviderRotation` when the provider's session is replaced, `UsageMeter` what was used, `SessionLifecycle` the phase of
the session and its end. `HandlerCommandDispatcher` and `ProviderEventDispatcher` pass commands and events to them.

**Settle.** A handler of an input only notes what happened. Afterwards the parts do what has become possible, in a fixed
order, until a round adds no effect: turns are accepted; the handler gets turns; tool batches are answered and the model
is asked to continue; the next speech is sent; finished turns are closed; limits, failures and the end are checked.

**Rules.**

1. The phase, a turn's stage and an utterance's stage change only by a row of `transitions`; any other change raises.
2. The reason to end is set once; everything that would end the session later is ignored.
3. Every command of the handler is answered exactly once; a repeated command gets the same answer again.
4. Only the current run of the handler is obeyed: a command with another epoch is rejected.
5. One reply slot: one speech is sent or under way at a time; the others wait in their order.
6. A speech is finished when it is known how much of it was heard, not when it is generated.
7. Turns reach the handler in the order of the conversation, with their words, or with the reason why these are missing.
8. A newer turn makes the speech that answers an older one stale, unless the newer one is a backchannel.
9. A tool call id is used once; every call of the model is answered, by a result, as pending, or by a refusal, unless the
    provider takes it back.
10. An effect that reveals something follows the record of it: the store commits first.
11. Only the provider's current session counts: events of one that is being replaced change nothing. A replacement is told
    what it does not know of the conversation.
12. While an uninterruptible speech is sent or heard, the provider may neither stop it nor answer by itself; turns wait until it
    was heard.
13. A turn on the model's floor that is not being answered 15 s after its commit is closed as failed; one to which the model
    chose silence succeeds. The model is asked only for answers that it does not give by itself (`answers_after`).
14. After the end the handler's calls are accepted for `lifecycle.GRACE` seconds; then the machine is released.
"""

from __future__ import annotations

from collections import deque

from agentfield.plugins.manifest.spec import Capabilities, Media
from agentfield.realtime.commands import AddTextCommand
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import (
    TurnCommitted,
)
from agentfield_server.sessions.conversation.dispatch.handler_commands import HandlerCommandDispatcher
from agentfield_server.sessions.conversation.dispatch.provider_events import ProviderEventDispatcher
from agentfield_server.sessions.conversation.effects import Effect
from agentfield_server.sessions.conversation.handler_loop import HandlerLoop
from agentfield_server.sessions.conversation.inputs import (
    CallerBegan,
    CallerConnected,
    CallerDisconnected,
    CallRefused,
    CancelSpeech,
    EndSession,
    HandlerCall,
    HandlerDone,
    HandlerEnd,
    HandlerInput,
    HandlerLost,
    HandlerOpened,
    HandlerReattached,
    HandlerReply,
    HandlerSay,
    HandlerUnavailable,
    Input,
    OfferAccepted,
    ProviderFailed,
    Rotated,
    Snapshot,
    TextInput,
    ToolFinished,
    ToolStarted,
)
from agentfield_server.sessions.conversation.lifecycle import SessionLifecycle
from agentfield_server.sessions.conversation.rotation import ProviderRotation
from agentfield_server.sessions.conversation.speech.interruption import BargeInController
from agentfield_server.sessions.conversation.speech.model_answers import ModelAnswers
from agentfield_server.sessions.conversation.speech.sequencer import SpeechSequencer
from agentfield_server.sessions.conversation.state import IdSource, MachineState
from agentfield_server.sessions.conversation.timers import ROTATION_TIMERS, SPEECH_TIMERS, Timer, TimerKind
from agentfield_server.sessions.conversation.tools.calls import ToolCallTracker
from agentfield_server.sessions.conversation.tools.redaction import Redactor, unredacted
from agentfield_server.sessions.conversation.turns import TurnTracker
from agentfield_server.sessions.conversation.usage.pricing import Pricer, reported_cost
from agentfield_server.sessions.conversation.usage_meter import UsageMeter

__all__ = ["SessionMachine"]


_MAX_TYPED_EARLY = 8


class SessionMachine:
    """State machine of one session.

    Args:
        config: The frozen configuration.
        capabilities: Capabilities of the session's pair of provider and transport.
        media: Which way the caller's audio takes.
        ids: Makes identifiers, given their prefix.
        now: The time of creation, seconds of any monotonic clock; every later call uses the same clock.
        offset: Seconds to add to that clock to get seconds since the epoch.
        snapshot: What the store knows of a session that continues after a restart; None for a new one.
        price: Prices a usage report.
        redact: Redacts the input of a call before anything of it is recorded.
    """

    def __init__(
        self,
        config: SessionConfig,
        *,
        capabilities: Capabilities,
        media: Media,
        ids: IdSource,
        now: float,
        offset: float = 0.0,
        snapshot: Snapshot | None = None,
        price: Pricer = reported_cost,
        redact: Redactor = unredacted,
    ) -> None:
        self.state = MachineState(config, capabilities=capabilities, media=media, ids=ids, offset=offset, now=now)
        self.turns = TurnTracker(self.state)
        self.speech = SpeechSequencer(self.state, self.turns)
        self.tool_calls = ToolCallTracker(self.state, self.turns, self.speech, redact)
        self.handler = HandlerLoop(self.state, self.turns, self.speech)
        self.interruption = BargeInController(self.state, self.turns, self.speech)
        self.model_answers = ModelAnswers(self.state, self.turns, self.speech)
        self.rotation = ProviderRotation(self.state, self.turns, self.speech, self.tool_calls)
        self.usage = UsageMeter(self.state, price)
        self.lifecycle = SessionLifecycle(
            self.state, self.turns, self.speech, self.tool_calls, self.handler, self.rotation, self.usage
        )
        self._typed_early: deque[TextInput] = deque()
        """Texts that the caller typed before the call was live."""
        self.commands = HandlerCommandDispatcher(
            self.state, self.turns, self.speech, self.tool_calls, self.handler, self.lifecycle
        )
        self.events = ProviderEventDispatcher(
            self.state,
            self.turns,
            self.speech,
            self.tool_calls,
            self.handler,
            interruption=self.interruption,
            model_answers=self.model_answers,
            rotation=self.rotation,
            usage=self.usage,
            lifecycle=self.lifecycle,
            resumed=snapshot is not None,
        )
        if snapshot is not None:
            self._restore(snapshot)

    def feed(self, event: Input, now: float) -> list[Effect]:
        """Handle an input at the time `now` and return its effects."""
        self._advance_to(now)
        self._dispatch(event)
        return self._settled()

    def tick(self, now: float) -> list[Effect]:
        """Let the deadlines that have passed fire and return their effects; early and repeated calls do nothing."""
        self._advance_to(now)
        return self._settled()

    def next_deadline(self) -> float | None:
        """Return when `tick` is due, None if no deadline is set."""
        return self.state.timers.next()

    # --- inside

    def _restore(self, snapshot: Snapshot) -> None:
        self.handler.epoch = snapshot.handler_epoch
        self.turns.restore(snapshot.open_turns, snapshot.turns)
        self.tool_calls.restore(snapshot)
        self.usage.restore(snapshot.used)
        self.state.restore_history(snapshot.history, snapshot.history_count)
        for speech_id, asked in snapshot.open_speeches:
            self.speech.log.lost(speech_id, asked)
        self.lifecycle.restore(snapshot.live_for)

    def _advance_to(self, now: float) -> None:
        self.state.now = max(self.state.now, now)
        while (timer := self.state.timers.pop_due(self.state.now)) is not None:
            self._fire(timer)
            self._settle()

    def _fire(self, timer: Timer) -> None:
        match timer.kind:
            case TimerKind.TURN:
                self.turns.stop_waiting_for(timer.subject or "")
            case TimerKind.SPEAKING:
                self.turns.caller_silent()
            case TimerKind.FILLER:
                self.tool_calls.filler_due(timer.subject or "")
            case TimerKind.BARGE_IN:
                self.interruption.fire()
            case TimerKind.ANSWER:
                self.model_answers.overdue(timer.subject or "")
            case TimerKind.TOOL_BATCH | TimerKind.TOOL_NEWER | TimerKind.OPENING:
                pass  # the settle that follows looks at the time
            case kind if kind in SPEECH_TIMERS:
                self.speech.fire(kind)
            case kind if kind in ROTATION_TIMERS:
                self.rotation.fire(kind)
            case kind:
                self.lifecycle.fire(kind)

    def _settled(self) -> list[Effect]:
        self._settle()
        return self.state.take_effects()

    def _settle(self) -> None:
        """Let every part do what has become possible, until a round adds no effect."""
        before = -1
        while before != len(self.state.effects):
            before = len(self.state.effects)
            if not self.state.over:
                self.turns.accept_ready()
                self.model_answers.take_back()
                self.handler.deliver()
                self.tool_calls.settle()
            self.speech.send_next()
            self._close_turns()
            self.lifecycle.check()

    def _close_turns(self) -> None:
        for turn in list(self.turns.open.values()):
            if self.speech.has_speech_of(turn) or self.tool_calls.has_call_of(turn):
                continue
            superseded = self.turns.has_newer(turn)
            done = (turn.answered or superseded) and turn.words_known if self.state.model_floor else turn.released
            if done:
                self.turns.close(turn)

    def _dispatch(self, event: Input) -> None:
        match event:
            case HandlerInput() | HandlerSay() | HandlerReply() | CancelSpeech() | HandlerCall() | HandlerEnd():
                self.commands.dispatch(event)
            case HandlerOpened() | HandlerDone() | HandlerUnavailable() | HandlerReattached() | HandlerLost():
                self._handler_changed(event)
            case ToolStarted():
                self.tool_calls.started(event)
            case ToolFinished():
                self.tool_calls.finished(event)
            case OfferAccepted():
                self.lifecycle.offered()
            case CallRefused():
                self.lifecycle.refused(event)
            case ProviderFailed():
                self.lifecycle.failed(event)
            case Rotated():
                self.rotation.opened(event.known)
            case CallerBegan():
                self.interruption.pressed()
            case TextInput():
                self._text_typed(event)
            case CallerConnected():
                self.lifecycle.caller_connected()
            case CallerDisconnected():
                self.lifecycle.caller_disconnected()
            case EndSession():
                self.lifecycle.end_requested(event)
            case _:
                self.events.dispatch(event)
                while self._typed_early and self.state.live:
                    self._text_typed(self._typed_early.popleft())

    def _text_typed(self, event: TextInput) -> None:
        if not self.state.live:
            # the caller's connection is open before the provider's session is
            if not self.state.over and len(self._typed_early) < _MAX_TYPED_EARLY:
                self._typed_early.append(event)
            return
        item = self.state.ids("op")[:32]
        self.lifecycle.active()
        self.state.send(AddTextCommand(item=item, text=event.text, role="user"))
        self.model_answers.committed(TurnCommitted(item=item, text=event.text))

    def _handler_changed(
        self, event: HandlerOpened | HandlerDone | HandlerUnavailable | HandlerReattached | HandlerLost
    ) -> None:
        match event:
            case HandlerOpened():
                self.handler.opened(event.epoch)
            case HandlerReattached():
                self.handler.opened(event.epoch)
            case HandlerDone():
                self.handler.done(event)
            case HandlerUnavailable() if not self.state.over:
                self.handler.unavailable(event.detail)
            case HandlerLost():
                self.handler.lost(event.epoch)
