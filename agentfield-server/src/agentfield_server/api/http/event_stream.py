"""Event streams of recorded events (text/event-stream): read from the store at each reader's pace, resumed by `Last-Event-ID`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp_sse import EventSourceResponse, sse_response

from agentfield.errors import InvalidInput
from agentfield_server.bus import Bus, Subscription
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow

__all__ = ["follow", "last_event_id", "new_event_hints", "open_stream", "send"]

_KEEP_ALIVE = 15.0
_PAGE = 500
_STALLED = 60.0
"""Seconds after which a reader that takes nothing is disconnected; it may resume with `Last-Event-ID`."""


def last_event_id(request: web.Request) -> int:
    """Return the sequence number after which a stream starts: ``Last-Event-ID``, or ``?after=``.

    Raises:
        InvalidInput: The value is not a sequence number.
    """
    value = request.headers.get("Last-Event-ID", request.query.get("after", "0"))
    if not value.isascii() or not value.isdigit() or len(value) > 15:
        raise InvalidInput("Last-Event-ID is the number of an event.", field="Last-Event-ID")
    return int(value)


def new_event_hints(bus: Bus, run_id: str) -> Subscription:
    """Return a subscription that signals new events of a run; enter it before the first read.

    Its queue holds one hint only: the events themselves are read from the store.
    """
    return bus.subscribe(f"run:{run_id}", maxsize=1)


@asynccontextmanager
async def open_stream(request: web.Request) -> AsyncIterator[EventSourceResponse]:
    """Open an event stream as the response; it ends silently when its reader disconnects or stalls."""
    async with sse_response(request, headers={"Cache-Control": "no-store"}, ping_interval=_KEEP_ALIVE) as stream:
        try:
            yield stream
        except ConnectionError:
            # abort, not close: closing would wait until a stalled reader has taken the buffered data
            if request.transport is not None:
                request.transport.abort()


async def send(stream: EventSourceResponse, data: str, *, event: str, number: int | None = None) -> None:
    """Send one event, at the reader's pace.

    Raises:
        ConnectionError: The reader disconnected, or took nothing for a minute.
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
    view: Callable[[str], Awaitable[str | None]] | None = None,
) -> None:
    """Send the events of a run in order, each once: the recorded ones, then new ones as they are recorded.

    Args:
        stream: The open stream.
        store: The store.
        run_id: The run.
        after: Sequence number of the last event that the reader has.
        hints: The entered subscription of `new_event_hints`.
        is_last: Tells whether an event ends the stream; None for a stream without an end.
        over: End as soon as all recorded events are sent.
        view: Returns an event as its reader may see it, None to leave it out; by default all is sent.

    Raises:
        ConnectionError: The reader disconnected, or took nothing for a minute.
    """
    while True:
        while events := await store.read_events(run_id, after=after, limit=_PAGE):
            for event in events:
                data: str | None = event.canonical.decode()
                if view is not None and data is not None:
                    data = await view(data)
                if data is not None:
                    await send(stream, data, event=event.type, number=event.seq)
                after = event.seq
                if is_last is not None and is_last(event):
                    return
        if over:
            return
        # also after an overflow of the subscription: the next read of the store finds everything
        await anext(hints, None)
