"""A clock that runs like any other, and that a test may put forward."""

from __future__ import annotations

import asyncio
import time

__all__ = ["Clock"]

_MOMENT = 0.1
"""Seconds without work after which everything is taken to be settled."""


class Clock:
    """Time as the sessions of a test see it (`agentfield_server.sessions.times.Timekeeper`)."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._waiting: dict[asyncio.Timeout, float] = {}
        self._waits = 0

    def monotonic(self) -> float:
        """Return seconds of a clock that jumps only when the test says so."""
        return time.monotonic() + self._ahead

    def epoch(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self._ahead

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        """Return when `event` is set or the monotonic clock has reached `until`."""
        self._waits += 1
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

    async def go_on(self, seconds: float) -> None:
        """Let time pass, from one moment that somebody waits for to the next; in between all work is done that is to be done."""
        target = self.monotonic() + seconds
        while (now := self.monotonic()) < target:
            await self._quiet()
            due = [until for until in self._waiting.values() if now < until < target]
            self.advance(max(0.0, min(due, default=target) - self.monotonic()))
        await self._quiet()

    async def _quiet(self) -> None:
        """Return when no session has had anything to do for a moment."""
        seen = -1
        while seen != self._waits:
            seen = self._waits
            await asyncio.sleep(_MOMENT)

    def advance(self, seconds: float) -> None:
        """Let time pass at once: every limit that ends within it is reached."""
        self._ahead += seconds
        now = asyncio.get_running_loop().time()
        for scope, until in self._waiting.items():
            scope.reschedule(now + max(0.0, until - self.monotonic()))
