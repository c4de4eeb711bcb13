"""`SqliteStore`: the embedded store, put together from its tables."""

from __future__ import annotations

from agentfield_server.store.sqlite.tables.executions import ExecutionTable
from agentfield_server.store.sqlite.tables.external import ExternalTable
from agentfield_server.store.sqlite.tables.maintenance import MaintenanceTable
from agentfield_server.store.sqlite.tables.sessions import SessionTable

__all__ = ["SqliteStore"]


class SqliteStore(ExecutionTable, SessionTable, ExternalTable, MaintenanceTable):
    """The `Store` protocol in one SQLite file, for one process. Arguments as of `SqliteDatabase`."""
