"""Events on their way out: what a command causes is put at once, what a provider streams waits for room."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from agentfield.realtime.events import Event

__all__ = ["Outbox"]

_ROOM = 256


class Outbox:
    """A queue with one reader; whoever streams into it calls `room` first, so that it stays bounded."""

    def __init__(self, room: int = _ROOM) -> None:
        self._events: deque[Event] = deque()
        self._room = room
        self._filled = asyncio.Event()
        self._taken = asyncio.Event()
        self._over = False

    def put(self, *events: Event) -> None:
        """Add events; after `end` nothing is added."""
        if not self._over:
            self._events.extend(events)
            self._filled.set()

    def end(self, last: Event) -> None:
        """Add the last event, once."""
        self.put(last)
        self._over = True
        self._taken.set()

    async def room(self) -> None:
        """Wait until there is room for more of a stream."""
        while len(self._events) >= self._room and not self._over:
            self._taken.clear()
            await self._taken.wait()

    async def read(self) -> AsyncIterator[Event]:
        """Yield events until the last one was yielded."""
        while True:
            while self._events:
                event = self._events.popleft()
                self._taken.set()
                yield event
            if self._over:
                return
            self._filled.clear()
            await self._filled.wait()
