"""How far a run has come, told to the control plane: the newest word, at most once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agentfield.wire.frames import Invoke, Progress

__all__ = ["Reporter"]

_EVERY = 1.0
"""Seconds between two frames of one run."""


class Reporter:
    """Tells of one run; made on the event loop, called from any thread.

    Args:
        invoke: The run.
        send: Sends a frame, or drops it while there is no link.
    """

    def __init__(self, invoke: Invoke, send: Callable[[Progress], None]) -> None:
        self._invoke = invoke
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._value: dict[str, Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __call__(self, value: dict[str, Any]) -> None:
        """Take the newest word."""
        self._loop.call_soon_threadsafe(self._take, value)

    def close(self) -> None:
        """The run is over: what waits is sent ahead of its result."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush()
        self._closed = True

    def _take(self, value: dict[str, Any]) -> None:
        if self._closed:
            return
        self._value = value
        if self._timer is None:
            self._flush()
            self._timer = self._loop.call_later(_EVERY, self._again)

    def _again(self) -> None:
        self._timer = None
        if self._value is not None:
            self._flush()
            self._timer = self._loop.call_later(_EVERY, self._again)

    def _flush(self) -> None:
        value, self._value = self._value, None
        if value is not None:
            where = self._invoke.context
            self._send(
                Progress(execution_id=where.execution_id, attempt=where.attempt, epoch=self._invoke.epoch, value=value)
            )
