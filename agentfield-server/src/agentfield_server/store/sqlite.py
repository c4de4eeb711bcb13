"""The embedded store: SQLite in WAL mode, synchronous=FULL, one writer thread, group commit without lingering."""

from __future__ import annotations

from agentfield_server.store.sqlite_executions import ExecutionTable
from agentfield_server.store.sqlite_outside import OutsideTable
from agentfield_server.store.sqlite_sessions import SessionTable
from agentfield_server.store.sqlite_upkeep import UpkeepTable

__all__ = ["SqliteStore"]


class SqliteStore(ExecutionTable, SessionTable, OutsideTable, UpkeepTable):
    """The `Store` in one file, for one process: its tables, put together. Arguments as of `Connected`."""
