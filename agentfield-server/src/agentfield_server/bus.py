"""Hints and live events inside this process: many may listen to a topic, nobody can hold up who publishes."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

__all__ = ["RECORDED", "Bus", "Subscription"]

RECORDED = "recorded"
"""Topic of the hint that events were recorded, of whatever run."""


class Bus:
    """Publishes to whoever listens now; nothing is kept. The store is the truth, the bus says where to look.

    Topics: ``run:{run_id}`` (a list of new event rows), ``live:{session_id}`` (a live event as a dict),
    ``execution:{id}`` (the execution, when it is closed), ``recorded`` (the types of events that were recorded).
    """

    def __init__(self) -> None:
        self._topics: dict[str, set[Subscription]] = {}

    def publish(self, topic: str, message: object) -> None:
        """Hand a message to all subscriptions of a topic; returns at once."""
        for subscription in self._topics.get(topic, ()):
            subscription.put(message)

    def subscribe(self, topic: str, maxsize: int = 1000) -> Subscription:
        """Return a subscription: a context manager, and an asynchronous iterator over what is published meanwhile.

        Args:
            topic: What to listen to; from the moment this returns.
            maxsize: Messages that may wait; with one more all of them are dropped and the subscription has `lagged`.
        """
        subscription = Subscription(self, topic, maxsize)
        self._topics.setdefault(topic, set()).add(subscription)
        return subscription

    def drop(self, subscription: Subscription) -> None:
        """Stop serving a subscription; idempotent."""
        listeners = self._topics.get(subscription.topic)
        if listeners is not None:
            listeners.discard(subscription)
            if not listeners:
                del self._topics[subscription.topic]


class Subscription:
    """Messages of a topic, for one reader.

    When the reader is too slow, what waits is dropped, `lagged` is set and the iteration ends once; the reader then
    reads from the store and may go on iterating, which clears `lagged`.
    """

    def __init__(self, bus: Bus, topic: str, maxsize: int) -> None:
        self.topic = topic
        self.lagged = False
        self._bus = bus
        self._maxsize = maxsize
        self._messages: deque[object] = deque()
        self._told = False
        self._closed = False
        self._ready = asyncio.Event()

    def put(self, message: object) -> None:
        """Take a message from the bus."""
        if self.lagged and not self._told:
            return
        if len(self._messages) >= self._maxsize:
            self._messages.clear()
            self.lagged, self._told = True, False
        else:
            self._messages.append(message)
        self._ready.set()

    def close(self) -> None:
        """Stop listening; a reader that waits is let go."""
        self._closed = True
        self._bus.drop(self)
        self._ready.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> object:
        if self._told:
            self.lagged = self._told = False
        while not self._messages:
            if self.lagged:
                self._told = True
                raise StopAsyncIteration
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._messages.popleft()
