"""Background tasks with one owner: errors are logged, and all are cancelled with the owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from agentfield_server.store.operations import Then

__all__ = ["BackgroundTasks"]

T = TypeVar("T")

_log = logging.getLogger("agentfield.engine")


class BackgroundTasks:
    """A set of tasks that `close` cancels and awaits. Unlike in `asyncio.TaskGroup`, a failed task is logged and the others continue."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_report)
        return task

    def start_then(self, work: Coroutine[Any, Any, T], then: Then[T]) -> None:
        """Start a task that is followed by a callback with its result or its error."""
        self.start(_followed(work, then))

    async def close(self) -> None:
        """Cancel all tasks and wait for them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _followed(work: Coroutine[Any, Any, T], then: Then[T]) -> None:
    try:
        result = await work
    except BaseException as error:
        then(None, error)
        if not isinstance(error, Exception):
            raise
    else:
        then(result, None)


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a task of the engine failed", exc_info=error)
