"""The timer that asks a caller who says nothing for long. Sans-I/O."""

from __future__ import annotations

from collections.abc import Callable

from agentfield_local.realtime.effects import Later
from agentfield_local.realtime.stage import Stage

__all__ = ["IdleTimer"]


class IdleTimer:
    """Runs from the end of a reply's playback to the caller's next word.

    Args:
        stage: The way out.
        now: Unix time in seconds.
    """

    def __init__(self, stage: Stage, now: Callable[[], float]) -> None:
        self._stage = stage
        self._now = now
        self._at: float | None = None

    def arm(self, seconds: float) -> None:
        """Run, from now on for so many seconds."""
        self._at = self._now() + seconds
        self._stage.do(Later(seconds, ("idle", "")))

    def disarm(self) -> None:
        """Stop."""
        self._at = None

    def is_due(self) -> bool:
        """Whether the time is over; then it has stopped."""
        if self._at is None or self._now() < self._at:
            return False
        self._at = None
        return True
