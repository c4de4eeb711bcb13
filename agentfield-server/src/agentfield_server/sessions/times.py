"""Time as the sessions see it, so that tests can turn the clock."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["SystemTime", "Timekeeper"]


class Timekeeper(Protocol):
    """A clock that can be waited on."""

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps."""

    def epoch(self) -> float:
        """Return seconds since the epoch."""

    async def wait(self, event: asyncio.Event, until: float | None) -> None:
        """Return when `event` is set or the monotonic clock has reached `until`."""


class SystemTime:
    """The clock of this machine."""

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps."""
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
