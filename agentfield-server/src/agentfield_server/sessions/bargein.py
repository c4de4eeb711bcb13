"""The caller speaks over the agent: what stops a speech, and what is only a sign of listening."""

from __future__ import annotations

from agentfield.realtime.config import ServerVad
from agentfield.realtime.events import TurnCommitted, TurnDiscarded, TurnStarted
from agentfield_server.sessions.board import Board
from agentfield_server.sessions.speech import Sequencer
from agentfield_server.sessions.turns import TurnBook

__all__ = ["BargeIn"]

_TIMER = "bargein"
_SILENCE = 0.5


class BargeIn:
    """Stops speeches where the provider does not do it by itself."""

    def __init__(self, board: Board, turns: TurnBook, speech: Sequencer) -> None:
        self._board = board
        self._turns = turns
        self._speech = speech

    def began(self, event: TurnStarted) -> None:
        """The caller began to speak: what is being said stops, at once or when that has lasted long enough."""
        unable = not self._board.stops_replies or not self._speech.interruptible
        if unable or self._turns.knows(event.item):
            return
        patience = self._patience()
        if patience <= 0:
            self._stop()
        elif _TIMER not in self._board.timers:
            self._board.timers.set(_TIMER, self._board.now + patience)

    def stopped(self, item: str) -> None:
        """The caller stopped: too short to interrupt is a backchannel, and what was being said goes on."""
        if _TIMER not in self._board.timers:
            return
        self._board.timers.clear(_TIMER)
        if self._speech.interruptible:
            self._turns.spare(item)
            self._board.record("backchannel", item=item)

    def committed(self, event: TurnCommitted) -> None:
        """A turn is there: one whose beginning nobody told (recorded, push to talk) interrupts by being there."""
        if not self._board.stops_replies or self._turns.knows(event.item):
            return
        if self._board.media == "turns" or not self._turns.begun(event.item):
            self._stop(whole=True)
        elif self._turns.speaking == event.item:
            self.stopped(event.item)

    def discarded(self, event: TurnDiscarded) -> None:
        """It was nothing."""
        if self._turns.speaking == event.item:
            self._board.timers.clear(_TIMER)

    def fire(self) -> None:
        """The caller has spoken for long enough."""
        if self._turns.speaking is not None:
            self._stop()

    def _patience(self) -> float:
        """Return how long to wait, in seconds.

        That somebody fell silent is told only after the silence that ends a turn, so that is waited for as well:
        else a word shorter than `interrupt_after_ms` would interrupt all the same.
        """
        after = self._board.config.declaration.interrupt_after_ms / 1000
        if not after or not self._board.vad:
            return 0.0
        detection = self._board.config.turn_detection
        return after + (detection.silence_duration_ms / 1000 if isinstance(detection, ServerVad) else _SILENCE)

    def _stop(self, *, whole: bool = False) -> None:
        self._board.timers.clear(_TIMER)
        self._speech.cut_by_caller()
        self._speech.overtake(whole=whole)
