"""Detection of code that blocks the event loop: no deadline of asyncio can pass while it does."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from agentfield.testing.conformance.harness.waiting import TIMEOUT

__all__ = ["loop_guard"]

_BEAT = min(0.5, TIMEOUT / 4)
_SIGNAL: signal.Signals | None = getattr(signal, "SIGVTALRM", None)
"""A signal of POSIX that test runners leave alone; pytest-timeout uses SIGALRM."""


class _Guard:
    """Interrupts the thread of the event loop once the loop has not turned for `TIMEOUT` seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: signal.Signals) -> None:
        self._loop = loop
        self._number = number
        self._beat = time.monotonic()
        self._over = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self.blocked: str | None = None
        """Where the event loop was blocked, None if it was not."""

    def start(self) -> None:
        self._tick()
        threading.Thread(target=self._watch, name="agentfield conformance", daemon=True).start()

    def stop(self) -> None:
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()

    def interrupt(self, _number: int, frame: FrameType | None) -> None:
        """Handle the signal: raise an error in the blocking code."""
        if self._over.is_set() or not self._late():
            return  # the loop turned meanwhile
        self._beat = time.monotonic()
        where = "" if frame is None else f" in {frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        self.blocked = (
            f"the event loop was blocked for {TIMEOUT:g} s{where}. All calls of a control plane share one event loop: await "
            "instead of blocking, and run blocking code with asyncio.to_thread."
        )
        raise AssertionError(self.blocked)

    def _tick(self) -> None:
        self._beat = time.monotonic()
        self._timer = self._loop.call_later(_BEAT, self._tick)

    def _late(self) -> bool:
        return time.monotonic() - self._beat > TIMEOUT

    def _watch(self) -> None:
        ident = threading.main_thread().ident
        while ident is not None and not self._over.wait(_BEAT):
            if self._late():
                signal.pthread_kill(ident, self._number)


@contextmanager
def loop_guard() -> Iterator[None]:
    """Watch the running event loop during the block; end code that blocks it.

    Where there are no signals (on Windows, or in a thread) nothing is watched.

    Raises:
        AssertionError: The event loop was blocked; the message says by which code.
    """
    if _SIGNAL is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    guard = _Guard(asyncio.get_running_loop(), _SIGNAL)
    before = signal.signal(_SIGNAL, guard.interrupt)
    guard.start()
    try:
        yield
    finally:
        guard.stop()
        signal.signal(_SIGNAL, before)
    if guard.blocked is not None:  # the code under test may have caught the error
        raise AssertionError(guard.blocked)
