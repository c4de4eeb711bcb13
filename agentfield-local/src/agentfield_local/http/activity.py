"""Client activity of the server, from which a child process whose parent has ended knows when to end too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ClientActivity"]


class ClientActivity:
    """Counts open requests, sockets and calls, and remembers when the last one ended."""

    def __init__(self) -> None:
        self._requests = 0
        self._calls = 0
        self._last = time.monotonic()

    @contextmanager
    def client(self) -> Iterator[None]:
        """Count a client for the duration of its request."""
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._last = time.monotonic()

    def calls(self, count: int) -> None:
        """Set the number of open calls."""
        self._calls = count
        self._last = time.monotonic()

    async def idle(self, seconds: float) -> None:
        """Return when there has been no client for this many seconds."""
        while True:
            busy = self._requests or self._calls
            left = self._last + seconds - time.monotonic()
            if not busy and left <= 0:
                return
            await asyncio.sleep(min(seconds, 1.0) if busy else max(left, 0.01))
