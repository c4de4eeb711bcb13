"""A clock that runs like any other, and that a test may put forward."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from weakref import WeakSet

__all__ = ["Clock"]

_STEP = 0.02
_STEPS = 5
"""Steps without work after which everything is taken to be settled; a stall of the process is one step, however long."""
_MOST_STEPS = 500


class Clock:
    """Time as the sessions of a test see it (`agentfield_server.sessions.times.Timekeeper`)."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._waiting: dict[asyncio.Timeout, float] = {}
        self._waits = 0
        self._tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        """Who ever waited on this clock: the sessions."""
        self._resting: set[asyncio.Task[Any] | None] = set()
        """Those of them that wait now; the others are at work."""

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

    async def go_on(self, seconds: float) -> None:
        """Let time pass, from one moment that somebody waits for to the next; in between, what is to be done is done."""
        target = self.monotonic() + seconds
        while (now := self.monotonic()) < target:
            await self._quiet()
            due = [until for until in self._waiting.values() if now < until < target]
            self.advance(max(0.0, min(due, default=target) - self.monotonic()))
        await self._quiet()

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

    async def _quiet(self) -> None:
        """Return when no session has had anything to do for a moment."""
        seen, calm = self._waits, 0
        for _ in range(_MOST_STEPS):
            await asyncio.sleep(_STEP)
            at_work = any(not task.done() and task not in self._resting for task in self._tasks)
            calm = 0 if at_work or seen != self._waits else calm + 1
            seen = self._waits
            if calm == _STEPS:
                return
