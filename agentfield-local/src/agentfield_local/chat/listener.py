"""Whether the client of a request still listens: nobody works for one that went away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

__all__ = ["Gone", "abort", "gone", "while_there"]

ResultT = TypeVar("ResultT")
_WATCH_SECONDS = 0.02


class Gone(Exception):
    """Nobody waits for the answer any more."""


async def gone(request: web.Request, stopping: asyncio.Event) -> None:
    """Notice that the client went away, which nothing else tells while there is nothing to send.

    Args:
        request: The request.
        stopping: Set when the server ends.

    Raises:
        Gone: The client went away, or the server ends.
    """
    while request.transport is not None and not stopping.is_set():  # noqa: ASYNC110 - the HTTP server tells nobody
        await asyncio.sleep(_WATCH_SECONDS)
    raise Gone


async def while_there(request: web.Request, stopping: asyncio.Event, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Return what `work` does, as long as the client waits for it.

    Args:
        request: The request.
        stopping: Set when the server ends.
        work: What is cancelled when nobody waits.

    Raises:
        Gone: The client went away, or the server ends.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(gone(request, stopping))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


def abort(request: web.Request) -> None:
    """Break the connection, so that nobody takes what was sent for an answer."""
    if request.transport is not None:
        request.transport.abort()
