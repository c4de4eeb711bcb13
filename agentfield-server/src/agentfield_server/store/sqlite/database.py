"""Connections of the SQLite store: one writer thread and a few readers, opened under a file lock and migrated."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import apsw

from agentfield.errors import Unavailable
from agentfield.settings import private_folder
from agentfield_server.store.operations import Operation, PurgeKeys, Then
from agentfield_server.store.records import EventRow
from agentfield_server.store.sqlite.lock import StoreLock
from agentfield_server.store.sqlite.operations.groups import execute
from agentfield_server.store.sqlite.schema import migrate
from agentfield_server.store.sqlite.writer import BATCH, Writer

__all__ = ["SqliteDatabase"]

T = TypeVar("T")

_READERS = 2
_INCREMENTAL = 2

_log = logging.getLogger("agentfield.store")


class SqliteDatabase:
    """A database file, opened by one process.

    Args:
        path: The database file; created with mode 0600.
        on_commit: Called on the event loop after each commit with the recorded events, before the writes return.
        clock: Seconds since the epoch.
        batch: Maximum number of operations in one commit; 1 disables group commit, for measurements.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        on_commit: Callable[[list[EventRow]], None],
        clock: Callable[[], float],
        batch: int = BATCH,
    ) -> None:
        self._batch = batch
        self._path = Path(path)
        self._on_commit = on_commit
        self._clock = clock
        self._lock = StoreLock(self._path)
        self._writer: Writer | None = None
        self._connections: list[apsw.Connection] = []
        self._readers: queue.SimpleQueue[apsw.Connection] = queue.SimpleQueue()
        self._pool: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        """Open, lock and migrate, see `Store.open`."""
        try:
            connection = await asyncio.to_thread(self._prepare)
        except BaseException:
            self._release()
            raise
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="agentfield-read")
        self._writer = Writer(connection, execute, clock=self._clock, on_commit=self._on_commit, batch=self._batch)
        self._writer.start()
        await self._write(PurgeKeys())

    def _prepare(self) -> apsw.Connection:
        try:
            private_folder(self._path.parent)
            self._lock.acquire()
            # SQLite creates its other files with the mode of the database
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._path.chmod(0o600)
            writer = self._connect(apsw.SQLITE_OPEN_READWRITE)
            migrate(writer)
            _allow_compaction(writer)
            for _ in range(_READERS):
                self._readers.put(self._connect(apsw.SQLITE_OPEN_READONLY))
        except (OSError, apsw.Error) as error:
            raise Unavailable(
                f"The store {self._path} cannot be opened: {error}.",
                code="store_unusable",
                hint="check the file, or set AGENTFIELD_HOME to a folder that you may write to",
            ) from error
        return writer

    def _connect(self, flags: int) -> apsw.Connection:
        connection = apsw.Connection(str(self._path), flags=flags, statementcachesize=200)
        self._connections.append(connection)
        connection.set_busy_timeout(5000)
        if flags & apsw.SQLITE_OPEN_READWRITE:
            # takes effect on a new file only
            connection.pragma("auto_vacuum", _INCREMENTAL)
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "full")
            connection.pragma("foreign_keys", 1)
            # an erased body leaves no copy in free space of the file
            connection.pragma("secure_delete", 1)
        return connection

    async def close(self) -> None:
        """Finish submitted writes and close; idempotent."""
        if self._writer is not None:
            await self._writer.close()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await asyncio.to_thread(pool.shutdown)
        await asyncio.to_thread(self._release)

    def _release(self) -> None:
        while self._connections:
            self._connections.pop().close()
        self._lock.release()

    def post(self, operation: Operation[T], then: Then[T]) -> None:
        """Submit a write without waiting for it, see `Store.post`."""
        if self._writer is None:
            raise Unavailable("The store is not open.", code="store_closed")
        self._writer.post(operation, then)

    async def _write(self, operation: Operation[T]) -> T:
        if self._writer is None:
            raise Unavailable("The store is not open.", code="store_closed")
        return await self._writer.submit(operation)

    async def _read(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        if self._pool is None:
            raise Unavailable("The store is closed.", code="store_closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._select, sql, values)

    def _select(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        connection = self._readers.get()
        try:
            return connection.execute(sql, values[0] if values and isinstance(values[0], dict) else values).fetchall()
        finally:
            self._readers.put(connection)


def _allow_compaction(connection: apsw.Connection) -> None:
    """Rewrite a file of an earlier version once: incremental vacuum needs a file that was written with it enabled."""
    if connection.pragma("auto_vacuum") == _INCREMENTAL:
        return
    try:
        connection.pragma("auto_vacuum", _INCREMENTAL)
        connection.execute("VACUUM")
    except apsw.FullError:
        _log.warning(
            "the disk has no space to rewrite %s; af store compact cannot make it smaller", connection.filename
        )
