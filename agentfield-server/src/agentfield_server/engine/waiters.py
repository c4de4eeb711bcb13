"""Waiters for the end of an execution: they are notified, nobody polls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from agentfield.wire.rest import ExecutionStatus
from agentfield_server.bus import Bus
from agentfield_server.store.records import EventRow, Execution

__all__ = ["FINAL", "ExecutionWaiters"]

FINAL: frozenset[ExecutionStatus] = frozenset({"succeeded", "failed", "cancelled", "timeout"})
"""Final states of an execution."""


class ExecutionWaiters:
    """Waits for the end of executions, with a timeout.

    Args:
        find: Returns an execution as it is stored.
        bus: Publishes recorded events by run.
    """

    def __init__(self, find: Callable[[str], Awaitable[Execution]], bus: Bus) -> None:
        self._find = find
        self._bus = bus
        self._futures: dict[str, set[asyncio.Future[Execution]]] = {}

    @contextmanager
    def expect(self, execution_id: str) -> Iterator[asyncio.Future[Execution]]:
        """Yield a future of the closed execution, valid inside the block."""
        future: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(execution_id, set()).add(future)
        try:
            yield future
        finally:
            future.cancel()
            waiting = self._futures.get(execution_id)
            if waiting is not None:
                waiting.discard(future)
                if not waiting:
                    del self._futures[execution_id]

    def resolve(self, execution: Execution) -> None:
        """Resolve the futures of a closed execution."""
        for future in self._futures.get(execution.id, ()):
            if not future.done():
                future.set_result(execution)

    async def until_closed(
        self,
        execution_id: str,
        future: asyncio.Future[Execution],
        timeout: float | None,  # noqa: ASYNC109
    ) -> Execution:
        """Wait for a future of `expect`; after `timeout` seconds return the execution as it is stored."""
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            return await self._find(execution_id)

    async def until_recorded(self, execution: Execution, timeout: float | None) -> Execution:  # noqa: ASYNC109
        """Wait for the `execution.ended` event of a session or turn, which the sessions close and not the engine."""
        try:
            # subscribed before the first read: an end between the two is seen as an event
            with self._bus.subscribe(f"run:{execution.run_id}") as events:
                async with asyncio.timeout(timeout):
                    while (current := await self._find(execution.id)).status not in FINAL:
                        async for rows in events:
                            if isinstance(rows, list) and any(_is_end_of(row, execution.id) for row in rows):
                                break
                    return current
        except TimeoutError:
            return await self._find(execution.id)


def _is_end_of(row: EventRow, execution_id: str) -> bool:
    return row.type == "execution.ended" and row.execution_id == execution_id
