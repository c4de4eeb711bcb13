"""Store writes of one session: in order, events in the transaction of their change, fenced by the ownership epoch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from agentfield.values import MAX_DEPTH, nearest
from agentfield_server.sessions.conversation.effects import CloseTurn, OpenTurn, RecordEvent, SetState
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import NewEvent, NewExecution, SessionRow

__all__ = ["FAILED_END_REASONS", "LostOwnership", "SessionWriter"]

_log = logging.getLogger("agentfield.sessions")

FAILED_END_REASONS = frozenset(
    {
        "handler_failed",
        "ice_failed",
        "mismatch",
        "node_lost",
        "provider_error",
        "control_plane_restart",
        "never_connected",
    }
)
"""End reasons with which the session's root execution is closed as failed."""


class LostOwnership(Exception):
    """Another control plane owns the session now: this process must not act for it any more."""


class SessionWriter:
    """Writes the events, the state and the executions of one session.

    Events are collected by `add_event` and committed by the next write, so that an event and the change it describes
    share a transaction. Every write carries the epoch of the row; the store rejects it once another control plane has
    taken the session.

    Args:
        store: The store.
        row: The session row as this process owns it.
    """

    def __init__(self, store: Store, row: SessionRow) -> None:
        self._store = store
        self.row = row
        self._events: list[NewEvent] = []

    def add_event(self, record: RecordEvent) -> None:
        """Add an event to the next commit."""
        # what enters the session was checked at its border; an event must not end the session in any case
        body = nearest(dict(record.body), levels=MAX_DEPTH + 4)
        if record.type.startswith("turn."):  # observers of turns need to know whose they are
            body = {**body, "target": self.row.target, "caller": self.row.caller}
        turn_id = body.get("turn_id")
        execution_id = record.execution_id or (turn_id if isinstance(turn_id, str) else None)
        self._events.append(NewEvent(type=record.type, body=body, execution_id=execution_id))

    async def flush(self) -> None:
        """Commit the collected events.

        Raises:
            LostOwnership: Another control plane owns the session.
        """
        if not self._events:
            return
        events, self._events = self._events, []
        row = self.row
        rows = await self._store.append_events(row.run_id, events, session_id=row.id, epoch=row.epoch)
        if not rows:
            raise LostOwnership

    async def write_state(self, effect: SetState, call_ref: Mapping[str, str] | None) -> None:
        """Store the state and the reference to the call at the provider.

        Raises:
            LostOwnership: Another control plane owns the session.
        """
        body: dict[str, Any] = {"state": effect.state}
        if effect.reason is not None:
            body["reason"] = effect.reason
        if effect.detail is not None:
            body["detail"] = effect.detail
        events, self._events = [*self._events, NewEvent(type="session.state", body=body)], []
        await self._update(
            state=effect.state,
            end_reason=effect.reason,
            end_detail=effect.detail,
            call_ref=call_ref,
            events=events,
        )

    async def write_call_ref(self, call_ref: Mapping[str, str] | None) -> None:
        """Store the reference to the call at the provider; no event tells of it, because it may hold a secret."""
        await self._update(call_ref=call_ref)

    async def write_handler_epoch(self, epoch: int) -> None:
        """Store the epoch of the current handler run."""
        events, self._events = self._events, []
        await self._update(handler_epoch=epoch, events=events)

    async def write_handler_state(self, value: Mapping[str, Any]) -> None:
        """Store the handler's own state."""
        await self._update(handler_state=value)

    async def open_turn(self, effect: OpenTurn) -> None:
        """Create the execution of a turn."""
        await self.flush()
        known = {"item": effect.item, "number": effect.number, "text": effect.text, "text_missing": effect.text_missing}
        row = self.row
        turn = NewExecution(
            id=effect.turn_id,
            run_id=row.run_id,
            kind="turn",
            target=row.target,
            input=known,
            parent_id=row.root_id,
            session_id=row.id,
            actor_id=row.caller,
            status="running",
        )
        # concurrent, so that the store may group both into one commit
        await asyncio.gather(self._store.create_execution(turn), self._update(turns=effect.number))

    async def close_turn(self, effect: CloseTurn) -> None:
        """Close the execution of a turn."""
        await self.flush()
        await self._store.complete_execution(
            effect.turn_id, attempt=None, status=effect.status, output=effect.output, problem=effect.problem
        )

    async def close_turns(self, reason: str, detail: str) -> None:
        """Close the executions of all turns that the store has open; for a session whose machine failed."""
        problem = {"code": reason, "status": 500, "title": reason.replace("_", " "), "detail": detail}
        for execution in await self._store.open_executions(session_id=self.row.id):
            if execution.kind == "turn":
                await self._store.complete_execution(execution.id, attempt=None, status="cancelled", problem=problem)

    async def close_root(self, reason: str, detail: str | None) -> None:
        """Close the root execution of the session, as failed if the end is a failure or if no turn succeeded."""
        await self.flush()
        problem = _end_problem(reason, detail)
        if problem is None:
            problem = _turns_problem(self.row, await self._store.count_turns(self.row.run_id))
        await self._store.complete_execution(
            self.row.root_id,
            attempt=None,
            status="failed" if problem else "succeeded",
            output=None if problem else {"reason": reason, "detail": detail},
            problem=problem,
        )

    async def _update(self, **changes: Any) -> None:
        row = await self._store.update_session(self.row.id, epoch=self.row.epoch, **changes)
        if row is None:
            _log.warning("session %s is driven by another control plane now", self.row.id)
            raise LostOwnership
        self.row = row


def _end_problem(reason: str, detail: str | None) -> dict[str, Any] | None:
    if reason not in FAILED_END_REASONS:
        return None
    return {"code": reason, "status": 500, "title": reason.replace("_", " "), "detail": detail or reason}


def _turns_problem(row: SessionRow, counts: Mapping[str, int]) -> dict[str, Any] | None:
    """Return the problem of a session in which turns failed and none succeeded.

    Turns that were only cut off (the caller hung up, or said nothing) do not make a session a failed one.
    """
    if counts.get("succeeded") or not (counts.get("failed") or counts.get("timeout")):
        return None
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return {
        "code": "turns_failed",
        "status": 500,
        "title": "turns failed",
        "detail": f"no turn of the session succeeded: {states}",
        "hint": f"af session workflows {row.id}",
    }
