"""Writes the span of each closed execution, from a bounded queue in a task of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from agentfield.wire.trace_context import trace_id
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow, Execution, SessionRow
from agentfield_server.telemetry.spans import SpanRecord, span_of

__all__ = ["ExecutionTracer", "SpanWriter"]

QUEUE = 10_000
"""Limit of queued executions, and of remembered trace contexts of callers; one more drops the oldest."""
_BATCH = 100
_READ = 10.0
"""Timeout in seconds for reading and writing a batch."""
_DRAIN = 5.0
"""Seconds at the end for queued spans."""

_log = logging.getLogger("agentfield.telemetry")


class SpanWriter(Protocol):
    """Writes spans to an exporter."""

    def write(self, span: SpanRecord, link: str | None) -> None:
        """Write a span; `link` is the ``traceparent`` of an external caller."""

    async def close(self) -> None:
        """Flush the exporter, within a deadline."""


class ExecutionTracer:
    """The spans of one control plane.

    A span is written as a whole when its execution has ended, from the row in the store. So no state is kept for open
    executions, and an execution that a restart interrupted has one span over its whole time.

    Args:
        writer: Writes the spans.
        content: Whether inputs, outputs and transcripts become attributes.
        size: Limit of queued executions.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, writer: SpanWriter, *, content: bool = False, size: int = QUEUE, clock: Callable[[], float] = time.time
    ) -> None:
        self.dropped = 0
        """Number of spans that were dropped."""
        self._writer = writer
        self._content = content
        self._ended: deque[str] = deque(maxlen=size)
        self._links: OrderedDict[str, str] = OrderedDict()
        self._size = size
        self._began = clock()
        self._ready = asyncio.Event()
        self._finishing = False

    def record(self, rows: Iterable[EventRow]) -> None:
        """Queue the executions that ended in these events; returns at once."""
        for row in rows:
            if row.execution_id is None:
                continue
            if row.type == "execution.ended":
                if len(self._ended) == self._size:
                    self.dropped += 1
                self._ended.append(row.execution_id)
                self._ready.set()
            elif row.type == "execution.created" and (link := _link(row)) is not None:
                self._links[row.execution_id] = link
                if len(self._links) > self._size:
                    self._links.popitem(last=False)

    @asynccontextmanager
    async def running(self, store: Store) -> AsyncIterator[None]:
        """Write spans inside the block; at its end, queued spans get a few seconds."""
        task = asyncio.create_task(self._run(store), name="telemetry")
        try:
            yield
        finally:
            self._finishing = True
            self._ready.set()
            await asyncio.wait([task], timeout=_DRAIN)
            task.cancel()
            await asyncio.wait([task], timeout=_DRAIN)
            self.dropped += len(self._ended)
            self._ended.clear()
            await self._writer.close()
            if self.dropped:
                _log.warning("%d spans were not written; there were more than could be", self.dropped)

    async def _run(self, store: Store) -> None:
        while True:
            while self._ended:
                batch = [self._ended.popleft() for _ in range(min(_BATCH, len(self._ended)))]
                try:
                    async with asyncio.timeout(_READ):
                        await self._write(store, batch)
                except Exception as error:  # noqa: BLE001 - an exporter is third-party code; its errors must not end tracing
                    self.dropped += len(batch)
                    _log.warning("%d spans could not be written: %s", len(batch), type(error).__name__)
                await asyncio.sleep(0)
            if self._finishing:
                return
            self._ready.clear()
            await self._ready.wait()

    async def _write(self, store: Store, batch: list[str]) -> None:
        sessions: dict[str, SessionRow | None] = {}
        for done in await store.get_executions(batch):
            session_id = done.session_id
            if session_id is not None and session_id not in sessions:
                sessions[session_id] = await store.get_session(session_id)
            session = None if session_id is None else sessions[session_id]
            used = await store.last_event(done.run_id, "session.usage") if done.kind == "session" else None
            span = span_of(done, session, None if used is None else _body(used), content=self._content)
            self._writer.write(span, await self._link_of(store, done))

    async def _link_of(self, store: Store, done: Execution) -> str | None:
        link = self._links.pop(done.id, None)
        if link is None and done.parent_id is None and done.created_at < self._began:
            # created before this process started: its `execution.created` is among the first events of the run
            first = await store.read_events(done.run_id, limit=4)
            link = next((_link(row) for row in first if row.execution_id == done.id), None)
        # a link into the run's own trace adds nothing to the parent
        return None if link is None or link.split("-")[1] == trace_id(done.run_id) else link


def _link(row: EventRow) -> str | None:
    if b'"traceparent"' not in row.canonical:
        return None
    link = _body(row).get("traceparent")
    return link if isinstance(link, str) else None


def _body(row: EventRow) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(row.canonical)["body"]
    return body
