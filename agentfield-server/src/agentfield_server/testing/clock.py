"""A clock that runs in real time and that a test may put forward."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from weakref import WeakSet

__all__ = ["TimeSkippingClock"]

_STEP = 0.02
_STEPS = 5
"""Consecutive idle steps after which all sessions count as settled; a stall of the process is one step, however long."""
_MOST_STEPS = 500


class TimeSkippingClock:
    """Time as the sessions of a test see it (`agentfield_server.sessions.clock.Timekeeper`)."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._waiting: dict[asyncio.Timeout, float] = {}
        self._waits = 0
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        """Tasks that have waited on this clock: the session actors."""
        self._resting: set[asyncio.Task[Any] | None] = set()
        """Those of them that wait now; the others are working."""

    def monotonic(self) -> float:
        """Return seconds of a clock that jumps only when the test says so."""
        return time.monotonic() + self._ahead

    def epoch(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self._ahead

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        """Return when `event` is set or the monotonic clock has reached `until`."""
        self._waits += 1
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        self._resting.add(task)
        try:
            await self._wait(event, until)
        finally:
            self._resting.discard(task)

    def advance(self, seconds: float) -> None:
        """Let time pass at once: every limit that ends within it is reached."""
        self._ahead += seconds
        now = asyncio.get_running_loop().time()
        for scope, until in self._waiting.items():
            scope.reschedule(now + max(0.0, until - self.monotonic()))

    async def run_for(self, seconds: float) -> None:
        """Let time pass step by step: advance to each deadline in turn, and let the sessions settle before the next one."""
        target = self.monotonic() + seconds
        while (now := self.monotonic()) < target:
            await self._wait_until_idle()
            due = [until for until in self._waiting.values() if now < until < target]
            self.advance(max(0.0, min(due, default=target) - self.monotonic()))
        await self._wait_until_idle()

    # --- inside

    async def _wait(self, event: asyncio.Event, until: float | None) -> None:
        if until is None:
            await event.wait()
            return
        try:
            async with asyncio.timeout(max(0.0, until - self.monotonic())) as scope:
                self._waiting[scope] = until
                try:
                    await event.wait()
                finally:
                    del self._waiting[scope]
        except TimeoutError:
            return

    async def _wait_until_idle(self) -> None:
        """Return when no session has had work for some consecutive steps."""
        seen, calm = self._waits, 0
        for _ in range(_MOST_STEPS):
            await asyncio.sleep(_STEP)
            at_work = any(not task.done() and task not in self._resting for task in self._tasks)
            calm = 0 if at_work or seen != self._waits else calm + 1
            seen = self._waits
            if calm == _STEPS:
                return
