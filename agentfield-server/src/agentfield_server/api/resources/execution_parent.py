"""Parent of an execution from a request: headers that name a run, parent or session are checked against the store."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from agentfield.errors import InvalidInput
from agentfield.ids import new_id
from agentfield.wire.headers import ACTOR_ID, PARENT_EXECUTION_ID, RUN_ID, SESSION_ID, WORKFLOW_ID
from agentfield_server.access.ownership import OwnedStore
from agentfield_server.access.principals import PRINCIPAL
from agentfield_server.store.records import Execution

__all__ = ["ExecutionParent", "resolve_parent"]

_MAX_ACTOR = 256
_NO_RUN = "There is no such run."
_NO_SESSION = "There is no such session."
_NO_EXECUTION = "There is no such execution."


@dataclass(frozen=True, slots=True)
class ExecutionParent:
    """The run, parent, session and actor of a new execution."""

    run_id: str
    parent_id: str | None = None
    session_id: str | None = None
    actor_id: str | None = None


async def resolve_parent(request: web.Request, store: OwnedStore) -> ExecutionParent:
    """Return the parent that the request's headers name; a new run if they name none.

    Only the principal that began a run may add to it from outside; a node adds to it over its link.

    Raises:
        InvalidInput: A header names something unknown, or the headers contradict each other (code `foreign_parent`).
    """
    given = request.headers
    actor = _actor(given.get(ACTOR_ID))
    run_id = _run_id(given.get(RUN_ID), given.get(WORKFLOW_ID))
    parent = await _parent(given.get(PARENT_EXECUTION_ID), given.get(SESSION_ID), store)
    if parent is None:
        if run_id is None:
            return ExecutionParent(new_id("run"), actor_id=actor)
        rows = await store.list_executions(run_id, limit=1)
        if not rows or not await _began(request, run_id, store):
            raise _foreign_parent(RUN_ID, _NO_RUN)
        return ExecutionParent(run_id, session_id=rows[0].session_id, actor_id=actor)
    if not await _began(request, parent.run_id, store):
        given_by = PARENT_EXECUTION_ID if PARENT_EXECUTION_ID in given else SESSION_ID
        raise _foreign_parent(given_by, _NO_EXECUTION if given_by == PARENT_EXECUTION_ID else _NO_SESSION)
    _require_equal(RUN_ID, run_id, parent.run_id)
    _require_equal(SESSION_ID, given.get(SESSION_ID), parent.session_id)
    if parent.actor_id is not None:
        _require_equal(ACTOR_ID, actor, parent.actor_id)
    return ExecutionParent(parent.run_id, parent.id, parent.session_id, parent.actor_id or actor)


async def _began(request: web.Request, run_id: str, store: OwnedStore) -> bool:
    return await store.owner_of_run(run_id) == request[PRINCIPAL].id


async def _parent(parent_id: str | None, session_id: str | None, store: OwnedStore) -> Execution | None:
    """Return the named parent execution; without one, the root execution of the named session."""
    if parent_id is None:
        if session_id is None:
            return None
        session = await store.get_session(session_id)
        if session is None:
            raise _foreign_parent(SESSION_ID, _NO_SESSION)
        parent_id = session.root_id
    parent = await store.get_execution(parent_id)
    if parent is None:
        raise _foreign_parent(PARENT_EXECUTION_ID, _NO_EXECUTION)
    return parent


def _run_id(run_id: str | None, workflow_id: str | None) -> str | None:
    if run_id is not None:
        _require_equal(WORKFLOW_ID, workflow_id, run_id)
    return run_id or workflow_id


def _require_equal(header: str, given: str | None, true: str | None) -> None:
    if given is not None and given != true:
        raise _foreign_parent(header, "It does not belong to what the other headers name.")


def _actor(value: str | None) -> str | None:
    if value is not None and not (1 <= len(value) <= _MAX_ACTOR and value.isprintable()):
        raise InvalidInput(f"{ACTOR_ID} is 1 to {_MAX_ACTOR} printable characters.", field=ACTOR_ID)
    return value


def _foreign_parent(header: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"The header {header} cannot be used. {why}", code="foreign_parent", field=header, hint="leave it out"
    )
