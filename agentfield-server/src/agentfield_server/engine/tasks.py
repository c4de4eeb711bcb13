"""Background tasks with one owner: errors are logged, and all are cancelled with the owner."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["BackgroundTasks"]

T = TypeVar("T")

_log = logging.getLogger("agentfield.engine")


class BackgroundTasks:
    """A set of tasks that `close` cancels and awaits. Unlike in `asyncio.TaskGroup`, a failed task is logged and the others continue."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], *, watched: bool = False) -> asyncio.Task[T]:
        """Start a task; `watched` says that the caller awaits it, so that its error is not logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if not watched:
            task.add_done_callback(_report)
        return task

    async def close(self) -> None:
        """Cancel all tasks and wait for them."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a task of the engine failed", exc_info=error)
