"""What waits to be taken by the task of a session: bounded for those who can wait, and work that somebody waits for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from agentfield.errors import AgentFieldError, SessionEnded
from agentfield_server.sessions.callline import FromCall
from agentfield_server.sessions.inputs import Input
from agentfield_server.sessions.times import Timekeeper

__all__ = ["Inbox", "Task"]

_ROOM = 2000

T = TypeVar("T")
Task = Callable[[], Awaitable[None]]
"""Work that is done between two inputs."""


class Inbox:
    """The queue between everybody who tells a session something and the task that takes it.

    Args:
        over: Returns the error for whoever asks after the session was let go.
    """

    def __init__(self, over: Callable[[], SessionEnded]) -> None:
        self._over = over
        self._items: deque[Input | FromCall | Task] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._asked: set[asyncio.Future[Any]] = set()
        self.closed = False
        """Whether nothing is taken any more."""

    @property
    def full(self) -> bool:
        """Whether more waits than should."""
        return len(self._items) >= _ROOM

    def tell(self, item: Input | FromCall | Task) -> None:
        """Enqueue without waiting, for who must not wait; after the end it is dropped."""
        if not self.closed:
            self._items.append(item)
            self._wake.set()

    async def put(self, item: Input | FromCall) -> None:
        """Enqueue once there is room."""
        while self.full and not self.closed:
            self._room.clear()
            await self._room.wait()
        self.tell(item)

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run something between two inputs and return what it returns.

        Raises:
            SessionEnded: The session was let go before it came to that.
        """
        if self.closed:
            raise self._over()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                value = await work()
            except AgentFieldError as error:
                _fail(future, error)
            except BaseException:
                _fail(future, self._over())
                raise
            else:
                if not future.done():
                    future.set_result(value)

        self._asked.add(future)
        future.add_done_callback(self._asked.discard)
        self.tell(run)
        return await future

    async def take(self, time: Timekeeper, until: float | None) -> Input | FromCall | Task | None:
        """Return what has waited longest, None when nothing came until then."""
        if not self._items:
            self._wake.clear()
            await time.wait(self._wake, until)
        if not self._items:
            return None
        item = self._items.popleft()
        self._room.set()
        return item

    def close(self) -> None:
        """Take nothing more; who waits for work that was not begun is told that the session is over. Idempotent."""
        self.closed = True
        self._room.set()
        for future in list(self._asked):
            _fail(future, self._over())


def _fail(future: asyncio.Future[Any], error: AgentFieldError) -> None:
    if not future.done():
        future.set_exception(error)
