"""Retention: runs that ended long ago are taken away, a little at a time, while everything else goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from agentfield.errors import AgentFieldError
from agentfield_server.engine.tasks import Tasks
from agentfield_server.store.protocol import Store

__all__ = ["DAY", "Pruned", "Retention"]

_log = logging.getLogger("agentfield.retention")

DAY = 24 * 3600.0
_EVERY = 3600.0
_ROWS = 500
"""Rows that go in one transaction."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one round took away, or would take away."""

    runs: int
    executions: int
    events: int
    next: str | None
    """Where the next round begins; None when there is none."""


class Retention:
    """Prunes runs. An asynchronous context manager that owns the task which does so by itself, where that is wanted.

    Args:
        store: What is kept; open.
        clock: Seconds since the epoch.
        days: After how many days without an event a run that ended is taken away; None never does so by itself.
        every: Seconds from one time to the next.
    """

    def __init__(
        self, store: Store, *, clock: Callable[[], float], days: float | None = None, every: float = _EVERY
    ) -> None:
        self._store = store
        self._clock = clock
        self._days = days
        self._every = every
        self._tasks = Tasks()
        # two that take the same run away would only be in each other's way
        self._one_at_a_time = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Start, where days are given."""
        if self._days is not None:
            self._tasks.start(self._run(self._days))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; what was begun is gone on with the next time."""
        await self._tasks.close()

    async def prune(self, *, older_than: float, after: str = "", dry_run: bool = False) -> Pruned:
        """Do one round: look at some hundred runs, and take those away that may go, in short transactions.

        Args:
            older_than: Seconds since the last event of a run; a day at least.
            after: The `next` of the round before.
            dry_run: Only count.
        """
        before = self._clock() - older_than
        page = await self._store.ended_runs(before=before, after=after)
        runs = executions = events = 0
        for run in page.runs:
            if not dry_run and not await self._take_away(run.run_id, before):
                continue
            runs, executions, events = runs + 1, executions + run.executions, events + run.events
        return Pruned(runs, executions, events, page.next)

    async def _take_away(self, run_id: str, before: float) -> bool:
        async with self._one_at_a_time:
            while gone := await self._store.prune_run(run_id, before=before, rows=_ROWS):
                pass  # whoever else writes comes between two of them
        return gone is not None

    async def _compact(self) -> None:
        left = await self._store.compact()
        # what others free meanwhile is left for the next time
        while left and (now := await self._store.compact()) < left:
            left = now

    async def _run(self, days: float) -> None:
        while True:
            try:
                runs, after = 0, ""
                while True:
                    done = await self.prune(older_than=days * DAY, after=after)
                    runs += done.runs
                    if done.next is None:
                        break
                    after = done.next
                if runs:
                    _log.info("%d runs without an event for %g days were taken away", runs, days)
                if runs:
                    await self._compact()
            except AgentFieldError as error:
                _log.warning("old runs could not be taken away, it will be tried again: %s", error.message)
            await asyncio.sleep(self._every)
