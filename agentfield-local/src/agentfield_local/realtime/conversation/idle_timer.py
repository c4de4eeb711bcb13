"""Idle timer of a caller who says nothing for long. Sans-I/O."""

from __future__ import annotations

from collections.abc import Callable

from agentfield_local.realtime.conversation.context import ConversationContext
from agentfield_local.realtime.conversation.effects import ScheduleTimer

__all__ = ["IdleTimer"]


class IdleTimer:
    """Runs from the end of a reply's playback to the caller's next word.

    Args:
        context: Collects its effects.
        now: Returns Unix time in seconds.
    """

    def __init__(self, context: ConversationContext, now: Callable[[], float]) -> None:
        self._context = context
        self._now = now
        self._deadline: float | None = None

    def start(self, seconds: float) -> None:
        """Start, or restart, with this many seconds."""
        self._deadline = self._now() + seconds
        self._context.add_effect(ScheduleTimer(seconds, ("idle", "")))

    def stop(self) -> None:
        """Stop. The scheduled effect is not withdrawn: `expired` tells a stale one."""
        self._deadline = None

    def expired(self) -> bool:
        """Whether the deadline has passed; if so, stop."""
        if self._deadline is None or self._now() < self._deadline:
            return False
        self._deadline = None
        return True
