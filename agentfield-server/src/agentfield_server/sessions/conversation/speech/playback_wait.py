"""Deadlines of the active speech: how long more of it, its end, its playback or the measure of what was heard is awaited."""

from __future__ import annotations

from agentfield_server.sessions.conversation.speech.utterance import Utterance
from agentfield_server.sessions.conversation.state import MachineState
from agentfield_server.sessions.conversation.timers import TimerKind

__all__ = ["STALL_WAIT", "PlaybackWait"]

STALL_WAIT = 60.0
"""Seconds within which the provider must send more of a speech."""
_PLAYOUT_FALLBACK = 15.0
"""Seconds after its estimated duration at which a speech counts as played without a report."""
_STOP_WAIT = 3.0
"""Seconds that a stopped speech waits for the provider's end of it."""
_HEARD_WAIT = 0.6
"""Seconds that a stopped speech waits for the measurement of how much was heard."""


class PlaybackWait:
    """Sets the one deadline of the active speech.

    Args:
        state: State shared with the other parts.
    """

    def __init__(self, state: MachineState) -> None:
        self._state = state

    def more(self) -> None:
        """Wait for more of the speech."""
        self._set(STALL_WAIT)

    def playout(self, speech: Utterance) -> None:
        """Wait until a generated speech was heard."""
        since = speech.playing_since or self._state.now
        self._set(max(0.0, since + speech.duration - self._state.now) + _PLAYOUT_FALLBACK)

    def cut(self, speech: Utterance) -> bool:
        """Wait for the end and the measure of a speech that was cut; return whether there is nothing to wait for."""
        if not speech.generated:
            self._set(_STOP_WAIT)
            return False
        return self.measure(speech)

    def measure(self, speech: Utterance) -> bool:
        """Wait for the measure of how much was heard; return whether there is nothing to wait for."""
        if speech.has_audio and not speech.measured:
            self._set(_HEARD_WAIT)
            return False
        return True

    def clear(self) -> None:
        """Wait no longer."""
        self._state.timers.clear(TimerKind.SPEECH)

    def _set(self, seconds: float) -> None:
        self._state.timers.set(TimerKind.SPEECH, self._state.now + seconds)
