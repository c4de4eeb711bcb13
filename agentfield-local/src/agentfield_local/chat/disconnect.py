"""Disconnect of the client: detected while nothing is written, so that its work can be cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

__all__ = ["ClientDisconnected", "abort_connection", "run_while_connected", "wait_for_disconnect"]

ResultT = TypeVar("ResultT")
_POLL_SECONDS = 0.02


class ClientDisconnected(Exception):
    """The client has disconnected, or the server ends."""


async def wait_for_disconnect(request: web.Request, stopping: asyncio.Event) -> None:
    """Wait until the client disconnects; aiohttp reports it only to a handler that writes.

    Args:
        request: The request.
        stopping: Set at the end of the server.

    Raises:
        ClientDisconnected: The client has disconnected, or the server ends.
    """
    while request.transport is not None and not stopping.is_set():  # noqa: ASYNC110 - aiohttp has no event for it
        await asyncio.sleep(_POLL_SECONDS)
    raise ClientDisconnected


async def run_while_connected(
    request: web.Request, stopping: asyncio.Event, work: Coroutine[Any, Any, ResultT]
) -> ResultT:
    """Return the result of `work`; cancel it if the client disconnects.

    Args:
        request: The request.
        stopping: Set at the end of the server.
        work: The work of the request.

    Raises:
        ClientDisconnected: The client has disconnected, or the server ends.
    """
    task = asyncio.create_task(work)
    watch = asyncio.create_task(wait_for_disconnect(request, stopping))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnected
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


def abort_connection(request: web.Request) -> None:
    """Cut the connection, so that the client cannot take a partial answer for a complete one."""
    if request.transport is not None:
        request.transport.abort()
