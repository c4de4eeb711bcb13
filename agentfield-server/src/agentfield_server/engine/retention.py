"""Retention: deletes runs that ended long ago, in short transactions, so that other writes are not delayed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from agentfield.errors import AgentFieldError
from agentfield_server.engine.tasks import BackgroundTasks
from agentfield_server.store.protocol import Store

__all__ = ["DAY", "PruneResult", "Retention"]

_log = logging.getLogger("agentfield.retention")

DAY = 24 * 3600.0
_EVERY = 3600.0
_ROWS = 500
"""Rows that one transaction deletes."""


@dataclass(frozen=True, slots=True)
class PruneResult:
    """Totals of one round: deleted, or with `dry_run` only counted."""

    runs: int
    executions: int
    events: int
    next: str | None
    """Cursor of the next round; None at the end."""


class Retention:
    """Prunes runs. An asynchronous context manager that owns the periodic task, if there is one.

    Args:
        store: The open store.
        clock: Seconds since the epoch.
        days: Days without an event after which an ended run is pruned; None starts no periodic task.
        every: Seconds between two passes.
    """

    def __init__(
        self, store: Store, *, clock: Callable[[], float], days: float | None = None, every: float = _EVERY
    ) -> None:
        self._store = store
        self._clock = clock
        self._days = days
        self._every = every
        self._tasks = BackgroundTasks()
        # two concurrent rounds would delete rows of the same run and block each other's transactions
        self._prune_lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Start the periodic task if `days` is given."""
        if self._days is not None:
            self._tasks.start(self._run(self._days))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; the next pass continues a run that is half deleted."""
        await self._tasks.close()

    async def prune(self, *, older_than: float, after: str = "", dry_run: bool = False) -> PruneResult:
        """Do one round: examine some hundred runs and prune those that qualify, in short transactions.

        Args:
            older_than: Seconds since the last event of a run; a day at least.
            after: The `next` of the previous round.
            dry_run: Count only.
        """
        before = self._clock() - older_than
        page = await self._store.ended_runs(before=before, after=after)
        runs = executions = events = 0
        for run in page.runs:
            if not dry_run and not await self._prune_run(run.run_id, before):
                continue
            runs, executions, events = runs + 1, executions + run.executions, events + run.events
        return PruneResult(runs, executions, events, page.next)

    async def _prune_run(self, run_id: str, before: float) -> bool:
        async with self._prune_lock:
            while gone := await self._store.prune_run(run_id, before=before, rows=_ROWS):
                pass  # other writes are served between two transactions
        return gone is not None

    async def _compact(self) -> None:
        left = await self._store.compact()
        # ends also when others free pages faster than they are returned; the next pass continues
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
                    _log.info("%d runs without an event for %g days were pruned", runs, days)
                if runs:
                    await self._compact()
            except AgentFieldError as error:
                _log.warning("old runs could not be pruned, it will be tried again: %s", error.message)
            await asyncio.sleep(self._every)
