"""Coroutine methods whose result is an error when it is used without `await`.

A forgotten `await` is silent in Python: ``session.call(...)`` alone runs nothing, and ``session.input().text`` fails with an
`AttributeError` of a coroutine. `must_await` makes the second a typed error at once, and tells the caller of the first one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Coroutine, Generator
from pathlib import PurePath
from types import TracebackType
from typing import Any, NoReturn, ParamSpec, TypeVar

from agentfield.errors import InvalidInput

__all__ = ["NotAwaited", "must_await"]

P = ParamSpec("P")
T = TypeVar("T")


class NotAwaited(InvalidInput, AttributeError):
    """The result of a coroutine method was used without `await`, or dropped."""

    code = "not_awaited"


class _Awaitable(Coroutine[Any, Any, T]):
    """A coroutine that is a clear error in any use but `await`.

    Args:
        start: Returns the coroutine; called at the first use, so that one that is never used causes no warning of asyncio.
        call: The call as the user wrote it, such as ``session.input(...)``.
        place: The source line of the call.
        dropped: Called if the coroutine is deleted and was never awaited.
    """

    def __init__(
        self, start: Callable[[], Coroutine[Any, Any, T]], call: str, place: str, dropped: Callable[[NotAwaited], None]
    ) -> None:
        self._start = start
        self._coroutine: Coroutine[Any, Any, T] | None = None
        self._call = call
        self._place = place
        self._dropped = dropped
        self._used = False

    def __await__(self) -> Generator[Any, Any, T]:
        return self._started().__await__()

    def send(self, value: Any, /) -> Any:
        """Resume the coroutine; a task calls this."""
        return self._started().send(value)

    def throw(
        self,
        kind: BaseException | type[BaseException],
        value: BaseException | object = None,
        trace: TracebackType | None = None,  # noqa: ARG002 -- part of the protocol
        /,
    ) -> Any:
        """Raise an exception inside the coroutine; a task calls this."""
        if isinstance(kind, type):
            kind = value if isinstance(value, BaseException) else kind()
        return self._started().throw(kind)

    def close(self) -> None:
        """Close the coroutine without running it."""
        self._used = True
        if self._coroutine is not None:
            self._coroutine.close()

    def __del__(self) -> None:
        if not self._used:
            self._dropped(self._error("was not awaited, so it did not run"))

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith(("_", "cr_", "gi_", "ag_")):  # asyncio and inspect ask any awaitable for these
            raise AttributeError(name)
        raise self._error(f"has no {name!r}: it was not awaited")

    def __getitem__(self, key: object) -> NoReturn:
        raise self._error("was not awaited")

    def __iter__(self) -> NoReturn:
        raise self._error("was not awaited")

    def __bool__(self) -> NoReturn:
        raise self._error("was not awaited")

    def __format__(self, spec: str) -> NoReturn:
        raise self._error("was not awaited")

    def _started(self) -> Coroutine[Any, Any, T]:
        self._used = True
        if self._coroutine is None:
            self._coroutine = self._start()
        return self._coroutine

    def _error(self, why: str) -> NotAwaited:
        self._used = True
        return NotAwaited(
            f"{self._call}(...) {why} ({self._place}).", hint=f"Write `await {self._call}(...)`.", call=self._call
        )


def must_await(
    owner: str, dropped: Callable[[Any, NotAwaited], None]
) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Decorate a coroutine method so that any use of its result but `await` raises `NotAwaited`.

    Args:
        owner: What users call the object, such as ``session``.
        dropped: Called with the object and the error if a result was deleted without being awaited.
    """

    def decorate(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        @functools.wraps(method)
        def call(*args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
            start = functools.partial(method, *args, **kwargs)
            frame = sys._getframe(1)  # noqa: SLF001 -- documented; `inspect.stack` reads source files
            place = f"{PurePath(frame.f_code.co_filename).name}:{frame.f_lineno}"
            return _Awaitable(start, f"{owner}.{method.__name__}", place, functools.partial(dropped, args[0]))

        return call

    return decorate
