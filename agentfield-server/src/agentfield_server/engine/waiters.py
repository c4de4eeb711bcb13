"""Waiters for the end of an execution: they are notified, nobody polls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from agentfield.wire.rest import ExecutionStatus
from agentfield_server.bus import Bus
from agentfield_server.store.records import EventRow, Execution

__all__ = ["FINAL", "ExecutionWaiters"]

_log = logging.getLogger("agentfield.engine")

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
        self._callbacks: dict[str, set[Callable[[Execution], None]]] = {}

    def call(self, execution_id: str, callback: Callable[[Execution], None]) -> Callable[[], None]:
        """Call `callback` with the closed execution; return what cancels that."""
        self._callbacks.setdefault(execution_id, set()).add(callback)

        def cancel() -> None:
            waiting = self._callbacks.get(execution_id)
            if waiting is not None:
                waiting.discard(callback)
                if not waiting:
                    del self._callbacks[execution_id]

        return cancel

    @contextmanager
    def expect(self, execution_id: str) -> Iterator[asyncio.Future[Execution]]:
        """Yield a future of the closed execution, valid inside the block."""
        future: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        cancel = self.call(execution_id, lambda execution: None if future.done() else future.set_result(execution))
        try:
            yield future
        finally:
            future.cancel()
            cancel()

    def resolve(self, execution: Execution) -> None:
        """Notify the waiters of a closed execution."""
        for callback in self._callbacks.pop(execution.id, ()):
            try:
                callback(execution)
            except Exception:  # noqa: BLE001 - logged; the others wait for the same end
                _log.exception("a waiter of %s failed", execution.id)

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
