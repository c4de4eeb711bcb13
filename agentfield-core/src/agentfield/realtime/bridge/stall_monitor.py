"""Measures how long the event loop was blocked, so that audio that arrived meanwhile is not taken for early."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["EventLoopStallMonitor"]

_INTERVAL = 0.1
"""Seconds between two timer ticks."""
_TOLERANCE = 0.02
"""Seconds by which a tick may be late without counting as a stall."""


class EventLoopStallMonitor:
    """Total time for which the event loop was blocked, measured by one timer for all calls.

    A timer for each call would wake the process ten times a second for each, which was half the processor time of a silent
    call with an open reply.

    Args:
        clock: Returns the seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._users = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._total = 0.0

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Keep the timer running inside the block."""
        self._users += 1
        if self._timer is None:
            self._schedule()
        try:
            yield
        finally:
            self._users -= 1

    def seconds(self, now: float) -> float:
        """Return the total seconds of stalls up to `now`, of the time inside `measuring` blocks."""
        late = now - self._due
        if late > _TOLERANCE:
            self._total += late
            self._due = now
        return self._total

    def _tick(self) -> None:
        self.seconds(self._clock())
        if self._users:
            self._schedule()
        else:
            self._timer, self._due = None, math.inf

    def _schedule(self) -> None:
        self._due = self._clock() + _INTERVAL
        self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._tick)
