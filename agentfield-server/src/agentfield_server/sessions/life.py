"""Beginning and end of a call: connecting, the provider's echo, drift, limits, presence, and one end with one reason."""

from __future__ import annotations

from agentfield.realtime.commands import Update
from agentfield.realtime.events import SessionClosed, SessionReady, SessionUpdated
from agentfield_server.sessions.board import Board
from agentfield_server.sessions.calls import ToolDesk
from agentfield_server.sessions.costs import Till
from agentfield_server.sessions.effects import Ended, Finished, HangUp, SetState, StopHandler, TakeAudio
from agentfield_server.sessions.handler import HandlerLoop
from agentfield_server.sessions.inputs import CallRefused, EndSession, ProviderFailed
from agentfield_server.sessions.rotation import Rotation
from agentfield_server.sessions.speech import Sequencer
from agentfield_server.sessions.turns import TurnBook
from agentfield_server.sessions.words import same_name, speaking_seconds

__all__ = ["GONE_WAIT", "GRACE", "MEDIA_WAIT", "OFFER_WAIT", "Life"]

OFFER_WAIT = 600.0
"""Seconds that a page address may wait for somebody to open it."""
MEDIA_WAIT = 30.0
GONE_WAIT = 10.0
GRACE = 60.0
"""Seconds after the end in which `session.call` still works."""
_EXPIRY_MARGIN = 15.0
_MAX_SPEECH = 300.0
_GOODBYE_WAIT = 20.0
_MAX_DRIFTS = 3
_WITH_GOODBYE = frozenset(
    {
        "handler_ended",
        "handler_failed",
        "limit_cost",
        "limit_duration",
        "limit_idle",
        "limit_tools",
        "limit_turns",
        "node_lost",
        "provider_expired",
    }
)


