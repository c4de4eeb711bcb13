"""Limits how many attempts run at a time; an attempt yields its slot while it waits for a call of its own."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

__all__ = ["ConcurrencyLimiter"]


class ConcurrencyLimiter:
    """A fixed number of slots, granted in order of arrival.

    A waiting attempt yields its slot because a reasoner that calls another one of its own node would otherwise wait for a
    slot that it holds itself.

    Args:
        slots: How many attempts may run at a time.
    """

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._queue: deque[asyncio.Future[None]] = deque()
        self._holders: set[str] = set()
        self._yielded: Counter[str] = Counter()

    @asynccontextmanager
    async def slot(self, execution_id: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it inside the block."""
        await self._acquire()
        self._holders.add(execution_id)
        try:
            yield
        finally:
            self._holders.discard(execution_id)
            self._release()

    @contextmanager
    def yielded(self, execution_id: str) -> Iterator[None]:
        """Give up the slot of an execution inside the block; an execution that holds none is ignored.

        The slot is taken back at the end without waiting, so the limit may be exceeded for a while.
        """
        if execution_id not in self._holders:
            yield
            return
        # An execution may wait for several calls at once: only the first one gives the slot up, only the last takes it back.
        self._yielded[execution_id] += 1
        if self._yielded[execution_id] == 1:
            self._release()
        try:
            yield
        finally:
            self._yielded[execution_id] -= 1
            if not self._yielded[execution_id]:
                del self._yielded[execution_id]
                self._free -= 1

    async def _acquire(self) -> None:
        if self._free > 0:
            self._free -= 1
            return
        granted = asyncio.get_running_loop().create_future()
        self._queue.append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._queue.remove(granted)
            else:
                self._release()  # the slot was granted in the same loop iteration as the cancellation
            raise

    def _release(self) -> None:
        self._free += 1
        while self._free > 0 and self._queue:
            self._free -= 1
            self._queue.popleft().set_result(None)
