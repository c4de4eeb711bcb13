"""Waits that say what did not come, and tasks that must not be left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

__all__ = ["PATIENCE", "Tasks", "holds", "within"]

_THEIRS: ContextVar[bool] = ContextVar("agentfield_code_under_test", default=False)

PATIENCE = float(os.environ.get("AGENTFIELD_TESTING_PATIENCE", "15"))
"""Seconds that anything may take; a suite that passes waits for none of them. More of them help on a slow machine."""
_LOOK = 0.005


@asynccontextmanager
async def within(what: str, told: Callable[[], str] = lambda: "") -> AsyncIterator[None]:
    """Give the block its time.

    Args:
        what: What the block waits for.
        told: Returns what happened instead.

    Raises:
        AssertionError: It took too long.
    """
    deadline = asyncio.timeout(PATIENCE)
    try:
        async with deadline:
            yield
    except TimeoutError:
        if not deadline.expired():
            raise
        raise AssertionError(f"{what}: not within {PATIENCE:g} s{told()}") from None


async def holds(what: str, condition: Callable[[], Any], told: Callable[[], str] = lambda: "") -> None:
    """Wait until a condition holds that nothing announces.

    Raises:
        AssertionError: It did not hold in time.
    """
    async with within(what, told):
        while not condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(_LOOK)


class Tasks:
    """Knows which tasks the code under test started, so that none of them is left behind.

    A task is theirs if it was started from within `theirs`, or by such a task, or by a callback of its connections.
    """

    def __init__(self) -> None:
        self._started: WeakSet[asyncio.Task[Any]] = WeakSet()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take note of the tasks that are started in the block."""
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()

        def start(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> Any:
            task = asyncio.Task(work, loop=loop, **kwargs) if before is None else before(loop, work, **kwargs)
            if _THEIRS.get() and isinstance(task, asyncio.Task):
                self._started.add(task)
            return task

        loop.set_task_factory(start)
        try:
            yield
        finally:
            loop.set_task_factory(before)

    @contextmanager
    def theirs(self) -> Iterator[None]:
        """Run code under test in the block."""
        token = _THEIRS.set(True)
        try:
            yield
        finally:
            _THEIRS.reset(token)

    def left(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that go on."""
        return [task for task in self._started if not task.done()]

    async def none_left(self, whose: str) -> None:
        """Wait until all of them have ended.

        Raises:
            AssertionError: Some go on; they are named.
        """

        def names() -> str:
            return ": " + ", ".join(f"{task.get_name()} ({task.get_coro()!r})" for task in self.left())

        await holds(f"every task of {whose} ends", lambda: not self.left(), names)