class Life:
    """Where the session stands, and why it ends."""

    def __init__(
        self,
        board: Board,
        turns: TurnBook,
        speech: Sequencer,
        calls: ToolDesk,
        handler: HandlerLoop,
        rotation: Rotation,
        till: Till,
    ) -> None:
        self._board = board
        self._turns = turns
        self._speech = speech
        self._calls = calls
        self._handler = handler
        self._rotation = rotation
        self._till = till
        self._busy = False
        self._active_at = board.now
        self._was_live = False
        self._restored = False
        """Whether it went on after a restart and is not ready yet."""
        self._reattached = False
        """Whether that call was taken up again."""
        self._called = False
        """Whether there is a call at the provider to hang up."""
        self._drifts = 0
        board.timers.set("offer", board.now + OFFER_WAIT)

    # --- beginning

    def offered(self) -> None:
        """The call exists at the provider; a second one replaces the first in the same session."""
        if self._board.over:
            return
        self._board.timers.clear("offer")
        self._board.timers.set("media", self._board.now + MEDIA_WAIT)
        self._called = True
        if self._was_live:
            self._board.attached = False
            self._board.interruptible = True
            self._turns.silence()
            self._speech.drop_current("new_call")
            self._calls.move()
            self._rotation.ready()
            # the first call after a restart is the one that was there before, where it can be attached to again
            self._rotation.empty = self._board.replays or not self._restored or self._reattached
            self._reattached = True
        self._board.state = "connecting"
        self._board.emit(SetState(state="connecting"))

    def ready(self, event: SessionReady) -> None:
        """The provider has the session: compare what it echoes, then the call is live."""
        rotated = self._rotation.running
        if self._board.over or (self._board.live and not rotated):
            return
        self._called = True
        if self._mismatch(event):
            return
        self._announce(event)
        self._restored = False
        self._board.timers.clear("media")
        self._board.timers.clear("offer")
        self._board.attached = self._board.interruptible = True
        self._rotation.ready()
        if not rotated:
            self._board.state = "live"
            self._board.emit(SetState(state="live"))
        self._expiry(event)
        self._rotation.replay()
        if self._board.carried:
            self._board.emit(TakeAudio())
        self.active()
        if not self._was_live:
            self._was_live = True
            self._begin()

    def restore(self, live_for: float) -> None:
        """Go on with a session that was live; the greeting has been spoken."""
        self._was_live = self._called = self._restored = True
        self._rotation.empty = self._board.replays
        self._board.state = "connecting"
        self._board.timers.clear("offer")
        self._board.timers.set("media", self._board.now + MEDIA_WAIT)
        self._arm_duration(live_for)

    def updated(self, event: SessionUpdated) -> None:
        """The provider's configuration changed: what is not ours is drift."""
        if self._board.over or self._mismatch(event) or not event.drift:
            return
        policy = self._board.config.declaration.drift
        fields = list(event.drift)
        if policy == "enforce" and self._drifts < _MAX_DRIFTS:
            self._drifts += 1
            self._board.record("drift", fields=fields, action="enforced")
            self._board.send(Update(interruptible=self._board.interruptible))
        elif policy == "allow":
            self._board.record("drift", fields=fields, action="allowed")
        else:
            self._board.record("drift", fields=fields, action="ended")
            self.end("mismatch", f"the caller changed the session: {', '.join(fields)}")

    # --- time

    def active(self) -> None:
        """Somebody spoke."""
        self._active_at = self._board.now
        if self._board.live:
            self._board.timers.set("idle", self._board.now + self._board.config.declaration.limits.idle)

    def fire(self, timer: str) -> None:
        """A deadline of the session has passed."""
        if timer.startswith("rotate:"):
            self._rotation.fire(timer)
            return
        limits = self._board.config.declaration.limits
        match timer:
            case "offer":
                self.end("never_connected", f"no offer came within {OFFER_WAIT:g} s")
            case "media":
                self._not_ready()
            case "gone":
                self.end("caller_hangup", "the caller's page is gone")
            case "warn":
                self._board.warn("limit_duration", f"the session ends in {limits.warn:g} s")
            case "expiry_warn":
                self._board.warn("provider_expires", f"the provider ends the session in about {limits.warn:g} s")
            case "duration":
                self.end("limit_duration", f"the session lasted {limits.duration:g} s")
            case "expiry":
                self.end("provider_expired", "the provider's longest session is over")
            case "idle":
                self._idle()
            case "node":
                self.end("node_lost", self._handler.missing)
            case "goodbye":
                self._finish()
            case "grace":
                self._forget()

    # --- presence

    def present(self) -> None:
        """The caller's page listens."""
        self._board.timers.clear("gone")

    def gone(self) -> None:
        """The caller's page does not listen any more."""
        if self._board.state in ("connecting", "live") and not self._board.over:
            self._board.timers.set("gone", self._board.now + GONE_WAIT)

    # --- end

    def refused(self, event: CallRefused) -> None:
        """The provider refused to make the call: that is recorded, and the end where no other attempt would cure it."""
        if self._board.over:
            return
        self._board.record("provider.refused", code=event.code, message=event.message, final=event.final)
        if event.final:
            self.end("provider_error", f"{event.code}: {event.message}")

    def closed(self, event: SessionClosed) -> None:
        """The provider's end is gone; where only the line broke, another session may take over."""
        if self._rotation.opening:
            return  # it is being replaced anyhow; that no other one can be opened is told as `ProviderFailed`
        self._board.attached = False
        if event.retry and self._board.replays and self._board.live:
            self._rotation.lost(event.message)
            return
        # a call that is simply over at the provider was hung up: faults and expiry have reasons of their own
        reason = "caller_hangup" if event.reason == "closed" else event.reason
        if self._board.over:
            self._finish()
        else:
            self.end(reason, _ice_detail(event.message) if reason == "ice_failed" else event.message)

    def failed(self, event: ProviderFailed) -> None:
        """The line to the provider broke, or another session could not be opened."""
        if self._rotation.opening and event.retry:
            self._rotation.failed(event.message)
            return
        self._rotation.opened()
        self.closed(SessionClosed(reason="provider_error", message=event.message, retry=event.retry))

    def ask(self, command: EndSession) -> None:
        """Somebody else ends the session; a goodbye is not waited for any more."""
        if self._board.state == "ending":
            self._finish()
        else:
            detail = command.detail or (_ice_detail(None) if command.reason == "ice_failed" else None)
            self.end(command.reason, detail)

    def end(self, reason: str, detail: str | None = None) -> None:
        """End the session; only the first reason counts."""
        if self._board.over:
            return
        board = self._board
        can_speak = board.attached and board.live
        board.reason, board.detail = reason, detail
        board.state = "ending"
        board.timers.clear_all(but="speech")
        board.emit(SetState(state="ending", reason=reason, detail=detail))
        self._handler.refuse_inputs("the session is over")
        self._turns.stop_waiting()
        self._speech.queue.clear(but="on_error")
        goodbye = board.config.declaration.goodbye
        if not can_speak or reason not in _WITH_GOODBYE:
            self._finish()
            return
        if reason == "limit_duration":
            self._speech.stop_active()
        said = goodbye or ""
        if goodbye is not None:
            self._speech.ask("goodbye", asked=goodbye, interruptible=True)
        board.timers.set("goodbye", board.now + _GOODBYE_WAIT + speaking_seconds(said))

    def check(self) -> None:
        """End when a limit was passed or the handler's behaviour says so; finish when the goodbye is over."""
        if self._turns.over_limit:
            self.end("limit_turns", "the last turn that the session may have was answered")
        if self._calls.over_limit:
            self.end("limit_tools", "the model used all tool calls that the session may have")
        if (spent := self._till.passed) is not None:
            self.end("limit_cost", spent)
        if self._rotation.fatal is not None:
            self.end(*self._rotation.fatal)
        if self._handler.fatal is not None:
            self.end("handler_failed", self._handler.fatal)
        if self._board.state == "ending" and self._speech.quiet:
            self._finish()
        if not self._board.over:
            self._rotation.check()
            self._work()

    # --- inside

    def _begin(self) -> None:
        self._arm_duration(0.0)
        greeting = self._board.config.declaration.greeting
        if greeting is not None:
            self._speech.ask("greeting", asked=greeting)
        self._handler.open()

    def _arm_duration(self, spent: float) -> None:
        limits = self._board.config.declaration.limits
        left = max(0.0, limits.duration - spent)
        self._board.timers.set("duration", self._board.now + left)
        if 0 < limits.warn < left:
            self._board.timers.set("warn", self._board.now + left - limits.warn)

    def _expiry(self, event: SessionReady) -> None:
        if event.expires_at is None:
            return
        left = event.expires_at - self._board.offset - self._board.now
        if self._board.replays:
            self._rotation.plan(left)
            return
        warn = self._board.config.declaration.limits.warn
        self._board.timers.set("expiry", self._board.now + max(0.0, left - _EXPIRY_MARGIN))
        if 0 < warn < left - _EXPIRY_MARGIN:
            self._board.timers.set("expiry_warn", self._board.now + left - _EXPIRY_MARGIN - warn)

    def _mismatch(self, event: SessionReady | SessionUpdated) -> bool:
        config = self._board.config
        pairs = (("model", config.model, event.model), ("voice", config.voice, event.voice))
        for what, asked, echoed in pairs:
            if asked is not None and echoed is not None and not same_name(asked, echoed):
                self.end("mismatch", f"asked for {what} {asked!r}, the provider answered with {echoed!r}")
                return True
        return False

    def _announce(self, event: SessionReady) -> None:
        voice_missing = self._board.config.voice is not None and event.voice is None
        verified = event.model is not None and not voice_missing
        if not verified:
            self._board.warn("unverified", "the provider did not say which model and voice it uses")
        self._board.record("provider.attached", model=event.model, voice=event.voice, verified=verified)

    def _not_ready(self) -> None:
        if self._restored:
            detail = f"the call could not be taken up again within {MEDIA_WAIT:g} s of the restart"
            self.end("control_plane_restart", detail)
        else:
            self.end("never_connected", f"the call was not ready {MEDIA_WAIT:g} s after the offer")

    def _idle(self) -> None:
        idle = self._board.config.declaration.limits.idle
        talking = self._turns.speaking is not None and self._board.now - self._active_at < _MAX_SPEECH
        if self._speech.active is not None or talking or self._working:
            self._board.timers.set("idle", self._board.now + idle)
        else:
            self.end("limit_idle", f"nobody spoke for {idle:g} s")

    @property
    def _working(self) -> bool:
        """Whether a recorded turn is being answered: its caller can only wait, so that is no idleness."""
        if self._board.media != "turns":
            return False
        current = self._turns.current
        handling = self._handler.running and current is not None and not current.released
        return handling or not (self._speech.quiet and self._calls.quiet)

    def _work(self) -> None:
        """Recorded turns: idleness is counted from the end of a turn, or of a speech."""
        busy = self._working
        if busy or self._busy:
            self.active()
        self._busy = busy

    def _finish(self) -> None:
        board = self._board
        if board.state == "ended" or board.reason is None:
            return
        self._rotation.ready()
        self._speech.drop_all("session_ended")
        self._handler.refuse_inputs("the session is over")
        for op_id in board.ops.owed():
            if op_id not in self._calls.running:
                board.ops.refuse(op_id, board.ended_error())
        self._turns.cancel_all()
        board.state = "ended"
        board.attached = False
        if self._called:
            board.emit(HangUp())
        if self._handler.epoch:
            board.emit(StopHandler(epoch=self._handler.epoch, reason=board.reason))
        self._till.close()
        board.emit(Ended(board.reason, board.detail))
        board.emit(SetState(state="ended", reason=board.reason, detail=board.detail))
        board.timers.clear_all()
        board.timers.set("grace", board.now + GRACE)

    def _forget(self) -> None:
        for op_id in self._board.ops.owed():
            self._board.ops.refuse(op_id, self._board.ended_error())
        self._board.emit(Finished())


def _ice_detail(message: str | None) -> str:
    """Return what to do about audio that found no way."""
    told = (message or "no way for the audio was found between the caller and the provider").rstrip(". ")
    return (
        f"{told}; is UDP blocked in between, or does the provider advertise an address that the caller cannot reach? "
        "The websocket transport needs no UDP"
    )
