"""In-process publish/subscribe: any number of subscribers by topic, and a publisher never waits for them."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

__all__ = ["RECORDED", "Bus", "Subscription"]

RECORDED = "recorded"
"""Topic that announces the types of events recorded in any run."""


class Bus:
    """Publishes messages to the current subscribers and keeps nothing: the store is the truth, the bus says when to read it.

    Topics: ``run:{run_id}`` (a list of new event rows), ``live:{session_id}`` (a live event as a dict),
    ``execution:{id}`` (the closed execution), ``recorded`` (a set of the types of recorded events).
    """

    def __init__(self) -> None:
        self._topics: dict[str, set[Subscription]] = {}

    def publish(self, topic: str, message: object) -> None:
        """Hand a message to all subscriptions of a topic; never blocks."""
        for subscription in self._topics.get(topic, ()):
            subscription.put(message)

    def subscribe(self, topic: str, maxsize: int = 1000) -> Subscription:
        """Return a subscription: a context manager and an asynchronous iterator over messages published from now on.

        Args:
            topic: The topic.
            maxsize: Messages that may wait; one more drops all of them and sets `lagged`.
        """
        subscription = Subscription(self, topic, maxsize)
        self._topics.setdefault(topic, set()).add(subscription)
        return subscription

    def drop(self, subscription: Subscription) -> None:
        """Remove a subscription; idempotent."""
        listeners = self._topics.get(subscription.topic)
        if listeners is not None:
            listeners.discard(subscription)
            if not listeners:
                del self._topics[subscription.topic]


class Subscription:
    """Messages of a topic, for one reader.

    When the reader is too slow, waiting messages are dropped, `lagged` is set and the iteration ends once; the reader then
    reads from the store and may continue to iterate, which clears `lagged`.
    """

    def __init__(self, bus: Bus, topic: str, maxsize: int) -> None:
        self.topic = topic
        self.lagged = False
        self._bus = bus
        self._maxsize = maxsize
        self._messages: deque[object] = deque()
        self._lag_reported = False
        self._closed = False
        self._ready = asyncio.Event()

    def put(self, message: object) -> None:
        """Queue a message of the bus."""
        # dropped until the reader has noticed the lag: it will read the store anyway
        if self.lagged and not self._lag_reported:
            return
        if len(self._messages) >= self._maxsize:
            self._messages.clear()
            self.lagged, self._lag_reported = True, False
        else:
            self._messages.append(message)
        self._ready.set()

    def close(self) -> None:
        """End the subscription and wake a waiting reader."""
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
        if self._lag_reported:
            self.lagged = self._lag_reported = False
        while not self._messages:
            if self.lagged:
                self._lag_reported = True
                raise StopAsyncIteration
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._messages.popleft()
