"""Whether anybody uses the server, so that a child whose parent is gone can end by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Activity"]


class Activity:
    """Counts requests, sockets and calls that are open, and remembers when the last one ended."""

    def __init__(self) -> None:
        self._open = 0
        self._calls = 0
        self._last = time.monotonic()

    @contextmanager
    def client(self) -> Iterator[None]:
        """Count a client while it is there."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            self._last = time.monotonic()

    def calls(self, count: int) -> None:
        """Say how many calls are open."""
        self._calls = count
        self._last = time.monotonic()

    async def idle(self, seconds: float) -> None:
        """Return when there has been no client for so long."""
        while True:
            busy = self._open or self._calls
            left = self._last + seconds - time.monotonic()
            if not busy and left <= 0:
                return
            await asyncio.sleep(min(seconds, 1.0) if busy else max(left, 0.01))
