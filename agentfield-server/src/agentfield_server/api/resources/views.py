"""REST views of the store's rows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from agentfield.realtime.config import SessionConfig
from agentfield.wire.rest import DagView, ExecutionView, HistoryView, SessionView
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow, Execution, SessionRow

__all__ = ["dag_page", "execution_json", "execution_view", "session_view"]

_encode = msgspec.json.Encoder().encode


def execution_view(
    row: Execution, *, node_id: str | None = None, brief: bool = False, history: Iterable[EventRow] = ()
) -> ExecutionView:
    """Return the view of an execution; a `brief` one omits its input."""
    events = tuple(HistoryView(type=event.type, at=event.at, body=_body(event)) for event in history)
    return ExecutionView(**_fields(row, node_id=node_id, brief=brief), history=events)


def execution_json(row: Execution) -> bytes:
    """Return the JSON of `execution_view`, written from the record: a call is answered with it, without the model."""
    return _encode(_fields(row) | {"history": ()})


def _fields(row: Execution, *, node_id: str | None = None, brief: bool = False) -> dict[str, Any]:
    left_out = row.left_out
    if brief and left_out:
        left_out = {name: size for name, size in left_out.items() if name == "output"}
    return {
        "id": row.id,
        "kind": row.kind,
        "target": row.target,
        "status": row.status,
        "run_id": row.run_id,
        "parent_id": row.parent_id,
        "session_id": row.session_id,
        "attempt": row.attempt,
        "max_attempts": row.max_attempts,
        "priority": row.priority,
        "not_before": row.not_before,
        "deadline": row.deadline,
        "progress": row.progress,
        "input": None if brief else row.input,
        "output": row.output,
        "problem": dict(row.problem) if row.problem else None,
        "left_out": dict(left_out) or None,
        "node_id": node_id or row.target.partition(".")[0],
        "instance_id": row.lease_owner,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
    }


async def dag_page(
    store: Store, run_id: str, *, after: str | None, limit: int, session_id: str | None = None
) -> DagView:
    """Return a page of the execution graph of a run; an empty one for an unknown run.

    Args:
        store: The store.
        run_id: The run.
        after: The last execution of the previous page.
        limit: Page size.
        session_id: The session of the run, if it is known.

    Raises:
        InvalidInput: `after` is not an execution of the run.
    """
    rows = await store.list_executions(run_id, after=after, limit=limit)
    history: dict[str | None, list[EventRow]] = {}
    # read for executions with several attempts or pauses only: the log of a run is long, and most have no history
    if eventful := [row.id for row in rows if row.attempt > (0 if row.status == "queued" else 1) or row.pauses]:
        for event in await store.history(run_id, eventful):
            history.setdefault(event.execution_id, []).append(event)
    return DagView(
        run_id=run_id,
        session_id=session_id or next((row.session_id for row in rows if row.session_id), None),
        executions=tuple(execution_view(row, history=history.get(row.id, ())) for row in rows),
        next=rows[-1].id if len(rows) == limit else None,
    )


def session_view(
    row: SessionRow,
    used: EventRow | None = None,
    created: EventRow | None = None,
    turns: dict[str, int] | None = None,
) -> SessionView:
    """Return the view of a session: everything except the reference to its call at the provider.

    Args:
        row: The session.
        used: Its `session.usage` event, if it was recorded and is to be shown.
        created: Its `session.created` event, if it is to be shown.
        turns: The number of its turns by state, if they were counted.
    """
    usage, creation = _body(used), _body(created)
    config = SessionConfig.model_validate(dict(row.config))
    return SessionView(
        id=row.id,
        run_id=row.run_id,
        target=row.target,
        provider=config.declaration.provider,
        transport=config.declaration.transport,
        model=config.model,
        voice=config.voice,
        floor=config.declaration.floor,
        state=row.state,
        end_reason=row.end_reason,
        end_detail=row.end_detail,
        caller=row.caller,
        metadata=dict(row.metadata),
        created_at=row.created_at,
        live_at=row.live_at,
        ended_at=row.ended_at,
        turns=row.turns,
        turns_by_state=turns,
        usage=usage.get("usage"),
        cost=usage.get("cost"),
        evidence=creation.get("evidence"),
        config=dict(row.config),
    )


def _body(event: EventRow | None) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(event.canonical)["body"] if event is not None else {}
    return body
