"""Entries of functions: remembered at once, recorded with the result if that follows soon, else by themselves."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import NamedTuple

from agentfield.wire.frames import Accepted
from agentfield_server.store.operations import AcceptExecution
from agentfield_server.store.protocol import Store

__all__ = ["EntryRecorder"]

_log = logging.getLogger("agentfield.engine")

_DELAY = 0.05
"""Seconds that an entry waits for the result of its attempt, so that one commit records both."""
_AFTER_FAILURE = 1.0


class _Entry(NamedTuple):
    instance_id: str
    frame: Accepted
    at: float


class EntryRecorder:
    """The entries that the store does not have yet.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, _Entry] = {}
        """By execution, the oldest first."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

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

    def submit(self, execution_id: str) -> None:
        """Submit the entry of an execution, so that it is recorded before all that is submitted later; without one do nothing.

        An entry that the store fails at stays, and is submitted again.
        """
        entry = self._waiting.pop(execution_id, None)
        if entry is not None:
            self._store.post(_operation(entry), partial(self._submitted, entry))

    def _submitted(self, entry: _Entry, _: bool | None, error: BaseException | None) -> None:
        if error is None:
            return
        _log.warning("an entry could not be recorded, it will be tried again: %s", error)
        self._waiting.setdefault(entry.frame.execution_id, entry)
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(_AFTER_FAILURE, self._due)

    async def record_all(self, instance_id: str | None = None) -> None:
        """Record the entries of an instance, or all.

        Raises:
            AgentFieldError: The store failed; what it failed at stays.
        """
        entries = [entry for entry in self._waiting.values() if instance_id in (None, entry.instance_id)]
        for entry in entries:
            frame = entry.frame
            if self._waiting.pop(frame.execution_id, None) is None:
                continue  # submitted meanwhile
            try:
                await self._store.accept_execution(
                    frame.execution_id, attempt=frame.attempt, epoch=frame.epoch, ago=time.monotonic() - entry.at
                )
            except BaseException:
                self._waiting.setdefault(frame.execution_id, entry)
                raise

    def close(self) -> None:
        """Submit nothing any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> None:
        self._timer = None
        now = time.monotonic()
        for execution_id, entry in list(self._waiting.items()):
            if entry.at + _DELAY > now:
                self._timer = asyncio.get_running_loop().call_later(entry.at + _DELAY - now, self._due)
                return
            self.submit(execution_id)


def _operation(entry: _Entry) -> AcceptExecution:
    frame = entry.frame
    return AcceptExecution(frame.execution_id, frame.attempt, frame.epoch, time.monotonic() - entry.at)
