"""Streams of what is recorded (text/event-stream): resumed by `Last-Event-ID`, read from the store, at each reader's own pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp_sse import EventSourceResponse, sse_response

from agentfield.errors import InvalidInput
from agentfield_server.bus import Bus, Subscription
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow

__all__ = ["follow", "hints_of", "last_event_id", "open_stream", "send"]

_KEEP_ALIVE = 15.0
_PAGE = 500
_STALLED = 60.0
"""Seconds in which a reader must take something of what is sent to it; it comes back with `Last-Event-ID`."""


def last_event_id(request: web.Request) -> int:
    """Return after which event a stream begins: ``Last-Event-ID``, or ``?after=``.

    Raises:
        InvalidInput: It is no number of an event.
    """
    value = request.headers.get("Last-Event-ID", request.query.get("after", "0"))
    if not value.isascii() or not value.isdigit() or len(value) > 15:
        raise InvalidInput("Last-Event-ID is the number of an event.", field="Last-Event-ID")
    return int(value)


def hints_of(bus: Bus, run_id: str) -> Subscription:
    """Return what says that a run has new events; to be entered before the first of them is read.

    One hint that waits says as much as a thousand: the store is what is read.
    """
    return bus.subscribe(f"run:{run_id}", maxsize=1)


@asynccontextmanager
async def open_stream(request: web.Request) -> AsyncIterator[EventSourceResponse]:
    """Answer a request with a stream; a reader that goes away, or takes nothing any more, ends it quietly."""
    async with sse_response(request, headers={"Cache-Control": "no-store"}, ping_interval=_KEEP_ALIVE) as stream:
        try:
            yield stream
        except ConnectionError:
            # what waits for this reader goes with its connection: an orderly end would wait for it as well
            if request.transport is not None:
                request.transport.abort()


async def send(stream: EventSourceResponse, data: str, *, event: str, number: int | None = None) -> None:
    """Send one event, at the pace of its reader.

    Raises:
        ConnectionError: The reader is gone, or has taken nothing for a minute.
    """
    try:
        async with asyncio.timeout(_STALLED):
            await stream.send(data, id=None if number is None else str(number), event=event)
    except TimeoutError:
        raise ConnectionAbortedError("the reader takes nothing") from None


async def follow(
    stream: EventSourceResponse,
    store: Store,
    run_id: str,
    *,
    after: int,
    hints: Subscription,
    is_last: Callable[[EventRow], bool] | None = None,
    over: bool = False,
) -> None:
    """Send the events of a run in order, each once, those that are there and those that come.

    Args:
        stream: To whom.
        store: Where they are read.
        run_id: Whose.
        after: The number of the last one that the reader has.
        hints: What `hints_of` returned, entered.
        is_last: Says with which one it ends; never when None.
        over: Nothing is waited for: it ends when all are sent.

    Raises:
        ConnectionError: The reader is gone, or has taken nothing for a minute.
    """
    while True:
        while events := await store.read_events(run_id, after=after, limit=_PAGE):
            for event in events:
                await send(stream, event.canonical.decode(), event=event.type, number=event.seq)
                after = event.seq
                if is_last is not None and is_last(event):
                    return
        if over:
            return
        # also when the subscription overflowed: the store is the truth, read on from there
        await anext(hints, None)
