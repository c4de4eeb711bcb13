"""Clock of the sessions, replaceable in tests."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["SessionClock", "SystemClock"]


class SessionClock(Protocol):
    """A clock that tasks can wait on."""

    def monotonic(self) -> float:
        """Return seconds of a monotonic clock."""

    def epoch(self) -> float:
        """Return seconds since the epoch."""

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        """Return when `event` is set or the monotonic clock has reached `until`."""


class SystemClock:
    """The clock of the operating system."""

    def monotonic(self) -> float:
        """Return seconds of a monotonic clock."""
        return time.monotonic()

    def epoch(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        """Return when `event` is set or the monotonic clock has reached `until`."""
        try:
            async with asyncio.timeout(None if until is None else max(0.0, until - time.monotonic())):
                await event.wait()
        except TimeoutError:
            return
