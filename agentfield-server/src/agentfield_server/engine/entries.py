"""Entries of functions: remembered at once, recorded with the result if that follows soon, else by themselves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from agentfield.wire.frames import Accepted
from agentfield_server.store.protocol import Store

__all__ = ["EntryRecorder"]

_log = logging.getLogger("agentfield.engine")

_DELAY = 0.05
"""Seconds that an entry waits for the result of its attempt, so that one commit records both."""
_AFTER_FAILURE = 1.0


@dataclass(frozen=True, slots=True)
class _Entry:
    instance_id: str
    frame: Accepted
    at: float


class EntryRecorder:
    """The entries that the store does not have yet.

    Args:
        store: The store.
        start: Starts a task.
    """

    def __init__(self, store: Store, start: Callable[[Coroutine[Any, Any, Any]], object]) -> None:
        self._store = store
        self._start = start
        self._waiting: dict[str, _Entry] = {}
        """By execution, the oldest first."""
        self._timer: asyncio.TimerHandle | None = None

    def note(self, instance_id: str, frame: Accepted) -> None:
        """Remember an entry."""
        self._waiting[frame.execution_id] = _Entry(instance_id, frame, time.monotonic())
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_DELAY, self._due)

    def take(self, execution_id: str, attempt: int, epoch: int) -> float | None:
        """Forget an entry that is about to be recorded with its result; return how many seconds ago it was."""
        entry = self._waiting.get(execution_id)
        if entry is None or (entry.frame.attempt, entry.frame.epoch) != (attempt, epoch):
            return None
        del self._waiting[execution_id]
        return time.monotonic() - entry.at

    async def record(self, execution_id: str) -> None:
        """Record the entry of an execution before what follows it; without one do nothing.

        Raises:
            AgentFieldError: The store failed; the entry stays.
        """
        entry = self._waiting.pop(execution_id, None)
        if entry is None:
            return
        frame = entry.frame
        try:
            await self._store.accept_execution(
                execution_id, attempt=frame.attempt, epoch=frame.epoch, ago=time.monotonic() - entry.at
            )
        except BaseException:
            self._waiting.setdefault(execution_id, entry)
            raise

    async def record_all(self, instance_id: str | None = None) -> None:
        """Record the entries of an instance, or all; see `record`."""
        for execution_id, entry in list(self._waiting.items()):
            if instance_id in (None, entry.instance_id):
                await self.record(execution_id)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> None:
        self._timer = None
        now = time.monotonic()
        for execution_id, entry in list(self._waiting.items()):
            if entry.at + _DELAY > now:
                self._timer = asyncio.get_running_loop().call_later(entry.at + _DELAY - now, self._due)
                return
            self._start(self._record_alone(execution_id))

    async def _record_alone(self, execution_id: str) -> None:
        try:
            await self.record(execution_id)
        except Exception as error:  # noqa: BLE001 -- the function runs, whatever the store does
            _log.warning("an entry could not be recorded, it will be tried again: %s", error)
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_AFTER_FAILURE, self._due)
