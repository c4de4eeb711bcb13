"""A stranger's code runs in a thread of its own and is not waited for for ever.

What hangs is left behind: its thread is a daemon, so the process can end. A module that hangs while it is imported keeps
its import lock, and whoever imports the same module later waits as well; nobody does, since its plugin counts as broken.
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

__all__ = ["LOAD_DEADLINE", "Failed", "Watch", "run_each"]

LOAD_DEADLINE = 10.0
"""Seconds that a plugin may take to import and to hand over its manifest; a light one takes a thousandth of one."""


_LONGEST = 400
"""Characters of an error's text that a reason holds; the details hold all."""

T = TypeVar("T")


@dataclass(slots=True)
class Failed(Exception):
    """What was run raised, or did not come back."""

    reason: str
    details: str = ""
    """The traceback."""
    error: BaseException | None = None


@dataclass(slots=True)
class Watch:
    """How far a thread has come."""

    since: float = 0.0
    given_up: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        """Go no further when nobody waits any more: what follows would touch what others use.

        Raises:
            Failed: It was given up.
        """
        if self.given_up:
            raise Failed("it came back too late")


Work = tuple[str, Callable[[Watch], T]]
"""The module that is imported, if any, and what to run."""


def run_each(works: Sequence[Work[T]]) -> list[T | Failed]:
    """Run one thing after the other, all in one thread until one of them does not come back; whatever one raises is returned.

    What is imported as a part of a package that is being imported right now runs in this thread: whoever imports that
    package waits for us, and another thread would wait for it in turn.
    """
    results: dict[int, T | Failed] = {}
    here = {number for number, (module, _) in enumerate(works) if _is_being_imported(module)}
    left = deque(number for number in range(len(works)) if number not in here)
    while left:
        _run_in_thread(works, left, results)
    for number in here:
        results[number] = _outcome(partial(works[number][1], Watch()), Exception, SystemExit)
    return [results[number] for number in range(len(works))]


def _run_in_thread(works: Sequence[Work[T]], left: deque[int], results: dict[int, T | Failed]) -> None:
    """Work off what is left, until all is done or one is given up."""
    watch, done = Watch(since=time.monotonic()), threading.Event()

    def serve() -> None:
        while left:
            watch.since = time.monotonic()
            outcome = _outcome(partial(works[left[0]][1], watch), BaseException)
            with watch.lock:
                if watch.given_up:
                    return
                results[left.popleft()] = outcome
        done.set()

    threading.Thread(target=serve, name="agentfield-plugins", daemon=True).start()
    while not done.wait(max(0.01, watch.since + LOAD_DEADLINE - time.monotonic())):
        with watch.lock:
            if left and time.monotonic() >= watch.since + LOAD_DEADLINE:
                watch.given_up = True
                results[left.popleft()] = Failed(f"did not finish loading within {LOAD_DEADLINE:g} s")
                return


def _outcome(work: Callable[[], T], *caught: type[BaseException]) -> T | Failed:
    try:
        return work()
    except caught as error:
        reason = f"{type(error).__name__}: {_words(error)}".rstrip(": ")
        return Failed(reason, "".join(traceback.format_exception(error)), error)


def _words(error: BaseException) -> str:
    try:
        return textwrap.shorten(str(error), _LONGEST, placeholder=" …")
    except Exception:  # noqa: BLE001 - even its text is a stranger's code
        return "(its text cannot be read)"


def _is_being_imported(module: str) -> bool:
    """Tell whether a package above a module has begun to be imported and is not done."""
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        spec = getattr(sys.modules.get(".".join(parts[:length])), "__spec__", None)
        if getattr(spec, "_initializing", False):
            return True
    return False
