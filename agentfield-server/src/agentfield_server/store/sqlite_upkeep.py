"""The upkeep of the SQLite store: how large it is, runs that are taken away, room that is given back to the disk."""

from __future__ import annotations

import asyncio

import apsw

from agentfield.errors import Unavailable
from agentfield_server.store import retention
from agentfield_server.store.connected import Connected
from agentfield_server.store.keys import KEY_LIFE
from agentfield_server.store.records import EndedRun, EndedRuns, PrunedRun, StoreStats

__all__ = ["UpkeepTable"]

_INCREMENTAL = 2
_SCANNED = 500
_PATIENCE = 200
"""Milliseconds that a checkpoint waits for the writer and the readers; for some of it they wait for the checkpoint."""
_COUNTS = """
SELECT (SELECT COUNT(*) FROM runs WHERE pruned_at IS NULL), (SELECT COUNT(*) FROM runs WHERE pruned_at IS NOT NULL),
    (SELECT COUNT(*) FROM executions),
    (SELECT COUNT(*) FROM executions WHERE status IN ('queued', 'running', 'waiting')),
    (SELECT COUNT(*) FROM sessions), (SELECT COUNT(*) FROM events), (SELECT COUNT(*) FROM approvals),
    (SELECT COUNT(*) FROM deliveries), (SELECT COUNT(*) FROM payloads),
    (SELECT MIN(created_at) FROM runs WHERE pruned_at IS NULL)
"""
# a run that was marked and not taken away to its end is among them: it is gone on with. It has executions until then
_ENDED = f"""
SELECT runs.id, runs.seq, (SELECT COUNT(*) FROM executions WHERE run_id = runs.id) FROM runs
WHERE runs.id > :after AND runs.id <= :until AND (({retention.PRUNABLE})
    OR (runs.pruned_at IS NOT NULL AND EXISTS (SELECT 1 FROM executions WHERE run_id = runs.id)))
ORDER BY runs.id
"""  # noqa: S608 - constants only


class UpkeepTable(Connected):
    """Sizes, retention and compaction."""

    async def stats(self) -> StoreStats:
        """Return how large the store is and what is in it, see `Store.stats`."""
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
        found = await self._read(_ENDED, {"after": after, "until": until, "before": self._not_too_late(before)})
        runs = tuple(EndedRun(run_id=run_id, events=seq, executions=count) for run_id, seq, count in found)
        return EndedRuns(runs=runs, next=until if len(window) == _SCANNED else None)

    async def prune_run(self, run_id: str, *, before: float, rows: int = 500) -> int | None:
        """Take away a part of a run, see `Store.prune_run`."""
        before = self._not_too_late(before)
        if await self.pruned_run(run_id) is None:
            leaves = [
                leaf for (leaf,) in await self._read("SELECT leaf FROM events WHERE run_id = ? ORDER BY seq", run_id)
            ]
            root = await asyncio.to_thread(retention.root_of, leaves)
            run = PrunedRun(run_id=run_id, events=len(leaves), last_leaf=leaves[-1] if leaves else b"", root=root)
            if not await self._write(lambda tx: retention.mark(tx, run, before=before)):
                return None
        return await self._write(lambda tx: retention.take_away(tx, run_id, rows=rows))

    async def pruned_run(self, run_id: str) -> PrunedRun | None:
        """Return what is known of a run that was pruned, see `Store.pruned_run`."""
        rows = await self._read(
            "SELECT id, seq, last_leaf, root, pruned_at FROM runs WHERE id = ? AND pruned_at IS NOT NULL", run_id
        )
        if not rows:
            return None
        _, seq, leaf, root, at = rows[0]
        return PrunedRun(run_id=run_id, events=seq, last_leaf=leaf, root=root, pruned_at=at)

    async def compact(self, *, pages: int = 1000) -> int:
        """Give room back to the disk, see `Store.compact`."""
        # each step of this statement gives back one page: it is read to its end
        await self._write(lambda tx: tx.one(f"PRAGMA incremental_vacuum({int(pages)})"))
        await asyncio.to_thread(self._checkpoint)
        ((mode,),) = await self._read("PRAGMA auto_vacuum")
        ((left,),) = await self._read("PRAGMA freelist_count")
        return left if mode == _INCREMENTAL else 0

    def _checkpoint(self) -> None:
        """Move the log into the database; what the writer is busy with is left for the next time."""
        connection = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE)
        connection.set_busy_timeout(_PATIENCE)
        try:
            # a connection that has read nothing does not know that there is a log
            connection.pragma("schema_version")
            # the first holds nobody up and leaves next to nothing for the second, which empties the file
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

    def _not_too_late(self, before: float) -> float:
        """Idempotency keys answer for a day: so long, what they answer with stays."""
        return min(before, self._clock() - KEY_LIFE)
