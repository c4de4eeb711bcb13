"""Failures of user code: any exception of a reasoner or handler as a problem document, and in the node's log.

User code decides what an exception says of itself, so nothing here may raise: a failure of one run must not become a failure
of the node.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from pathlib import Path
from typing import Any

from agentfield.attempt_state import ExecutionSuspended
from agentfield.errors import AgentFieldError, ExecutionFailed
from agentfield.lossy import lossy_text
from agentfield.wire.frames import ExecutionContext

__all__ = ["handler_problem", "is_cancelled", "log_failure", "reasoner_problem", "suspension_in"]

_MAX_TRACEBACK = 64 * 1024
"""Characters of a traceback in the log."""

_NOWHERE = "an unknown place"
_PACKAGE = Path(__file__).parents[1]
_log = logging.getLogger("agentfield.node")


def reasoner_problem(target: str, error: BaseException) -> dict[str, Any]:
    """Return the problem document of an exception that a reasoner raised."""
    if (own := _own_problem(error)) is not None:
        return {"target": target, **own}
    name, text = _name_and_text(error)
    return ExecutionFailed(
        f"{target} raised {name}: {text}" if text else f"{target} raised {name}.",
        hint=f"The node's own log has the traceback of {target}.",
        target=target,
        error=name,
    ).to_problem()


def handler_problem(target: str, error: BaseException) -> dict[str, Any]:
    """Return the problem document of an exception that a session's handler raised."""
    (name, text), place = _name_and_text(error), _where(error)
    problem = AgentFieldError(
        f"The handler of {target} raised {name}: {text}" if text else f"The handler of {target} raised {name}.",
        code="handler_failed",
        hint=f"The node's own log has the traceback; it was raised at {place}.",
    ).to_problem()
    if (own := _own_problem(error)) is not None:
        problem["cause"] = own
    return {**problem, "error": name, "where": place}


def log_failure(what: str, error: BaseException, context: ExecutionContext) -> None:
    """Log an exception of user code with its execution, its session and its traceback.

    Args:
        what: What raised, such as ``shop.lookup`` or ``the handler of shop.voice``.
        error: The exception.
        context: The execution that failed.
    """
    if isinstance(error, AgentFieldError) and _where(error) == _NOWHERE:
        _log.info("%s failed (execution %s): %s", what, context.execution_id, _name_and_text(error)[1])
        return  # refused before user code was entered, as for input that does not fit
    place = f"execution {context.execution_id}, session {context.session_id or 'none'}"
    try:
        text = _traceback(error)
    except BaseException:  # noqa: BLE001 -- formatting reads attributes of the exception, which are user code
        text = _plain_traceback(error)
    if len(text) <= _MAX_TRACEBACK and _is_encodable(text) and _log_with(what, place, error):
        return
    _log.error("%s raised (%s)\n%s", what, place, lossy_text(text, _MAX_TRACEBACK).rstrip())


def suspension_in(group: BaseExceptionGroup[BaseException]) -> ExecutionSuspended | None:
    """Return the pause that a task group of the function raised, None without one."""
    waiting: list[BaseException] = [group]
    while waiting:  # not recursive: groups may be nested deeper than Python's stack allows
        each = waiting.pop()
        if isinstance(each, ExecutionSuspended):
            return each
        if isinstance(each, BaseExceptionGroup):
            waiting.extend(reversed(each.exceptions))
    return None


def is_cancelled(error: BaseException) -> bool:
    """Return whether an exception ends the current task itself, rather than being one that user code raised.

    User code may raise `CancelledError` and `GeneratorExit` like any other exception.
    """
    if not isinstance(error, asyncio.CancelledError | GeneratorExit):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop runs: the coroutine is being closed
        return True
    return task is None or (isinstance(error, asyncio.CancelledError) and task.cancelling() > 0)


def _log_with(what: str, place: str, error: BaseException) -> bool:
    """Log with the exception itself, which handlers of error trackers read; return False if they fail."""
    try:
        _log.error("%s raised (%s)", what, place, exc_info=(type(error), error, error.__traceback__))
    except BaseException:  # noqa: BLE001 -- a logging handler lets a RecursionError pass
        return False
    return True


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _own_problem(error: BaseException) -> dict[str, Any] | None:
    """Return the problem document of an error of this package, None for other exceptions."""
    if not issubclass(type(error), AgentFieldError) or not isinstance(error, AgentFieldError):
        return None
    try:
        return AgentFieldError.to_problem(error)
    except BaseException:  # noqa: BLE001 -- a subclass may define its attributes in any way
        return None


def _name_and_text(error: BaseException) -> tuple[str, str]:
    try:
        name = lossy_text(type(error).__name__, 200)
    except BaseException:  # noqa: BLE001 -- a metaclass may define `__name__`
        name = "an exception"
    return name, lossy_text(error)


def _where(error: BaseException) -> str:
    """Return the innermost source line of the traceback that is neither in a library nor in this package."""
    try:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if "site-packages" not in f.filename and not Path(f.filename).is_relative_to(_PACKAGE)]
        return lossy_text(f"{Path(own[-1].filename).name}:{own[-1].lineno}", 200) if own else _NOWHERE
    except BaseException:  # noqa: BLE001 -- the file name of compiled code is any text
        return _NOWHERE


def _traceback(error: BaseException) -> str:
    """Return the traceback. Beyond the limit it is not formatted: notes and causes may be so many that this takes seconds."""
    pieces, size = [], 0
    for piece in traceback.TracebackException(type(error), error, error.__traceback__, compact=True).format():
        pieces.append(piece)
        size += len(piece)
        if size > _MAX_TRACEBACK:
            break
    return "".join(pieces)


def _plain_traceback(error: BaseException) -> str:
    name, text = _name_and_text(error)
    try:
        lines = "".join(traceback.format_tb(error.__traceback__))
    except BaseException:  # noqa: BLE001 -- reading the source may fail for any file name
        lines = ""
    return f"{lines}{name}: {text}"
