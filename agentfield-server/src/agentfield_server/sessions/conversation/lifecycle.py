"""Lifecycle of a session: from the offer to the call, the limits of the call, and one end with one reason.

Every change of the session's phase happens here, by a transition of `transitions.SESSION_TRANSITIONS`. The first reason
to end is kept; later ones are ignored. An end may speak a goodbye first: the phase is `ending` until it is over.
"""

from __future__ import annotations

from agentfield.realtime.events import SessionClosed, SessionExpiring, SessionReady, SessionUpdated
from agentfield_server.sessions.conversation.effects import (
    CloseRootExecution,
    HangUp,
    ReleaseMachine,
    ResumeUplink,
    StopHandler,
)
from agentfield_server.sessions.conversation.handler_loop import HandlerLoop
from agentfield_server.sessions.conversation.inputs import CallRefused, EndSession, OfferAccepted, ProviderFailed
from agentfield_server.sessions.conversation.provider_echo import mismatch, record_attached
from agentfield_server.sessions.conversation.rotation import ProviderRotation
from agentfield_server.sessions.conversation.speech.sequencer import SpeechSequencer
from agentfield_server.sessions.conversation.state import MachineState
from agentfield_server.sessions.conversation.text_compare import speaking_seconds
from agentfield_server.sessions.conversation.timers import SPEECH_TIMERS, TimerKind
from agentfield_server.sessions.conversation.tools.calls import ToolCallTracker
from agentfield_server.sessions.conversation.transitions import (
    SESSION_TRANSITIONS,
    Condition,
    EndReason,
    SessionPhase,
    Trigger,
)
from agentfield_server.sessions.conversation.turns import TurnTracker
from agentfield_server.sessions.conversation.usage_meter import UsageMeter

__all__ = ["GONE_WAIT", "GRACE", "MEDIA_WAIT", "OFFER_WAIT", "SessionLifecycle"]

OFFER_WAIT = 600.0
"""Seconds within which the caller must make an offer, that is, open the address of the page."""
MEDIA_WAIT = 30.0
"""Seconds after an offer, or after a restart, within which the provider's session must be ready."""
GONE_WAIT = 10.0
"""Seconds after the caller's page stopped listening at which the caller counts as gone."""
GRACE = 60.0
"""Seconds after the end in which `session.call` still works."""
_EXPIRY_MARGIN = 15.0
"""Seconds before the provider's expiry at which the session ends, so that a goodbye fits in."""
_MAX_SPEECH = 300.0
"""Longest speech of the caller, in seconds, that counts as activity."""
_GOODBYE_WAIT = 20.0
"""Seconds for the goodbye besides its estimated duration."""
_MAX_DRIFTS = 3
"""How often a drift of the provider's configuration is corrected."""
_WITH_GOODBYE = frozenset(
    {
        EndReason.HANDLER_ENDED,
        EndReason.HANDLER_FAILED,
        EndReason.LIMIT_COST,
        EndReason.LIMIT_DURATION,
        EndReason.LIMIT_IDLE,
        EndReason.LIMIT_TOOLS,
        EndReason.LIMIT_TURNS,
        EndReason.NODE_LOST,
        EndReason.PROVIDER_EXPIRED,
    }
)
"""Reasons for which the goodbye is spoken: the caller is still there, and did not end the call."""


