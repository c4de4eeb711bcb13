"""`SqliteStore`: the embedded store, put together from its tables."""

from __future__ import annotations

from agentfield_server.store.sqlite.methods.access import AccessMethods
from agentfield_server.store.sqlite.methods.executions import ExecutionMethods
from agentfield_server.store.sqlite.methods.external import ExternalMethods
from agentfield_server.store.sqlite.methods.identities import IdentityMethods
from agentfield_server.store.sqlite.methods.maintenance import MaintenanceMethods
from agentfield_server.store.sqlite.methods.proofs import ProofMethods
from agentfield_server.store.sqlite.methods.sessions import SessionMethods

__all__ = ["SqliteStore"]


class SqliteStore(
    ExecutionMethods, SessionMethods, ExternalMethods, IdentityMethods, MaintenanceMethods, AccessMethods, ProofMethods
):
    """The `Store` protocol in one SQLite file, for one process. Arguments as of `SqliteDatabase`."""
