"""Places for runs: so many at a time, in order of arrival, and lent to others while a run waits for its own calls."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["Room"]


class Room:
    """A bounded number of places.

    Without lending, a reasoner that calls another one of its own node could wait for a place that it holds itself.

    Args:
        places: How many there are.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._queue: deque[asyncio.Future[None]] = deque()
        self._inside: set[str] = set()
        self._lent: Counter[str] = Counter()

    @asynccontextmanager
    async def place(self, execution_id: str) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        await self._enter()
        self._inside.add(execution_id)
        try:
            yield
        finally:
            self._inside.discard(execution_id)
            self._leave()

    @contextmanager
    def lent(self, execution_id: str) -> Iterator[None]:
        """Lend a run's place while it waits for a call; it is taken back at once, so there may be one more for a while."""
        if execution_id not in self._inside:
            yield
            return
        self._lent[execution_id] += 1
        if self._lent[execution_id] == 1:
            self._leave()
        try:
            yield
        finally:
            self._lent[execution_id] -= 1
            if not self._lent[execution_id]:
                del self._lent[execution_id]
                self._free -= 1

    async def _enter(self) -> None:
        if self._free > 0:
            self._free -= 1
            return
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                self._queue.remove(place)
            else:
                self._leave()  # it was given in the same instant
            raise

    def _leave(self) -> None:
        self._free += 1
        while self._free > 0 and self._queue:
            self._free -= 1
            self._queue.popleft().set_result(None)
