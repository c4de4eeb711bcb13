"""Timeouts whose failure says what did not happen, and detection of leaked tasks."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from agentfield.errors import InvalidInput

__all__ = ["TIMEOUT", "TaskTracker", "time_limit", "wait_until"]

# A context variable is inherited by tasks and callbacks, so it marks all code that the code under test starts.
_UNDER_TEST: ContextVar[bool] = ContextVar("agentfield_code_under_test", default=False)


def _timeout(value: str | None) -> float:
    """Return the seconds of AGENTFIELD_TESTING_PATIENCE, 15 by default.

    Raises:
        InvalidInput: It is not a positive number of seconds.
    """
    try:
        seconds = float(value or 15)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        name = "AGENTFIELD_TESTING_PATIENCE"
        raise InvalidInput(
            f"{name} is {value!r}; it must be a positive number of seconds.", code="bad_setting", hint=f"{name}=60"
        )
    return seconds


TIMEOUT = _timeout(os.environ.get("AGENTFIELD_TESTING_PATIENCE"))
"""Seconds for each step. A passing suite never waits that long; raise it on a slow machine."""
_POLL = 0.005


@asynccontextmanager
async def time_limit(what: str, describe: Callable[[], str] = lambda: "") -> AsyncIterator[None]:
    """Limit the block to `TIMEOUT` seconds.

    Args:
        what: The expected outcome of the block.
        describe: Returns what happened instead.

    Raises:
        AssertionError: The block took too long.
    """
    timeout = asyncio.timeout(TIMEOUT)
    try:
        async with timeout:
            yield
    except TimeoutError:
        if not timeout.expired():
            raise
        raise AssertionError(f"{what}: not within {TIMEOUT:g} s{describe()}") from None


async def wait_until(what: str, condition: Callable[[], Any], describe: Callable[[], str] = lambda: "") -> None:
    """Poll until a condition holds.

    Raises:
        AssertionError: It did not hold within `TIMEOUT` seconds.
    """
    async with time_limit(what, describe):
        while not condition():  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(_POLL)


class TaskTracker:
    """Tracks the tasks that the code under test starts, to find those that it leaks.

    A task is tracked if it is started within `code_under_test`, by a tracked task, or by a callback of its connections.
    """

    def __init__(self) -> None:
        self._started: WeakSet[asyncio.Task[Any]] = WeakSet()

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Track tasks that are started in the block."""
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()

        def start(loop: asyncio.AbstractEventLoop, work: Any, **kwargs: Any) -> Any:
            task = asyncio.Task(work, loop=loop, **kwargs) if before is None else before(loop, work, **kwargs)
            if _UNDER_TEST.get() and isinstance(task, asyncio.Task):
                self._started.add(task)
            return task

        loop.set_task_factory(start)
        try:
            yield
        finally:
            loop.set_task_factory(before)

    @contextmanager
    def code_under_test(self) -> Iterator[None]:
        """Mark the block as code under test."""
        token = _UNDER_TEST.set(True)
        try:
            yield
        finally:
            _UNDER_TEST.reset(token)

    def running(self) -> list[asyncio.Task[Any]]:
        """Return the tracked tasks that have not ended."""
        return [task for task in self._started if not task.done()]

    async def assert_none_left(self, owner: str) -> None:
        """Wait until all tracked tasks have ended.

        Args:
            owner: The owner of the tasks, for the message.

        Raises:
            AssertionError: Some did not end; the message names them.
        """

        def names() -> str:
            return ": " + ", ".join(f"{task.get_name()} ({task.get_coro()!r})" for task in self.running())

        await wait_until(f"every task of {owner} ends", lambda: not self.running(), names)
