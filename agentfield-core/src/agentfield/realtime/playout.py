"""How much of a reply the caller has heard: arithmetic on milliseconds, no clock and no socket of its own."""

from __future__ import annotations

from collections import deque
from typing import Literal

__all__ = ["HeardMethod", "Playout"]

HeardMethod = Literal["marks", "wallclock"]


class Playout:
    """The playback position of one reply.

    Audio is received from the provider, sent to the caller, and heard: never more heard than sent, never more sent than
    received. What was sent is heard in real time from the moment it arrives; marks that the caller tells are better
    knowledge than that. Times are seconds of any monotonic clock.
    """

    def __init__(self) -> None:
        self.received_ms = 0.0
        """Audio that the provider gave."""
        self.sent_ms = 0.0
        """Audio that went to the caller."""
        self.ends_at = 0.0
        """When all that was sent will have been heard, by the clock."""
        self.cleared = False
        """Whether what was left was thrown away."""
        self._marks: deque[tuple[str, float]] = deque()
        self._marked_ms: float | None = None

    def receive(self, ms: float) -> None:
        """The provider gave more audio."""
        if not self.cleared:
            self.received_ms += ms

    def send(self, ms: float, begins_at: float) -> float:
        """More audio went to the caller and is heard from `begins_at` on, or after what was sent before.

        Returns:
            When all of it will have been heard.
        """
        if self.cleared:
            return self.ends_at
        self.sent_ms = min(self.sent_ms + ms, self.received_ms)
        self.ends_at = max(self.ends_at, begins_at) + ms / 1000
        return self.ends_at

    def mark(self, name: str) -> None:
        """The caller was asked to tell when all that was sent so far was heard."""
        if not self.cleared:
            self._marks.append((name, self.sent_ms))

    def told(self, name: str) -> bool:
        """The caller has heard everything up to a mark; returns whether it was one of this reply's."""
        if all(known != name for known, _ in self._marks):
            return False
        while self._marks:
            known, position = self._marks.popleft()
            self._marked_ms = position
            if known == name:
                break
        return True

    @property
    def marked(self) -> bool:
        """Whether the caller told at least one mark of the reply."""
        return self._marked_ms is not None

    @property
    def all_marked(self) -> bool:
        """Whether the caller told that all that was sent was heard."""
        return self._marked_ms is not None and self._marked_ms >= self.sent_ms

    def heard(self, now: float) -> tuple[int, HeardMethod]:
        """Return how many milliseconds were heard, and how that is known."""
        if self._marked_ms is not None:
            return int(self._marked_ms), "marks"
        ahead = max(0.0, self.ends_at - now) * 1000
        # whole milliseconds, but not one less for want of a billionth
        return int(max(0.0, self.sent_ms - ahead) + 1e-6), "wallclock"

    def forget_marks(self) -> None:
        """The caller that was asked is not there any more: only the clock goes on."""
        self._marks.clear()
        self._marked_ms = None

    def clear(self) -> None:
        """What was not heard was thrown away: the reply has no audio any more."""
        self.cleared = True
        self.received_ms = self.sent_ms = self.ends_at = 0.0
        self._marks.clear()
        self._marked_ms = None
