"""Notices when this process stood still, so that audio which came meanwhile is not held to be early."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Stalls"]

_EVERY = 0.1
"""Seconds between two looks."""
_LATE = 0.02
"""Seconds by which a look may be late before that is called a stall."""


class Stalls:
    """For how long this process stood still, one timer for all callers.

    A timer for each caller would wake the process ten times a second for each, which was half of what a silent call
    with an open reply costs.

    Args:
        clock: Seconds of a monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._watchers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._total = 0.0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look at the clock while this is entered."""
        self._watchers += 1
        if self._timer is None:
            self._set()
        try:
            yield
        finally:
            self._watchers -= 1

    def seconds(self, now: float) -> float:
        """Return for how long it stood still in all, of the time in which somebody watched."""
        late = now - self._due
        if late > _LATE:
            self._total += late
            self._due = now
        return self._total

    def _look(self) -> None:
        self.seconds(self._clock())
        if self._watchers:
            self._set()
        else:
            self._timer, self._due = None, math.inf

    def _set(self) -> None:
        self._due = self._clock() + _EVERY
        self._timer = asyncio.get_running_loop().call_later(_EVERY, self._look)
