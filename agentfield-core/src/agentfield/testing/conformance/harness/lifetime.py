"""The lifetime of an adapter or transport under test: its factory is entered and exited in one task, each with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from agentfield.plugins.manifest.factories import factory_context
from agentfield.testing.conformance.harness.waiting import TIMEOUT, TaskTracker

__all__ = ["entered"]


@asynccontextmanager
async def entered(reference: str, runtime: Any, tasks: TaskTracker) -> AsyncIterator[Any]:
    """Enter a factory as the control plane does, and exit it at the end of the block.

    Args:
        reference: The factory as the manifest names it.
        runtime: Its argument.
        tasks: Runs it.

    Raises:
        AssertionError: It was not entered or exited in time.
        PluginBroken: It is not a factory.
    """
    ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def live() -> None:
        async with factory_context(reference, runtime) as made:
            ready.set_result(made)
            await leave.wait()

    lifetime = tasks.start(live(), f"lifetime of {reference}")
    waiting: set[asyncio.Future[Any]] = {lifetime, ready}
    await asyncio.wait(waiting, timeout=TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await tasks.result(f"{reference} is entered", lifetime, seconds=0.01)
        raise AssertionError(f"{reference} ended before it yielded anything")
    try:
        yield ready.result()
    finally:
        leave.set()
        await tasks.result(f"{reference} is left when the control plane stops", lifetime)
