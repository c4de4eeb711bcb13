"""Playback position of a reply at the caller: arithmetic on milliseconds, without a clock or socket of its own."""

from __future__ import annotations

from collections import deque
from typing import Literal

__all__ = ["HeardMethod", "PlaybackPosition"]

HeardMethod = Literal["marks", "wallclock"]


class PlaybackPosition:
    """The playback position of one reply.

    Audio is received from the provider, sent to the caller, and heard; heard <= sent <= received always holds. Sent audio is
    assumed to be heard in real time from its arrival, unless the caller confirms marks, which are more precise. Times are
    seconds of any monotonic clock.
    """

    def __init__(self) -> None:
        self.received_ms = 0.0
        """Milliseconds of audio received from the provider."""
        self.sent_ms = 0.0
        """Milliseconds of audio sent to the caller."""
        self.ends_at = 0.0
        """Time at which all sent audio will have been heard, by the clock."""
        self.cleared = False
        """Whether the unheard audio was discarded."""
        self._marks: deque[tuple[str, float]] = deque()
        self._marked_ms: float | None = None

    def receive(self, ms: float) -> None:
        """Add audio received from the provider."""
        if not self.cleared:
            self.received_ms += ms

    def send(self, ms: float, begins_at: float) -> float:
        """Add audio sent to the caller, heard from `begins_at` on or after the audio sent before.

        Returns:
            The time at which all of it will have been heard.
        """
        if self.cleared:
            return self.ends_at
        self.sent_ms = min(self.sent_ms + ms, self.received_ms)
        self.ends_at = max(self.ends_at, begins_at) + ms / 1000
        return self.ends_at

    def mark(self, name: str) -> None:
        """Add a mark behind the audio sent so far, which the caller is asked to confirm when it has heard it."""
        if not self.cleared:
            self._marks.append((name, self.sent_ms))

    def confirm_mark(self, name: str) -> bool:
        """Handle a confirmed mark; return whether it belongs to this reply."""
        if all(known != name for known, _ in self._marks):
            return False
        while self._marks:
            known, position = self._marks.popleft()
            self._marked_ms = position
            if known == name:
                break
        return True

    @property
    def confirmed(self) -> bool:
        """Whether the caller has confirmed at least one mark of the reply."""
        return self._marked_ms is not None

    @property
    def all_confirmed(self) -> bool:
        """Whether the caller has confirmed that all sent audio was heard."""
        return self._marked_ms is not None and self._marked_ms >= self.sent_ms

    def heard(self, now: float) -> tuple[int, HeardMethod]:
        """Return the milliseconds that were heard, and the method by which that is known."""
        if self._marked_ms is not None:
            return int(self._marked_ms), "marks"
        ahead = max(0.0, self.ends_at - now) * 1000
        # rounded down to whole milliseconds, but not because of a floating-point error
        return int(max(0.0, self.sent_ms - ahead) + 1e-6), "wallclock"

    def forget_marks(self) -> None:
        """Drop all marks because the leg that was asked is detached; only the clock counts from now on."""
        self._marks.clear()
        self._marked_ms = None

    def clear(self) -> None:
        """Discard the reply's audio."""
        self.cleared = True
        self.received_ms = self.sent_ms = self.ends_at = 0.0
        self._marks.clear()
        self._marked_ms = None
