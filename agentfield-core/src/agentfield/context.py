"""Where the code that is running belongs: the execution, its run and its session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from agentfield.wire.frames import ExecutionContext

__all__ = ["current", "session_id", "use"]

_current: ContextVar[ExecutionContext | None] = ContextVar("agentfield_context", default=None)


def current() -> ExecutionContext | None:
    """Return the context of the reasoner or handler that is running, None outside of one.

    Its `headers` carry the same under the names of the REST interface (``X-Session-ID`` and the others).
    """
    return _current.get()


def session_id() -> str | None:
    """Return the id of the session that the running code works for, None when there is none."""
    context = _current.get()
    return context.session_id if context else None


@contextmanager
def use(context: ExecutionContext) -> Iterator[None]:
    """Make `context` the current one inside a ``with`` block, also for tasks and threads started there."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)
