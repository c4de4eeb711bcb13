"""The opening of a call: what the caller began to say before the call was live interrupts no speech."""

from __future__ import annotations

from agentfield.realtime.events import TurnCommitted, TurnStarted, TurnStopped
from agentfield_server.sessions.conversation.state import MachineState
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.transitions import SessionPhase
from agentfield_server.sessions.conversation.turns import TurnTracker

__all__ = ["CallOpening"]

_OPENING = 1.0
"""Seconds after the call became live in which speech of an unknown beginning, up to the first turn, counts as begun before: a
provider reports the
beginning of speech some hundred milliseconds late, and audio that was held until the call was live arrives at once."""


class CallOpening:
    """Tells what the caller began to say before the call was live from what may interrupt.

    Args:
        state: State shared with the other parts.
        turns: Turns of the caller.
    """

    def __init__(self, state: MachineState, turns: TurnTracker) -> None:
        self._state = state
        self._turns = turns
        self._live_at: float | None = None
        self._ended = False
        self._early: str | None = None
        """The last item that began before the call was live."""
        self._recording: tuple[str, int, int] | None = None
        """The last recording: its item, and its begin and end in milliseconds."""

    def begin(self) -> None:
        """Note that the call is live for the first time."""
        self._live_at = self._state.now
        self._state.timers.set(TimerKind.OPENING, self._state.now + _OPENING)

    @property
    def protects(self) -> bool:
        """Whether the provider must not stop a text by itself: speech that began before the call was live may still be reported."""
        return TimerKind.OPENING in self._state.timers or self.is_early

    @property
    def is_early(self) -> bool:
        """Whether the caller began to say before the call was live what it is saying now."""
        return self._early is not None and self._turns.speaking == self._early

    def began_early(self, event: TurnStarted) -> bool:
        """Return whether the caller began to say this before the call was live."""
        if self._state.phase in (SessionPhase.CREATED, SessionPhase.CONNECTING):
            early = True
        elif event.before_live is not None:
            early = event.before_live
        else:
            early = TimerKind.OPENING in self._state.timers
        if early:
            self._early = event.item
        else:
            self.end()  # what follows began later still
        return early

    def recorded(self, event: TurnStarted | TurnStopped) -> None:
        """Note the begin or the end of a recording."""
        at_ms = event.at_ms or 0
        begin_ms = self._recording[1] if self._recording is not None and self._recording[0] == event.item else at_ms
        self._recording = event.item, begin_ms, at_ms

    def committed_early(self, event: TurnCommitted) -> bool:
        """Return whether the caller began to record this before the call was live.

        A recording arrives when it is complete, so that it began at least its length ago.
        """
        if self._ended:
            return False  # it began after the turn before it, however long it is
        if self._recording is not None and self._recording[0] == event.item:
            _, begin_ms, end_ms = self._recording
            begun_at = self._state.now - (end_ms - begin_ms) / 1000
            early = self._live_at is not None and begun_at < self._live_at
        else:
            early = TimerKind.OPENING in self._state.timers
        self.end()
        return early

    def end(self) -> None:
        """Note that what the caller says from now on began after the call was live."""
        self._ended = True
        self._state.timers.clear(TimerKind.OPENING)
