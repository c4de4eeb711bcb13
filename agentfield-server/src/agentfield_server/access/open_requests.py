"""Requests that are being served, by the principals whose rights they use: they end when those rights end."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

__all__ = ["OpenRequests"]

_log = logging.getLogger("agentfield.access")


class OpenRequests:
    """Cancels requests, streams and sockets whose principal lost its rights."""

    def __init__(self) -> None:
        self._tasks: defaultdict[str, set[asyncio.Task[Any]]] = defaultdict(set)
        self._closers: list[Callable[[str], None]] = []

    def add(self, names: Iterable[str]) -> None:
        """Enter the current task as a request that uses the rights of these principals, until it is done."""
        task = asyncio.current_task()
        if task is None:
            return
        for name in names:
            self._tasks[name].add(task)
            task.add_done_callback(partial(self._discard, name))

    def on_close(self, closer: Callable[[str], None]) -> None:
        """Call `closer` as well when the rights of a principal end, with its id: for connections that outlive their request."""
        self._closers.append(closer)

    def close(self, name: str) -> None:
        """End all requests that use the rights of a principal, except the current one."""
        current = asyncio.current_task()
        ended = [task for task in self._tasks.get(name, ()) if task is not current]
        for task in ended:
            task.cancel()
        for closer in self._closers:
            closer(name)
        if ended:
            _log.warning("%d open requests of %s were closed: its rights ended", len(ended), name)

    def names(self) -> list[str]:
        """Return the principals that have open requests."""
        return list(self._tasks)

    def _discard(self, name: str, task: asyncio.Task[Any]) -> None:
        tasks = self._tasks.get(name)
        if tasks is not None:
            tasks.discard(task)
            if not tasks:
                del self._tasks[name]
