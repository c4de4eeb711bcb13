"""Owners of sessions, executions and runs: keys with the scopes `starter` and `caller` reach only what they started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from agentfield.errors import NotFound
from agentfield_server.access.principals import Principal
from agentfield_server.store.access import AccessStore
from agentfield_server.store.protocol import Store

__all__ = ["OwnedStore", "require_owned"]


class OwnedStore(Store, AccessStore, Protocol):
    """The store as this module uses it."""


async def require_owned(store: OwnedStore, path: Mapping[str, str], principal: Principal) -> None:
    """Reject a path that names a session, execution or run of another principal, as if it did not exist.

    Args:
        store: The store.
        path: The placeholders of the route with their values.
        principal: Who asks.

    Raises:
        NotFound: What the path names does not exist, or another principal started it.
    """
    if (session_id := path.get("session_id")) is not None:
        session = await store.get_session(session_id)
        if session is None or session.principal != principal.id:
            raise NotFound(f"There is no session {session_id!r}.", code="unknown_session", hint="af session list")
    if (execution_id := path.get("execution_id")) is not None:
        chain = await store.chain_of(execution_id)
        if chain is None or chain.principal != principal.id:
            raise NotFound(
                f"There is no execution {execution_id!r}.",
                code="unknown_execution",
                hint="an id begins with exe_; af session workflows SESSION shows them",
            )
    if (run_id := path.get("run_id")) is not None and await store.owner_of_run(run_id) != principal.id:
        raise NotFound(
            f"There is no run {run_id!r}.",
            code="unknown_run",
            hint="the run id is in the answer of the call that began it",
        )
