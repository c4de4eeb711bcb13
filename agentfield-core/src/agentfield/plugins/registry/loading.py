"""Loading of third-party code in a thread, with a timeout.

A thread that hangs is abandoned; it is a daemon, so the process can end. A module that hangs during its import keeps its
import lock, so a later import of it would hang as well; there is none, since its plugin is broken.
"""

from __future__ import annotations

import sys
import textwrap
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

__all__ = ["LOAD_TIMEOUT", "LoadAttempt", "LoadFailure", "run_each"]

LOAD_TIMEOUT = 10.0
"""Seconds for the import and the manifest of one plugin; a light one takes about a millisecond."""

_MAX_REASON = 400
"""Maximum characters of an error's text in a reason; the details have all of it."""

T = TypeVar("T")


@dataclass(slots=True)
class LoadFailure(Exception):
    """The loaded code raised or hung."""

    reason: str
    details: str = ""
    """The traceback."""
    error: BaseException | None = None


@dataclass(slots=True)
class LoadAttempt:
    """State shared by the loading thread and the waiting thread."""

    since: float = 0.0
    """Start of the current load, in seconds of the monotonic clock."""
    abandoned: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held to record a result or to abandon the load, so that only one of the two happens."""

    def check(self) -> None:
        """Stop an abandoned load before it changes shared state, such as the plugin manager.

        Raises:
            LoadFailure: The load was abandoned.
        """
        if self.abandoned:
            raise LoadFailure("it came back too late")


Load = tuple[str, Callable[[LoadAttempt], T]]
"""A load: the name of the module that it imports, if any, and the function to run."""


def run_each(loads: Sequence[Load[T]]) -> list[T | LoadFailure]:
    """Run loads one after the other in a thread, and return their results or failures; a hanging load is abandoned.

    A load whose module belongs to a package that is being imported right now runs in the calling thread: this thread holds
    the package's import lock, so another thread would deadlock with it.
    """
    results: dict[int, T | LoadFailure] = {}
    here = {number for number, (module, _) in enumerate(loads) if _is_being_imported(module)}
    left = deque(number for number in range(len(loads)) if number not in here)
    while left:
        _run_in_thread(loads, left, results)
    for number in here:
        results[number] = _outcome(partial(loads[number][1], LoadAttempt()), Exception, SystemExit)
    return [results[number] for number in range(len(loads))]


def _run_in_thread(loads: Sequence[Load[T]], left: deque[int], results: dict[int, T | LoadFailure]) -> None:
    """Run the remaining loads in a new thread, until all are done or one is abandoned."""
    attempt, done = LoadAttempt(since=time.monotonic()), threading.Event()

    def run() -> None:
        while left:
            attempt.since = time.monotonic()
            outcome = _outcome(partial(loads[left[0]][1], attempt), BaseException)
            with attempt.lock:
                if attempt.abandoned:
                    return
                results[left.popleft()] = outcome
        done.set()

    threading.Thread(target=run, name="agentfield-plugins", daemon=True).start()
    while not done.wait(max(0.01, attempt.since + LOAD_TIMEOUT - time.monotonic())):
        with attempt.lock:
            if left and time.monotonic() >= attempt.since + LOAD_TIMEOUT:
                attempt.abandoned = True
                results[left.popleft()] = LoadFailure(f"did not finish loading within {LOAD_TIMEOUT:g} s")
                return


def _outcome(load: Callable[[], T], *caught: type[BaseException]) -> T | LoadFailure:
    try:
        return load()
    except caught as error:
        reason = f"{type(error).__name__}: {_error_text(error)}".rstrip(": ")
        return LoadFailure(reason, "".join(traceback.format_exception(error)), error)


def _error_text(error: BaseException) -> str:
    try:
        return textwrap.shorten(str(error), _MAX_REASON, placeholder=" …")
    except Exception:  # noqa: BLE001 - __str__ is third-party code too
        return "(its text cannot be read)"


def _is_being_imported(module: str) -> bool:
    """Return whether a module or a package above it is being imported."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        spec = getattr(sys.modules.get(".".join(parts[:length])), "__spec__", None)
        if getattr(spec, "_initializing", False):
            return True
    return False
