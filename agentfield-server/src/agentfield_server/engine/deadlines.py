"""Deadlines by wall clock: a heap, and the task that fires them."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable

from agentfield.errors import AgentFieldError

__all__ = ["Deadlines"]

_log = logging.getLogger("agentfield.engine")
_LONGEST_SLEEP = 1.0
_AFTER_FAILURE = 1.0


class Deadlines:
    """A heap of deadlines and the loop that fires them.

    Args:
        clock: Seconds since the epoch; read at least once a second, so that a jump of it is noticed.
        due: Called with the id of each execution or approval at its deadline; it may be closed by then.
    """

    def __init__(self, *, clock: Callable[[], float], due: Callable[[str], Awaitable[None]]) -> None:
        self._clock = clock
        self._due = due
        self._heap: list[tuple[float, str]] = []
        self._earlier = asyncio.Event()

    def add(self, execution_id: str, at: float | None) -> None:
        """Add a deadline; None adds nothing."""
        if at is None:
            return
        heapq.heappush(self._heap, (at, execution_id))
        if self._heap[0][1] == execution_id:
            self._earlier.set()

    async def run(self) -> None:
        """Fire deadlines until cancelled."""
        while True:
            await self._sleep()
            while self._heap and self._heap[0][0] <= self._clock():
                at, execution_id = heapq.heappop(self._heap)
                try:
                    await self._due(execution_id)
                except AgentFieldError as error:
                    _log.warning("a deadline could not be recorded, it will be tried again: %s", error.message)
                    heapq.heappush(self._heap, (at, execution_id))
                    await asyncio.sleep(_AFTER_FAILURE)

    async def _sleep(self) -> None:
        self._earlier.clear()
        pause = None
        if self._heap:
            pause = min(max(self._heap[0][0] - self._clock(), 0.0), _LONGEST_SLEEP)
        try:
            async with asyncio.timeout(pause):
                await self._earlier.wait()
        except TimeoutError:
            pass
