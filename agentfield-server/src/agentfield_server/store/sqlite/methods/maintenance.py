"""Statistics, retention and compaction: the methods of the `Store` protocol."""

from __future__ import annotations

import asyncio

import apsw

from agentfield.errors import Unavailable
from agentfield_server.store.operations import DeleteRows, MarkPruned, Vacuum
from agentfield_server.store.records import EndedRun, EndedRuns, PrunedRun, StoreStats
from agentfield_server.store.sqlite.database import SqliteDatabase
from agentfield_server.store.sqlite.operations import retention
from agentfield_server.store.sqlite.operations.keys import KEY_LIFE

__all__ = ["MaintenanceMethods"]

_INCREMENTAL = 2
_SCANNED = 500
_CHECKPOINT_TIMEOUT_MS = 200
"""Milliseconds that a checkpoint waits for writer and readers; while it runs, they may wait for it."""
_COUNTS = """
SELECT (SELECT COUNT(*) FROM runs WHERE pruned_at IS NULL), (SELECT COUNT(*) FROM runs WHERE pruned_at IS NOT NULL),
    (SELECT COUNT(*) FROM executions),
    (SELECT COUNT(*) FROM executions WHERE status IN ('queued', 'running', 'waiting')),
    (SELECT COUNT(*) FROM sessions), (SELECT COUNT(*) FROM events), (SELECT COUNT(*) FROM approvals),
    (SELECT COUNT(*) FROM deliveries), (SELECT COUNT(*) FROM payloads),
    (SELECT MIN(created_at) FROM runs WHERE pruned_at IS NULL)
"""
# includes runs that are marked but not fully deleted, so that their deletion continues: their executions go last
_PRUNABLE_RUNS = f"""
SELECT runs.id, runs.seq, (SELECT COUNT(*) FROM executions WHERE run_id = runs.id) FROM runs
WHERE runs.id > :after AND runs.id <= :until AND (({retention.PRUNABLE})
    OR (runs.pruned_at IS NOT NULL AND EXISTS (SELECT 1 FROM executions WHERE run_id = runs.id)))
ORDER BY runs.id
"""  # noqa: S608 - constants only


class MaintenanceMethods(SqliteDatabase):
    """Sizes, retention and compaction."""

    async def stats(self) -> StoreStats:
        """Return the size of the store and the number of its rows, see `Store.stats`."""
        (counts,) = await self._read(_COUNTS)
        ((pages,),) = await self._read("PRAGMA page_count")
        ((free,),) = await self._read("PRAGMA freelist_count")
        ((size,),) = await self._read("PRAGMA page_size")
        log = self._path.with_name(self._path.name + "-wal")
        runs, pruned, executions, still, sessions, events, approvals, deliveries, payloads, oldest = counts
        return StoreStats(
            bytes=pages * size,
            free_bytes=free * size,
            log_bytes=log.stat().st_size if log.exists() else 0,
            runs=runs,
            pruned_runs=pruned,
            executions=executions,
            open_executions=still,
            sessions=sessions,
            events=events,
            approvals=approvals,
            deliveries=deliveries,
            payloads=payloads,
            oldest_run_at=oldest,
        )

    async def ended_runs(self, *, before: float, after: str = "") -> EndedRuns:
        """Return runs that may be pruned, see `Store.ended_runs`."""
        window = await self._read("SELECT id FROM runs WHERE id > ? ORDER BY id LIMIT ?", after, _SCANNED)
        if not window:
            return EndedRuns(runs=(), next=None)
        until = window[-1][0]
        found = await self._read(
            _PRUNABLE_RUNS, {"after": after, "until": until, "before": self._clamp_to_retention(before)}
        )
        runs = tuple(EndedRun(run_id=run_id, events=seq, executions=count) for run_id, seq, count in found)
        return EndedRuns(runs=runs, next=until if len(window) == _SCANNED else None)

    async def prune_run(self, run_id: str, *, before: float, rows: int = 500) -> int | None:
        """Delete a part of a run, see `Store.prune_run`."""
        before = self._clamp_to_retention(before)
        if await self.pruned_run(run_id) is None:
            leaves = [
                leaf for (leaf,) in await self._read("SELECT leaf FROM events WHERE run_id = ? ORDER BY seq", run_id)
            ]
            root = await asyncio.to_thread(retention.root_of, leaves)
            run = PrunedRun(run_id=run_id, events=len(leaves), last_leaf=leaves[-1] if leaves else b"", root=root)
            if not await self._write(MarkPruned(run, before=before)):
                return None
        return await self._write(DeleteRows(run_id, rows=rows))

    async def pruned_run(self, run_id: str) -> PrunedRun | None:
        """Return the record of a pruned run, see `Store.pruned_run`."""
        rows = await self._read(
            "SELECT id, seq, last_leaf, root, pruned_at FROM runs WHERE id = ? AND pruned_at IS NOT NULL", run_id
        )
        if not rows:
            return None
        _, seq, leaf, root, at = rows[0]
        return PrunedRun(run_id=run_id, events=seq, last_leaf=leaf, root=root, pruned_at=at)

    async def compact(self, *, pages: int = 1000) -> int:
        """Return free pages to the disk, see `Store.compact`."""
        await self._write(Vacuum(pages))
        await asyncio.to_thread(self._checkpoint)
        ((mode,),) = await self._read("PRAGMA auto_vacuum")
        ((left,),) = await self._read("PRAGMA freelist_count")
        return left if mode == _INCREMENTAL else 0

    def _checkpoint(self) -> None:
        """Copy the write-ahead log into the database and truncate it; skipped while the writer is busy."""
        connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
        connection.set_busy_timeout(_CHECKPOINT_TIMEOUT_MS)
        try:
            # a connection opens the write-ahead log with its first read; without one the checkpoint does nothing
            connection.pragma("schema_version")
            # the first blocks nobody and leaves little for the second, which truncates the file
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            return
        except apsw.Error as error:
            raise Unavailable(
                f"The log of the store could not be moved into it: {error}.",
                code="store_failed",
                hint="free some space on the disk that AGENTFIELD_HOME is on",
            ) from error
        finally:
            connection.close()

    def _clamp_to_retention(self, before: float) -> float:
        """Return `before`, at most a day ago: an idempotency key is valid for a day, and its execution must exist."""
        return min(before, self._clock() - KEY_LIFE)
