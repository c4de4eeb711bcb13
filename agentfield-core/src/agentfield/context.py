"""Where the code that is running belongs: the execution, its run and its session; and how far it has come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from agentfield.errors import LimitExceeded, Unavailable
from agentfield.identity import canonical
from agentfield.schema import jsonable
from agentfield.wire.frames import ExecutionContext

if TYPE_CHECKING:
    from agentfield.pausing import RunState

__all__ = ["MAX_PROGRESS", "current", "run", "session_id", "update", "use"]

MAX_PROGRESS: Final = 4096
"""Bytes of what `update` is given, as JSON."""

_current: ContextVar[ExecutionContext | None] = ContextVar("agentfield_context", default=None)
_run: ContextVar[RunState | None] = ContextVar("agentfield_run", default=None)


def current() -> ExecutionContext | None:
    """Return the context of the reasoner or handler that is running, None outside of one.

    Its `headers` carry the same under the names of the REST interface (``X-Session-ID`` and the others).
    """
    return _current.get()


def session_id() -> str | None:
    """Return the id of the session that the running code works for, None when there is none."""
    context = _current.get()
    return context.session_id if context else None


def run() -> RunState | None:
    """Return the run of the reasoner that is running, None outside of one."""
    return _run.get()


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
    state = _run.get()
    if state is None:
        raise Unavailable(
            "There is no run to tell of here.", code="no_run", hint="call context.update from inside a reasoner"
        )
    value = jsonable(values, what="progress")
    if (size := len(canonical(value))) > MAX_PROGRESS:
        raise LimitExceeded(f"Progress may be {MAX_PROGRESS} bytes of JSON; this is {size}.", hint="say less of it")
    state.report(value)


@contextmanager
def use(context: ExecutionContext, run: RunState | None = None) -> Iterator[None]:
    """Make `context` the current one inside a ``with`` block, also for tasks and threads started there.

    Args:
        context: Where the code belongs.
        run: The run of a reasoner; None in the handler of a session.
    """
    token, before = _current.set(context), _run.set(run)
    try:
        yield
    finally:
        _run.reset(before)
        _current.reset(token)
