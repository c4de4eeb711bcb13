"""Waits for conditions that other tasks or processes bring about: polled until they hold, failed after a minute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

__all__ = ["SECONDS", "until", "until_async"]

SECONDS = 60.0
"""Seconds until a wait fails, long enough for a busy machine; not an expected duration."""

_PAUSE = 0.005
_PAUSE_BETWEEN_REQUESTS = 0.02
_Value = TypeVar("_Value")


async def until(condition: Callable[[], Any], what: str = "the condition", *, seconds: float = SECONDS) -> Any:
    """Poll a condition until it holds and return its value.

    Args:
        condition: Returns something true once it holds.
        what: What is waited for, for the message of a failure.
        seconds: How long to wait.

    Raises:
        AssertionError: It did not hold in time.
    """

    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds:g} s; last seen: {value!r}")
        await asyncio.sleep(_PAUSE)
    return value


async def until_async(
    look: Callable[[], Awaitable[_Value]],
    fits: Callable[[_Value], Any] = bool,
    *,
    what: str = "the condition",
    seconds: float = SECONDS,
) -> _Value:
    """Call `look` until its result fits and return that.

    Args:
        look: Returns what there is now.
        fits: Tells whether that is what is waited for; anything true by default.
        what: What is waited for, for the message of a failure.
        seconds: How long to wait.

    Raises:
        AssertionError: It did not fit in time.
    """
    last: object = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                last = value = await look()
                if fits(value):
                    return value
                await asyncio.sleep(_PAUSE_BETWEEN_REQUESTS)
    except TimeoutError:
        raise AssertionError(f"{what}: not within {seconds:g} s; last seen: {last!r}") from None