class SessionLifecycle:
    """The session's phase, its limits, and its end.

    Args:
        state: State shared with the other parts.
        turns: Turns of the caller.
        speech: Speeches of the agent.
        calls: Tool calls.
        handler: Runs of the handler.
        rotation: Replacement of the provider's session.
        usage: Usage and its cost.
    """

    def __init__(
        self,
        state: MachineState,
        turns: TurnTracker,
        speech: SpeechSequencer,
        calls: ToolCallTracker,
        handler: HandlerLoop,
        rotation: ProviderRotation,
        usage: UsageMeter,
    ) -> None:
        self._state = state
        self._turns = turns
        self._speech = speech
        self._calls = calls
        self._handler = handler
        self._rotation = rotation
        self._usage = usage
        self._busy = False
        """Whether a recorded turn was being answered at the last check."""
        self._active_at = state.now
        self._was_live = False
        """Whether the session has been live, before a restart included."""
        self._restored = False
        """Whether the session continues after a restart and is not ready yet."""
        self._reattached = False
        """Whether the call from before the restart was attached to."""
        self._called = False
        """Whether a call exists at the provider that must be hung up."""
        self._drifts = 0
        state.timers.set(TimerKind.OFFER, state.now + OFFER_WAIT)

    # --- the call

    def offered(self) -> None:
        """Take the call that now exists at the provider; a second one replaces the first in the same session."""
        if self._state.over:
            return
        self._state.timers.clear(TimerKind.OFFER)
        self._state.timers.set(TimerKind.MEDIA, self._state.now + MEDIA_WAIT)
        self._called = True
        if self._was_live:
            self._state.attached = False
            self._state.interruption.reset()
            self._turns.caller_silent()
            self._speech.drop_current("new_call")
            self._calls.flush_batches()
            self._calls.follow_up.ask_instead()
            self._rotation.ready()
            # the first call after a restart is the one from before, if the pair can attach to it again; it then holds
            # the conversation, while any other call starts empty
            self._rotation.empty = self._state.can_rotate or not self._restored or self._reattached
            self._reattached = True
        self._state.enter(OfferAccepted)

    def ready(self, event: SessionReady) -> None:
        """Go live when the provider's session is ready and has the model and voice that were asked for."""
        rotated = self._rotation.running
        if self._state.over or (self._state.live and not rotated):
            return
        self._called = True
        if self._mismatch(event):
            return
        record_attached(self._state, event)
        self._restored = False
        self._state.timers.clear(TimerKind.MEDIA)
        self._state.timers.clear(TimerKind.OFFER)
        self._state.attached = True
        self._state.interruption.reset()
        self._rotation.ready()
        if not rotated:
            self._state.enter(SessionReady)
        if event.expires_at is not None:
            self._expiry(event.expires_at)
        self._rotation.replay()
        self.active()
        if not self._was_live:
            self._was_live = True
            self._begin()
        if self._state.relays_audio:
            self._state.emit(ResumeUplink())

    def restore(self, live_for: float) -> None:
        """Continue a session that was live before a restart, for `live_for` seconds; its greeting is not repeated."""
        self._was_live = self._called = self._restored = True
        self._rotation.empty = self._state.can_rotate
        # not emitted: for the store and the listeners nothing has changed until the call is attached to again
        self._state.phase = SESSION_TRANSITIONS.next(self._state.phase, Condition.RESTORED)
        self._state.timers.clear(TimerKind.OFFER)
        self._state.timers.set(TimerKind.MEDIA, self._state.now + MEDIA_WAIT)
        self._arm_duration(live_for)

    def updated(self, event: SessionUpdated) -> None:
        """Take a change of the provider's configuration: correct, allow or end on drift, as declared."""
        if self._state.over or self._mismatch(event) or not event.drift:
            return
        policy = self._state.config.declaration.drift
        fields = list(event.drift)
        if policy == "enforce" and self._drifts < _MAX_DRIFTS:
            self._drifts += 1
            self._state.record("drift", fields=fields, action="enforced")
            self._state.interruption.restore()
        elif policy == "allow":
            self._state.record("drift", fields=fields, action="allowed")
        else:
            self._state.record("drift", fields=fields, action="ended")
            detail = f"the caller changed the session: {', '.join(fields)}"
            self.end(Condition.MISMATCH, EndReason.MISMATCH, detail)

    def expires(self, event: SessionExpiring) -> None:
        """Take the provider's announcement, in the middle of the call, of when it ends its session."""
        if self._state.over or not self._state.live:
            return
        self._expiry(event.expires_at)
        warn = self._state.config.declaration.limits.warn
        # an announcement that is later than the warning would have been
        if warn > 0 and not self._state.can_rotate and TimerKind.EXPIRY_WARNING not in self._state.timers:
            left = event.expires_at - self._state.offset - self._state.now
            self._state.warn("provider_expires", f"the provider ends the session in about {max(0.0, left):.0f} s")

    # --- limits

    def active(self) -> None:
        """Note that the caller or the agent spoke, which restarts the idle limit."""
        self._active_at = self._state.now
        if self._state.live:
            self._state.timers.set(TimerKind.IDLE, self._state.now + self._state.config.declaration.limits.idle)

    def fire(self, kind: TimerKind) -> None:
        """Act on a deadline of the session that has passed."""
        limits = self._state.config.declaration.limits
        match kind:
            case TimerKind.OFFER:
                self.end(kind, EndReason.NEVER_CONNECTED, f"no offer came within {OFFER_WAIT:g} s")
            case TimerKind.MEDIA:
                self._not_ready()
            case TimerKind.CALLER_GONE:
                self.end(kind, EndReason.CALLER_HANGUP, f"the caller's connection was lost for {GONE_WAIT:g} s")
            case TimerKind.DURATION_WARNING:
                self._state.warn("limit_duration", f"the session ends in {limits.warn:g} s")
            case TimerKind.EXPIRY_WARNING:
                self._state.warn("provider_expires", f"the provider ends the session in about {limits.warn:g} s")
            case TimerKind.DURATION:
                self.end(kind, EndReason.LIMIT_DURATION, f"the session lasted {limits.duration:g} s")
            case TimerKind.EXPIRY:
                self.end(kind, EndReason.PROVIDER_EXPIRED, "the provider's longest session is over")
            case TimerKind.IDLE:
                self._idle()
            case TimerKind.NODE:
                self.end(kind, EndReason.NODE_LOST, self._handler.missing)
            case TimerKind.GOODBYE:
                self._finish(kind)
            case TimerKind.GRACE:
                self._release()

    # --- presence of the caller's page

    def caller_connected(self) -> None:
        """Note that the caller's page listens."""
        self._state.timers.clear(TimerKind.CALLER_GONE)

    def caller_disconnected(self) -> None:
        """Note that the caller's page no longer listens; it may come back within `GONE_WAIT`."""
        if self._state.phase in (SessionPhase.CONNECTING, SessionPhase.LIVE) and not self._state.over:
            self._state.timers.set(TimerKind.CALLER_GONE, self._state.now + GONE_WAIT)

    # --- the end

    def refused(self, event: CallRefused) -> None:
        """Record that the provider refused the call; end the session if another attempt cannot succeed."""
        if self._state.over:
            return
        self._state.record("provider.refused", code=event.code, message=event.message, final=event.final)
        if event.final:
            self.end(CallRefused, EndReason.PROVIDER_ERROR, f"{event.code}: {event.message}")

    def closed(self, event: SessionClosed, trigger: Trigger = SessionClosed) -> None:
        """Take the end of the provider's session; rotate if only its connection broke, else end.

        Args:
            event: How it ended.
            trigger: The input that said so.
        """
        if self._rotation.opening:
            return  # the old session of a rotation; `ProviderFailed` reports a replacement that cannot be opened
        self._state.attached = False
        if event.retry and self._state.can_rotate and self._state.live:
            self._rotation.lost(event.message, expired=event.reason == "provider_expired")
            return
        # a plain close means that the caller hung up: faults and expiry have reasons of their own
        reason = EndReason.CALLER_HANGUP if event.reason == "closed" else EndReason(event.reason)
        if self._state.over:
            self._finish(trigger)
        else:
            detail = _ice_detail(event.message) if reason is EndReason.ICE_FAILED else event.message
            self.end(trigger, reason, detail)

    def failed(self, event: ProviderFailed) -> None:
        """Take a broken connection, or a replacement that could not be opened."""
        if self._rotation.opening and event.retry:
            self._rotation.failed(event.message)
            return
        self._rotation.opened()
        closed = SessionClosed(reason="provider_error", message=event.message, retry=event.retry)
        self.closed(closed, ProviderFailed)

    def end_requested(self, command: EndSession) -> None:
        """End the session from outside; if it is ending already, stop waiting for the goodbye."""
        if self._state.phase is SessionPhase.ENDING:
            self._finish(EndSession)
        else:
            detail = command.detail or (_ice_detail(None) if command.reason == EndReason.ICE_FAILED else None)
            self.end(EndSession, command.reason, detail)

    def end(self, trigger: Trigger, reason: str, detail: str | None = None) -> None:
        """End the session, with a goodbye if one can be spoken; ignored if it is over.

        Args:
            trigger: What ends it, as in the table of transitions.
            reason: An `EndReason`, or the reason of a transport plugin.
            detail: The reason in words.
        """
        if self._state.over:
            return
        state = self._state
        can_speak = state.attached and state.live
        state.timers.clear_all(keep=SPEECH_TIMERS)
        state.enter_end(trigger, reason, detail)
        self._handler.refuse_inputs("the session is over")
        self._turns.drop_waiting()
        self._speech.queue.clear(but="on_error")
        goodbye = state.config.declaration.goodbye
        if not can_speak or reason not in _WITH_GOODBYE:
            self._finish(Condition.NO_GOODBYE)
            return
        if reason == EndReason.LIMIT_DURATION:
            self._speech.stop_active()
        if goodbye is not None:
            self._speech.enqueue("goodbye", asked=goodbye.text, interruptible=goodbye.interruptible)
        speaking = speaking_seconds(goodbye.text if goodbye is not None else "")
        state.timers.set(TimerKind.GOODBYE, state.now + _GOODBYE_WAIT + speaking)

    def check(self) -> None:
        """End on a limit or failure that another part has found; finish when the goodbye is over."""
        if self._turns.over_limit:
            self.end(
                Condition.TURN_LIMIT, EndReason.LIMIT_TURNS, "the last turn that the session may have was answered"
            )
        if self._calls.over_limit:
            self.end(
                Condition.TOOL_LIMIT, EndReason.LIMIT_TOOLS, "the model used all tool calls that the session may have"
            )
        if (spent := self._usage.exceeded) is not None:
            self.end(Condition.COST_LIMIT, EndReason.LIMIT_COST, spent)
        if self._rotation.fatal is not None:
            self.end(Condition.ROTATION_FAILED, *self._rotation.fatal)
        if self._handler.fatal is not None:
            self.end(Condition.HANDLER_FATAL, EndReason.HANDLER_FAILED, self._handler.fatal)
        if self._state.phase is SessionPhase.ENDING and self._speech.quiet:
            self._finish(Condition.SPEECH_DONE)
        if not self._state.over:
            self._rotation.check()
            self._check_work()

    # --- inside

    def _begin(self) -> None:
        self._arm_duration(0.0)
        self._speech.opening.begin()
        greeting = self._state.config.declaration.greeting
        if greeting is not None:
            self._speech.enqueue("greeting", asked=greeting.text, interruptible=greeting.interruptible)
            self._speech.send_next()  # before the audio that was held, which the model would answer first
        self._handler.open()

    def _arm_duration(self, spent: float) -> None:
        limits = self._state.config.declaration.limits
        left = max(0.0, limits.duration - spent)
        self._state.timers.set(TimerKind.DURATION, self._state.now + left)
        if 0 < limits.warn < left:
            self._state.timers.set(TimerKind.DURATION_WARNING, self._state.now + left - limits.warn)

    def _expiry(self, expires_at: float) -> None:
        left = expires_at - self._state.offset - self._state.now
        if self._state.can_rotate:
            self._rotation.plan(left)
            return
        warn = self._state.config.declaration.limits.warn
        self._state.timers.set(TimerKind.EXPIRY, self._state.now + max(0.0, left - _EXPIRY_MARGIN))
        if 0 < warn < left - _EXPIRY_MARGIN:
            self._state.timers.set(TimerKind.EXPIRY_WARNING, self._state.now + left - _EXPIRY_MARGIN - warn)

    def _mismatch(self, event: SessionReady | SessionUpdated) -> bool:
        detail = mismatch(self._state.config, event)
        if detail is not None:
            self.end(Condition.MISMATCH, EndReason.MISMATCH, detail)
        return detail is not None

    def _not_ready(self) -> None:
        if self._restored:
            detail = f"the call could not be taken up again within {MEDIA_WAIT:g} s of the restart"
            self.end(TimerKind.MEDIA, EndReason.CONTROL_PLANE_RESTART, detail)
        else:
            detail = f"the call was not ready {MEDIA_WAIT:g} s after the offer"
            self.end(TimerKind.MEDIA, EndReason.NEVER_CONNECTED, detail)

    def _idle(self) -> None:
        idle = self._state.config.declaration.limits.idle
        talking = self._turns.speaking is not None and self._state.now - self._active_at < _MAX_SPEECH
        if self._speech.active is not None or talking or self._working:
            self._state.timers.set(TimerKind.IDLE, self._state.now + idle)
        else:
            self.end(TimerKind.IDLE, EndReason.LIMIT_IDLE, f"nobody spoke for {idle:g} s")

    @property
    def _working(self) -> bool:
        """Whether a recorded turn is being answered: its caller can only wait, so the session is not idle."""
        if self._state.media != "turns":
            return False
        current = self._turns.current
        handling = self._handler.running and current is not None and not current.released
        return handling or not (self._speech.quiet and self._calls.quiet)

    def _check_work(self) -> None:
        """Count idleness on recorded turns from the end of the turn's answer, or of a speech."""
        busy = self._working
        if busy or self._busy:
            self.active()
        self._busy = busy

    def _finish(self, trigger: Trigger) -> None:
        """End the call: close everything that is open, then let the handler's calls run until the grace ends."""
        state = self._state
        if state.phase is SessionPhase.ENDED or state.reason is None:
            return
        self._rotation.ready()
        self._speech.drop_all("session_ended")
        self._handler.refuse_inputs("the session is over")
        for op_id in state.ops.pending():
            if op_id not in self._calls.handler_calls:
                state.ops.reject(op_id, state.ended_error())
        self._turns.close_all()
        state.attached = False
        if self._called:
            state.emit(HangUp())
        if self._handler.epoch:
            state.emit(StopHandler(epoch=self._handler.epoch, reason=state.reason))
        self._usage.close()
        state.emit(CloseRootExecution(state.reason, state.detail))
        state.enter(trigger)
        state.timers.clear_all()
        state.timers.set(TimerKind.GRACE, state.now + GRACE)

    def _release(self) -> None:
        """Reject what is still pending after the grace, and release the machine."""
        for op_id in self._state.ops.pending():
            self._state.ops.reject(op_id, self._state.ended_error())
        self._state.emit(ReleaseMachine())


def _ice_detail(message: str | None) -> str:
    """Return the detail of a call whose audio found no network path."""
    problem = (message or "no way for the audio was found between the caller and the provider").rstrip(". ")
    return (
        f"{problem}; is UDP blocked in between, or does the provider advertise an address that the caller cannot reach? "
        "The websocket transport needs no UDP"
    )
