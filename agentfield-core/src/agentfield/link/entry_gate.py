"""Which attempts have entered their function, decided under a lock: the watchdog gives the others back from its thread."""

from __future__ import annotations

import threading

from agentfield.wire.link_protocol import RunningAttempt

__all__ = ["EntryGate"]

_Key = tuple[str, int]


class EntryGate:
    """Lets attempts enter their function, until it is closed; thread-safe.

    The event loop admits and enters attempts. The watchdog closes the gate while the loop is blocked: what has not entered
    by then is given back and never enters, and nothing is admitted until the control plane has confirmed that, since
    invocations that it sent before may still be unread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[_Key] = set()
        self._entered: dict[_Key, int] = {}
        """By attempt: the epoch of its lease."""
        self._number = 0
        self._closed = False

    @property
    def number(self) -> int:
        """Number of times that the gate was closed."""
        return self._number

    def admit(self, key: _Key) -> bool:
        """Note that an attempt arrived; return False while the gate is closed: it is given back."""
        with self._lock:
            if self._closed:
                return False
            self._waiting.add(key)
            return True

    def enter(self, key: _Key, epoch: int) -> bool:
        """Count an attempt as entered; return False if it was given back."""
        with self._lock:
            if key not in self._waiting:
                return False
            self._waiting.discard(key)
            self._entered[key] = epoch
            return True

    def holds(self, key: _Key) -> bool:
        """Return whether an attempt may enter or has entered."""
        with self._lock:
            return key in self._waiting or key in self._entered

    def forget(self, key: _Key) -> None:
        """Forget an attempt: its result is acknowledged, or it was dropped."""
        with self._lock:
            self._waiting.discard(key)
            self._entered.pop(key, None)

    def close(self) -> None:
        """Give back every attempt that has not entered."""
        with self._lock:
            self._closed = True
            self._number += 1
            self._waiting.clear()

    def unsettled(self) -> tuple[int, tuple[RunningAttempt, ...]] | None:
        """Return number and entered attempts of a closing that is not confirmed, None when the gate is open."""
        with self._lock:
            number, entered = (self._number, dict(self._entered)) if self._closed else (0, None)
        if entered is None:
            return None
        return number, tuple(
            RunningAttempt(execution_id=execution_id, attempt=attempt, epoch=epoch)
            for (execution_id, attempt), epoch in entered.items()
        )

    def confirm(self, number: int) -> None:
        """Open the gate if it was closed for the last time with this number."""
        with self._lock:
            if number == self._number:
                self._closed = False
