"""The clock of sessions and secrets, so that an hour can pass in a test."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

__all__ = ["Clock", "WallClock"]


class Clock(Protocol):
    """Unix time, and waiting for it to pass. Media is never paced by it."""

    def now(self) -> float:
        """Return seconds since the epoch."""

    async def sleep(self, seconds: float) -> None:
        """Wait until so many seconds have passed on this clock."""


class WallClock:
    """The real time."""

    def now(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds."""
        await asyncio.sleep(seconds)
