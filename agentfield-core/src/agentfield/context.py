"""The running code's execution, run and session, and its progress reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from agentfield.errors import LimitExceeded, Unavailable
from agentfield.schema import to_json
from agentfield.wire.frames import ExecutionContext

if TYPE_CHECKING:
    from agentfield.attempt_state import AttemptState

__all__ = ["MAX_PROGRESS", "current", "run", "session_id", "update", "use"]

MAX_PROGRESS: Final = 4096
"""Bytes of JSON that one progress report may be."""

_current: ContextVar[ExecutionContext | None] = ContextVar("agentfield_context", default=None)
_run: ContextVar[AttemptState | None] = ContextVar("agentfield_run", default=None)


def current() -> ExecutionContext | None:
    """Return the context of the running reasoner or handler, None outside of one.

    Its `headers` hold the same values under the header names of the REST API (``X-Session-ID`` and others).
    """
    return _current.get()


def session_id() -> str | None:
    """Return the id of the session that the running code belongs to, None without one."""
    context = _current.get()
    return context.session_id if context else None


def run() -> AttemptState | None:
    """Return the state of the running reasoner, None outside of one."""
    return _run.get()


def update(**values: Any) -> None:
    """Report the progress of the running reasoner, such as ``update(done=3, of=10)``.

    Returns at once. The newest value is recorded with the execution, at most one a second, and shown in its view, in the
    workflow and in its events.

    Args:
        **values: Any JSON values, at most 4 KiB.

    Raises:
        Unavailable: No reasoner is running here (code `no_run`).
        InvalidInput: A value is not JSON.
        LimitExceeded: The values are larger than 4 KiB.
    """
    state = _run.get()
    if state is None:
        raise Unavailable("No reasoner is running here.", code="no_run", hint="Call context.update inside a reasoner.")
    value = to_json(values, name="progress")
    if (size := len(value)) > MAX_PROGRESS:
        raise LimitExceeded(
            f"Progress may be {MAX_PROGRESS} bytes of JSON; this is {size}.", hint="Report fewer or shorter values."
        )
    state.report(value.value)


@contextmanager
def use(context: ExecutionContext, run: AttemptState | None = None) -> Iterator[None]:
    """Make `context` the current one inside the block, including tasks and threads started there.

    Args:
        context: The execution that the code belongs to.
        run: The state of a reasoner's attempt; None in a session's handler.
    """
    token, before = _current.set(context), _run.set(run)
    try:
        yield
    finally:
        _run.reset(before)
        _current.reset(token)
