"""Waits until something holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any


async def until(condition: Callable[[], Any], seconds: float = 8.0) -> Any:
    """Wait until a condition holds and return what it gave."""
    async with asyncio.timeout(seconds):
        while not (value := condition()):  # noqa: ASYNC110 - any condition may be waited for
            await asyncio.sleep(0.005)
        return value


async def until_async(condition: Callable[[], Awaitable[Any]], seconds: float = 8.0) -> Any:
    """Wait until an asynchronous condition holds and return what it gave."""
    async with asyncio.timeout(seconds):
        while not (value := await condition()):  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.005)
        return value
