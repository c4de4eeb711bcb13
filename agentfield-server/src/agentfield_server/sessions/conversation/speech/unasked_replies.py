"""Replies that nobody requested and that were stopped: they block the reply slot until they end."""

from __future__ import annotations

from agentfield.realtime.commands import CancelReplyCommand
from agentfield.realtime.events import ReplyStarted
from agentfield_server.sessions.conversation.state import MachineState
from agentfield_server.sessions.conversation.timers import TimerKind
from agentfield_server.sessions.conversation.turns import TurnTracker

__all__ = ["UnaskedReplies"]

_WAIT = 10.0
"""Seconds for which an unasked reply blocks the slot."""


class UnaskedReplies:
    """Decides which replies without a command are stopped, and remembers those that have not ended.

    Args:
        state: State shared with the other parts.
        turns: Turns that the model may be answering.
    """

    def __init__(self, state: MachineState, turns: TurnTracker) -> None:
        self._state = state
        self._turns = turns
        self._open: set[str] = set()
        self._stop_until = 0.0

    def __contains__(self, reply: str) -> bool:
        return reply in self._open

    def __bool__(self) -> bool:
        return bool(self._open)

    def stop_for(self, seconds: float) -> None:
        """Stop the replies that begin within `seconds` without a command, unless they answer a turn of their own."""
        self._stop_until = self._state.now + seconds

    def accepts(self, event: ReplyStarted) -> bool:
        """Return whether the model may begin this reply by itself."""
        if event.command is not None or not self._state.model_floor or self._state.over:
            return False
        newest = self._turns.newest
        return self._state.now >= self._stop_until or (newest is not None and not newest.answered)

    def stop(self, reply: str) -> None:
        """Stop a reply."""
        self._state.warn("unasked_reply", "the provider began a reply that nobody asked for; it was stopped")
        self._open.add(reply)
        self._state.timers.set(TimerKind.SPEECH_FOREIGN, self._state.now + _WAIT)
        self._state.send(CancelReplyCommand(reply=reply))

    def ended(self, reply: str) -> None:
        """Note the end of a reply."""
        self._open.discard(reply)

    def clear(self) -> None:
        """Forget all replies."""
        self._open.clear()
