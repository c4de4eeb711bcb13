"""Where the code that is running belongs: the execution, its run and its session; and how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from agentfield.errors import LimitExceeded, Unavailable
from agentfield.identity import canonical
from agentfield.schema import jsonable
from agentfield.wire.frames import ExecutionContext

__all__ = ["MAX_PROGRESS", "current", "session_id", "update", "use"]

MAX_PROGRESS: Final = 4096
"""Bytes of what `update` is given, as JSON."""

Report = Callable[[dict[str, Any]], None]

_current: ContextVar[ExecutionContext | None] = ContextVar("agentfield_context", default=None)
_report: ContextVar[Report | None] = ContextVar("agentfield_report", default=None)


def current() -> ExecutionContext | None:
    """Return the context of the reasoner or handler that is running, None outside of one.

    Its `headers` carry the same under the names of the REST interface (``X-Session-ID`` and the others).
    """
    return _current.get()


def session_id() -> str | None:
    """Return the id of the session that the running code works for, None when there is none."""
    context = _current.get()
    return context.session_id if context else None


def update(**values: Any) -> None:
    """Tell how far the running reasoner has come, such as ``update(done=3, of=10)``.

    Returns at once. The newest word is recorded with the execution, at most one a second; it shows in its view, in the
    workflow and in its events.

    Args:
        **values: Anything that JSON can hold, at most 4 KiB of it.

    Raises:
        Unavailable: No reasoner is running here (code `no_run`).
        InvalidInput: It is not JSON.
        LimitExceeded: It is larger than that.
    """
    report = _report.get()
    if report is None:
        raise Unavailable(
            "There is no run to tell of here.", code="no_run", hint="call context.update from inside a reasoner"
        )
    value = jsonable(values, what="progress")
    if (size := len(canonical(value))) > MAX_PROGRESS:
        raise LimitExceeded(f"Progress may be {MAX_PROGRESS} bytes of JSON; this is {size}.", hint="say less of it")
    report(value)


@contextmanager
def use(context: ExecutionContext, report: Report | None = None) -> Iterator[None]:
    """Make `context` the current one inside a ``with`` block, also for tasks and threads started there.

    Args:
        context: Where the code belongs.
        report: Takes what `update` is given; None where there is nothing to tell of.
    """
    token, reporting = _current.set(context), _report.set(report)
    try:
        yield
    finally:
        _report.reset(reporting)
        _current.reset(token)
