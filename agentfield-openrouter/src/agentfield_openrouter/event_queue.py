"""Event queue of a session: events of commands are added at once, streamed events wait for capacity."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from agentfield.realtime.events import Event

__all__ = ["EventQueue"]

_CAPACITY = 256


class EventQueue:
    """A queue with one reader. Producers of streams call `wait_for_capacity` before each put, which bounds the queue.

    Args:
        capacity: Queued events beyond which streams wait.
    """

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self._events: deque[Event] = deque()
        self._capacity = capacity
        self._filled = asyncio.Event()
        self._taken = asyncio.Event()
        self._closed = False

    def put(self, *events: Event) -> None:
        """Add events; ignored after `end`."""
        if not self._closed:
            self._events.extend(events)
            self._filled.set()

    def end(self, last: Event) -> None:
        """Add the last event and close the queue; wakes waiting streams."""
        self.put(last)
        self._closed = True
        self._taken.set()

    async def wait_for_capacity(self) -> None:
        """Wait until the queue has capacity or is closed."""
        while len(self._events) >= self._capacity and not self._closed:
            self._taken.clear()
            await self._taken.wait()

    async def read(self) -> AsyncIterator[Event]:
        """Yield events up to the last one."""
        while True:
            while self._events:
                event = self._events.popleft()
                self._taken.set()
                yield event
            if self._closed:
                return
            self._filled.clear()
            await self._filled.wait()
