"""Sends the progress of an attempt to the control plane: the newest value, at most once a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agentfield.wire.frames import Invoke, Progress

__all__ = ["ProgressReporter"]

_INTERVAL = 1.0
"""Seconds between two `Progress` frames of one attempt."""


class ProgressReporter:
    """Reports the progress of one attempt; created on the event loop, callable from any thread.

    Args:
        invoke: The attempt.
        send: Sends a frame, or drops it while the link is down.
    """

    def __init__(self, invoke: Invoke, send: Callable[[Progress], None]) -> None:
        self._invoke = invoke
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._value: dict[str, Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __call__(self, value: dict[str, Any]) -> None:
        """Report a value; it replaces one that was not sent yet."""
        self._loop.call_soon_threadsafe(self._take, value)

    def close(self) -> None:
        """Send the value that waits; called before the result is sent."""
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
            self._timer = self._loop.call_later(_INTERVAL, self._send_next)

    def _send_next(self) -> None:
        self._timer = None
        if self._value is not None:
            self._flush()
            self._timer = self._loop.call_later(_INTERVAL, self._send_next)

    def _flush(self) -> None:
        value, self._value = self._value, None
        if value is not None:
            attempt = self._invoke.context
            self._send(
                Progress(
                    execution_id=attempt.execution_id, attempt=attempt.attempt, epoch=self._invoke.epoch, value=value
                )
            )
