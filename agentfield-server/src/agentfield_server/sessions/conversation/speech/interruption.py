"""Barge-in: when the caller's speech stops the agent's, and when it is only a backchannel."""

from __future__ import annotations

from agentfield.realtime.config import ServerVad
from agentfield.realtime.events import TurnCommitted, TurnDiscarded, TurnStarted, TurnStopped
from agentfield_server.sessions.conversation.speech.sequencer import SpeechSequencer
from agentfield_server.sessions.conversation.state import MachineState
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.turns import TurnTracker

__all__ = ["BargeInController"]

_SILENCE = 0.5
"""Assumed silence, in seconds, that ends a turn where the provider does not report its own."""


class BargeInController:
    """Stops the agent's speech where the provider does not do so itself.

    Args:
        state: State shared with the other parts.
        turns: Turns of the caller.
        speech: Speech to stop.
    """

    def __init__(self, state: MachineState, turns: TurnTracker, speech: SpeechSequencer) -> None:
        self._state = state
        self._turns = turns
        self._speech = speech

    def began(self, event: TurnStarted) -> None:
        """The caller began to speak: stop the speech at once, or after `interrupt_after_ms`."""
        if self._state.media == "turns":
            self._speech.opening.recorded(event)
            return  # a recording interrupts by its commit
        if self._turns.is_known(event.item) or self._speech.opening.began_early(event):
            return
        # the provider stops no reply itself while it is told not to, and none that it has generated completely
        able = self._state.stops_replies or not self._state.interruption.on or self._speech.buffered
        if not able or not self._speech.interruptible:
            return
        patience = self._patience()
        if patience <= 0:
            self._stop()
        elif TimerKind.BARGE_IN not in self._state.timers:
            self._state.timers.set(TimerKind.BARGE_IN, self._state.now + patience)

    def pressed(self) -> None:
        """The caller began a turn of push to talk: it has decided to interrupt."""
        if self._state.live and not self._state.detects_turns and self._state.stops_replies:
            self._stop()

    def stopped(self, event: TurnStopped) -> None:
        """The caller stopped: a turn that was too short to interrupt is a backchannel, and the speech continues."""
        if self._state.media == "turns":
            self._speech.opening.recorded(event)
        self._was_short(event.item)

    def _was_short(self, item: str) -> None:
        if TimerKind.BARGE_IN not in self._state.timers:
            return
        self._state.timers.clear(TimerKind.BARGE_IN)
        if self._speech.interruptible:
            self._turns.mark_backchannel(item)
            self._state.record("backchannel", item=item)

    def committed(self, event: TurnCommitted) -> None:
        """A turn was committed: one without a reported beginning (recorded, push to talk) interrupts by its commit."""
        begun = self._state.media != "turns" and self._turns.is_begun(event.item)
        if begun:
            self._speech.opening.end()
        if not self._state.stops_replies or self._turns.is_known(event.item):
            return
        if not begun and self._speech.opening.committed_early(event):
            return
        if not begun:
            self._stop(whole=True)
        elif self._turns.speaking == event.item:
            self._was_short(event.item)

    def discarded(self, event: TurnDiscarded) -> None:
        """The provider discarded what the caller said: it does not interrupt."""
        if self._turns.speaking == event.item:
            self._state.timers.clear(TimerKind.BARGE_IN)

    def fire(self) -> None:
        """The caller has spoken for long enough to interrupt."""
        if self._turns.speaking is not None:
            self._stop()

    def _patience(self) -> float:
        """Return the seconds that the caller must speak before the speech stops.

        The provider reports the end of speech only after the silence that ends a turn. That silence is added: without it
        a word shorter than `interrupt_after_ms` would interrupt as well.
        """
        after = self._state.config.declaration.interrupt_after_ms / 1000
        if not after or not self._state.detects_turns:
            return 0.0
        detection = self._state.config.turn_detection
        return after + (detection.silence_duration_ms / 1000 if isinstance(detection, ServerVad) else _SILENCE)

    def _stop(self, *, whole: bool = False) -> None:
        self._state.timers.clear(TimerKind.BARGE_IN)
        self._speech.interrupt()
        self._speech.mark_overtaken(whole=whole)
