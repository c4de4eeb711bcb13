"""Inbox of a session's task: machine inputs, provider events and work, bounded for the senders that can wait."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from agentfield.errors import AgentFieldError, SessionEnded
from agentfield_server.sessions.actor.provider_connection import ConnectionEvent
from agentfield_server.sessions.clock import SessionClock
from agentfield_server.sessions.conversation.inputs import Input

__all__ = ["Inbox", "Work"]

_MAX_WAITING = 2000

T = TypeVar("T")
Work = Callable[[], Awaitable[None]]
"""Work that the session's task runs between two inputs."""


class Inbox:
    """FIFO queue of one session's task. One task takes from it; any task of the event loop may add to it.

    Args:
        ended_error: Returns the error for `ask` calls that the session will not run any more.
    """

    def __init__(self, ended_error: Callable[[], SessionEnded]) -> None:
        self._ended_error = ended_error
        self._items: deque[Input | ConnectionEvent | Work] = deque()
        self._wake = asyncio.Event()
        self._not_full = asyncio.Event()
        self._not_full.set()
        self._pending: set[asyncio.Future[Any]] = set()
        self.closed = False
        """Whether the session's task takes nothing more."""

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return len(self._items) >= _MAX_WAITING

    def tell(self, item: Input | ConnectionEvent | Work) -> None:
        """Enqueue without waiting, beyond the limit if necessary; dropped once the inbox is closed."""
        if not self.closed:
            self._items.append(item)
            self._wake.set()

    async def put(self, item: Input | ConnectionEvent) -> None:
        """Enqueue as soon as the inbox is below its limit."""
        while self.full and not self.closed:
            self._not_full.clear()
            await self._not_full.wait()
        self.tell(item)

    async def ask(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` inside the session's task, between two inputs, and return its result.

        Raises:
            SessionEnded: The inbox was closed before `work` ran.
        """
        if self.closed:
            raise self._ended_error()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            try:
                value = await work()
            except AgentFieldError as error:
                _set_error(future, error)
            except BaseException:
                # the session's task itself fails or is cancelled here: the caller of `ask` must not wait for ever
                _set_error(future, self._ended_error())
                raise
            else:
                if not future.done():
                    future.set_result(value)

        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        self.tell(run)
        return await future

    async def take(self, clock: SessionClock, until: float | None) -> Input | ConnectionEvent | Work | None:
        """Return the oldest item; None if the clock reaches `until` first."""
        if not self._items:
            self._wake.clear()
            await clock.wait(self._wake, until)
        if not self._items:
            return None
        item = self._items.popleft()
        self._not_full.set()
        return item

    def close(self) -> None:
        """Take nothing more, and fail the pending `ask` calls with the session's end; idempotent."""
        self.closed = True
        self._not_full.set()
        for future in list(self._pending):
            _set_error(future, self._ended_error())


def _set_error(future: asyncio.Future[Any], error: AgentFieldError) -> None:
    if not future.done():
        future.set_exception(error)
