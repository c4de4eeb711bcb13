"""A stranger's code runs in a thread of its own and is not waited for for ever.

What hangs is left behind: its thread is a daemon, so the process can end. A module that hangs while it is imported keeps
its import lock, and whoever imports the same module later waits as well; nobody does, since its plugin counts as broken.
"""

from __future__ import annotations

import queue
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["LOAD_DEADLINE", "Failed", "Loader"]

LOAD_DEADLINE = 10.0
"""Seconds that a plugin may take to import and to hand over its manifest; a light one takes a thousandth of one."""

_LONGEST = 400
"""Characters of an error's text that a reason holds; the details hold all."""


@dataclass(slots=True)
class Failed(Exception):
    """What was run raised, or did not come back."""

    reason: str
    details: str = ""
    """The traceback."""
    error: BaseException | None = None


T = TypeVar("T")
_Work = tuple[Callable[[], object], "queue.SimpleQueue[Any]"]


class Loader:
    """Runs one thing after the other, all in one thread until one of them does not come back."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[_Work | None] | None = None

    def run(self, work: Callable[[], T], *, module: str = "") -> T:
        """Return what `work` returns.

        Args:
            work: What to run.
            module: The module that it imports, if any.

        Raises:
            Failed: It raised anything at all, or did not come back within `LOAD_DEADLINE`.
        """
        # Whoever imports that package waits for us: another thread would wait for it in turn.
        here = _is_being_imported(module)
        answer = _outcome(work, Exception, SystemExit) if here else self._elsewhere(work)
        if isinstance(answer, Failed):
            raise answer
        return answer

    def close(self) -> None:
        """Let the thread go."""
        if self._work is not None:
            self._work.put(None)
            self._work = None

    def _elsewhere(self, work: Callable[[], T]) -> T | Failed:
        if self._work is None:
            self._work = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(self._work,), name="agentfield-plugins", daemon=True).start()
        answers: queue.SimpleQueue[T | Failed] = queue.SimpleQueue()
        self._work.put((work, answers))
        try:
            return answers.get(timeout=LOAD_DEADLINE)
        except queue.Empty:
            self.close()  # it ends after all when the work comes back
            return Failed(f"did not finish loading within {LOAD_DEADLINE:g} s")


def _serve(work: queue.SimpleQueue[_Work | None]) -> None:
    while (item := work.get()) is not None:
        call, answers = item
        answers.put(_outcome(call, BaseException))


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
