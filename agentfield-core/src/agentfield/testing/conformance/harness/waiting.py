"""Deadlines whose failure says what did not happen. Nothing here waits for ever, whatever the code under test does."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakSet

from agentfield.errors import InvalidInput

__all__ = ["STOP_TIMEOUT", "TIMEOUT", "TaskTracker", "time_limit", "wait_until"]

T = TypeVar("T")

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
STOP_TIMEOUT = min(2.0, TIMEOUT)
"""Seconds in which a cancelled task must end. One that does not is abandoned, so that the run goes on."""
_POLL = 0.005
_IGNORES_CANCELLATION = (
    "It ignores its cancellation: a control plane that stops would wait for it for ever. Catch asyncio.CancelledError only to "
    "clean up, and raise it again; `except Exception` does not catch it, a bare `except` does."
)


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
    """Runs the code under test with a deadline, and tracks the tasks that it starts, to find those that it leaks.

    A task is tracked if it is started within `code_under_test`, by a tracked task, or by a callback of its connections.
    """

    def __init__(self) -> None:
        self._started: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._abandoned: list[
            asyncio.Task[Any]
        ] = []  # kept, since a pending task that is collected is logged as an error

    @asynccontextmanager
    async def tracking(self) -> AsyncIterator[None]:
        """Track tasks that are started in the block; at its end no task is left, also none that refuses to end.

        Raises:
            AssertionError: A task refused to end, and nothing else was wrong.
        """
        loop = asyncio.get_running_loop()
        before, tasks = loop.get_task_factory(), asyncio.all_tasks()

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
            left = asyncio.all_tasks() - tasks
            for task in left:
                task.cancel()
            refusing = (await asyncio.wait(left, timeout=STOP_TIMEOUT))[1] if left else set()
            self._abandon(refusing)
            for task in self._abandoned:
                _destroy(task)
            if self._abandoned:
                # what they leave is collected at any time, such as while pytest shows a failure: nothing may be logged then
                loop.set_exception_handler(lambda _loop, _context: None)
        if refusing:
            raise AssertionError(f"tasks run on after they were cancelled: {_names(refusing)}. {_IGNORES_CANCELLATION}")

    @contextmanager
    def code_under_test(self) -> Iterator[None]:
        """Mark the block as code under test."""
        token = _UNDER_TEST.set(True)
        try:
            yield
        finally:
            _UNDER_TEST.reset(token)

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start code under test in a task of its own, which `run` or `stop` ends."""
        with self.code_under_test():
            task = asyncio.create_task(work, name=name)
        self._started.discard(task)  # it is the kit's; the tasks that it starts are tracked
        return task

    async def run(
        self,
        what: str,
        work: Coroutine[Any, Any, T],
        describe: Callable[[], str] = lambda: "",
        seconds: float = TIMEOUT,
    ) -> T:
        """Run code under test in a task of its own, and return its result.

        Args:
            what: The expected outcome.
            work: The code.
            describe: Returns what happened instead.
            seconds: The deadline; `TIMEOUT` by default.

        Raises:
            AssertionError: It did not end in time, or it cancelled itself.
        """
        return await self.result(what, self.start(work, what), describe, seconds)

    async def result(
        self, what: str, task: asyncio.Task[T], describe: Callable[[], str] = lambda: "", seconds: float = TIMEOUT
    ) -> T:
        """Wait for a started task as `run` does."""
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            await self.stop(task)
            raise
        if not done:
            stopped = await self.stop(task)
            why = "" if stopped else f". {_IGNORES_CANCELLATION}"
            raise AssertionError(f"{what}: not within {seconds:g} s{why}{describe()}")
        if task.cancelled():
            raise AssertionError(f"{what}: it raised asyncio.CancelledError although nobody cancelled it{describe()}")
        return task.result()

    async def stop(self, task: asyncio.Task[Any]) -> bool:
        """Cancel a task and wait until it has ended; abandon it if it does not.

        Returns:
            Whether it ended.
        """
        task.cancel()
        if (await asyncio.wait({task}, timeout=STOP_TIMEOUT))[0]:
            if not task.cancelled():
                task.exception()  # marks it as retrieved
            return True
        self._abandon((task,))
        return False

    def _abandon(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Forget tasks that refuse to end: asyncio would wait for them when the event loop is closed."""
        for task in tasks:
            asyncio._unregister_task(task)  # noqa: SLF001 - documented (Extending asyncio), in spite of its name
            self._started.discard(task)
            self._abandoned.append(task)
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - asyncio.gather does so too

    def running(self) -> list[asyncio.Task[Any]]:
        """Return the tracked tasks that have not ended."""
        return [task for task in self._started if not task.done()]

    async def assert_none_left(self, owner: str) -> None:
        """Wait until all tracked tasks have ended; cancel and abandon the others.

        Args:
            owner: The owner of the tasks, for the message.

        Raises:
            AssertionError: Some did not end; the message names them.
        """
        try:
            await wait_until(f"every task of {owner} ends", lambda: not self.running(), self._names)
        except AssertionError as error:
            refusing = [task for task in self.running() if not await self.stop(task)]
            if not refusing:
                raise
            raise AssertionError(
                f"{error}\n{_names(refusing)} was cancelled and runs on. {_IGNORES_CANCELLATION}"
            ) from None

    def _names(self) -> str:
        tasks = ", ".join(f"{task.get_name()} ({task.get_coro()!r})" for task in self.running())
        return f": {tasks}. Cancel and await each task that you start before the adapter, session or leg that started it is closed."


def _destroy(task: asyncio.Task[Any]) -> None:
    """End the coroutine of an abandoned task here, and not whenever it is collected, in the middle of something else."""
    coroutine = task.get_coro()
    if isinstance(coroutine, Coroutine):
        with suppress(BaseException):  # whatever it raises, and that it ignores even this
            coroutine.close()


def _names(tasks: Iterable[asyncio.Task[Any]]) -> str:
    return ", ".join(sorted(task.get_name() for task in tasks))
