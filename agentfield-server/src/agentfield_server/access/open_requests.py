"""Requests that are being served, with the rights that they use: they end when those rights end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["OpenRequests", "Use"]

_log = logging.getLogger("agentfield.access")


class Use(NamedTuple):
    """The rights that a request uses."""

    principal: str
    """Who sent it."""
    owner: str | None = None
    """Who started the session that it is about, where it comes from the session's caller or owner."""
    target: str | None = None
    """The target of that session."""


class OpenRequests:
    """Cancels requests, streams and sockets whose rights ended."""

    def __init__(self) -> None:
        self._uses: dict[asyncio.Task[Any], Use] = {}

    def add(self, use: Use) -> None:
        """Enter the current task as a request that uses these rights, until it is done."""
        task = asyncio.current_task()
        if task is not None:
            self._uses[task] = use
            task.add_done_callback(lambda done: self._uses.pop(done, None))

    def check(self, allowed: Callable[[Use], bool]) -> None:
        """End the requests whose rights do not hold any more."""
        ended = [(task, use) for task, use in self._uses.items() if not allowed(use)]
        for task, use in ended:
            # once: a request that is being cancelled may take its time
            del self._uses[task]
            task.cancel()
            _log.warning("a request of %s was closed: its rights ended", use.principal)
