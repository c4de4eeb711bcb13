"""Who waits for which execution; they are pushed, never polled."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from agentfield_server.store.records import Execution

__all__ = ["Waiters"]


class Waiters:
    """Futures of executions that are not closed yet."""

    def __init__(self) -> None:
        self._futures: dict[str, set[asyncio.Future[Execution]]] = {}

    @contextmanager
    def expect(self, execution_id: str) -> Iterator[asyncio.Future[Execution]]:
        """Return a future of the closed execution, valid inside the block."""
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

    def push(self, execution: Execution) -> None:
        """Tell everybody who waits for an execution that it is closed."""
        for future in self._futures.get(execution.id, ()):
            if not future.done():
                future.set_result(execution)
