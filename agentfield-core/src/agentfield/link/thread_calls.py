"""Calls that threads wait for: synchronous reasoners have no event loop of their own to await a call in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any

from agentfield.attempt_state import AttemptState
from agentfield.errors import Conflict, ExecutionCancelled, Unavailable

__all__ = ["ThreadCalls"]


class ThreadCalls:
    """Runs coroutines on the node's event loop for threads that wait for their results.

    A thread cannot be cancelled. It is released with an error when its attempt ends (by its deadline, a cancellation, or
    because the node stops), so that a function does not wait for a result that nobody uses any more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Future[Any], AttemptState | None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Accept calls, which run on `loop`."""
        self._loop = loop

    def run(self, what: str, start: Callable[[], Coroutine[Any, Any, Any]], owner: AttemptState | None) -> Any:
        """Run a coroutine on the node's event loop and block this thread until it is done.

        Args:
            what: The call in words, for errors.
            start: Returns the coroutine.
            owner: The attempt that the thread works for, None for another thread of the process.

        Raises:
            Conflict: This thread runs the node's event loop, which a blocking call would stop (code `blocks_event_loop`).
            ExecutionCancelled: The attempt ended before the call did.
            Unavailable: The node has stopped.
        """
        if self._loop is not None and _running_loop() is self._loop:
            raise Conflict(
                f"{what} would block the node's event loop: it was called from a coroutine.",
                code="blocks_event_loop",
                hint="Write `await app.call(...)`; call_sync is for plain functions, which run in threads.",
            )
        with self._lock:
            if owner is not None and owner.ended:
                raise _ended(what)
            if self._loop is None:
                raise Unavailable(f"{what} cannot run: the node has stopped.")
            future = asyncio.run_coroutine_threadsafe(start(), self._loop)
            self._waiting[future] = owner
        try:
            return future.result()
        except CancelledError:
            if self._loop is None:
                raise Unavailable(f"{what} has no result: the node has stopped.") from None
            raise _ended(what) from None
        finally:
            with self._lock:
                self._waiting.pop(future, None)

    def release(self, owner: AttemptState) -> None:
        """Release the threads of an attempt that has ended, and let them call nothing more."""
        with self._lock:
            owner.ended = True
            released = [future for future, state in self._waiting.items() if state is owner]
        for future in released:
            future.cancel()

    def close(self) -> None:
        """Release all threads: the node stops."""
        with self._lock:
            self._loop = None
            released = list(self._waiting)
        for future in released:
            future.cancel()


def _ended(what: str) -> ExecutionCancelled:
    return ExecutionCancelled(
        f"{what} was given up: the reasoner that waited for it has ended.",
        hint="Let the exception end the function; its result is not used any more.",
    )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
