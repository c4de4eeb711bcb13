"""Tasks that belong to a room: none is lost, none fails in silence, all end with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Tasks"]

T = TypeVar("T")

_log = logging.getLogger("agentfield.engine")


class Tasks:
    """A set of tasks that are cancelled and awaited at the end. One that fails is logged and disturbs no other."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T], *, watched: bool = False) -> asyncio.Task[T]:
        """Start a task; `watched` says that somebody awaits it and will see its error."""
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
