"""What one session writes to the store: in order, in the transaction of the change, and only while it is still ours."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from agentfield_server.sessions.effects import CloseTurn, OpenTurn, Record, SetState
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import NewEvent, NewExecution, SessionRow

__all__ = ["FAILED", "Fenced", "Ledger"]

_log = logging.getLogger("agentfield.sessions")

FAILED = frozenset(
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
"""Reasons of an end that leave the session's execution failed."""


class Fenced(Exception):
    """The session belongs to another control plane now; nothing more may be done for it here."""


class Ledger:
    """The store's side of a session.

    Args:
        store: Where to write.
        row: The session as this process owns it; its epoch fences every write.
    """

    def __init__(self, store: Store, row: SessionRow) -> None:
        self._store = store
        self.row = row
        self._noted: list[NewEvent] = []

    def note(self, record: Record) -> None:
        """Keep an event for the next commit."""
        turn_id = record.body.get("turn_id")
        execution_id = record.execution_id or (turn_id if isinstance(turn_id, str) else None)
        self._noted.append(NewEvent(type=record.type, body=record.body, execution_id=execution_id))

    async def flush(self) -> None:
        """Commit what was noted.

        Raises:
            Fenced: The session is not ours any more.
        """
        if not self._noted:
            return
        events, self._noted = self._noted, []
        row = self.row
        rows = await self._store.append_events(row.run_id, events, session_id=row.id, epoch=row.epoch)
        if not rows:
            raise Fenced

    async def state(self, effect: SetState, call_ref: Mapping[str, str] | None) -> None:
        """Store the state, and how to find the call at the provider.

        Raises:
            Fenced: The session is not ours any more.
        """
        body: dict[str, Any] = {"state": effect.state}
        if effect.reason is not None:
            body["reason"] = effect.reason
        if effect.detail is not None:
            body["detail"] = effect.detail
        events, self._noted = [*self._noted, NewEvent(type="session.state", body=body)], []
        await self._update(
            state=effect.state,
            end_reason=effect.reason,
            end_detail=effect.detail,
            call_ref=call_ref,
            events=events,
        )

    async def handler_epoch(self, epoch: int) -> None:
        """Store which run of the handler is current."""
        events, self._noted = self._noted, []
        await self._update(handler_epoch=epoch, events=events)

    async def handler_state(self, value: Mapping[str, Any]) -> None:
        """Store what the handler wants kept."""
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
        # together, so that they may share a commit
        await asyncio.gather(self._store.create_execution(turn), self._update(turns=effect.number))

    async def close_turn(self, effect: CloseTurn) -> None:
        """Close the execution of a turn."""
        await self.flush()
        await self._store.complete_execution(
            effect.turn_id, attempt=None, status=effect.status, output=effect.output, problem=effect.problem
        )

    async def close_root(self, reason: str, detail: str | None) -> None:
        """Close the execution of the session itself."""
        await self.flush()
        failed = reason in FAILED
        problem = {"code": reason, "status": 500, "title": reason.replace("_", " "), "detail": detail or reason}
        await self._store.complete_execution(
            self.row.root_id,
            attempt=None,
            status="failed" if failed else "succeeded",
            output=None if failed else {"reason": reason, "detail": detail},
            problem=problem if failed else None,
        )

    async def _update(self, **changes: Any) -> None:
        row = await self._store.update_session(self.row.id, epoch=self.row.epoch, **changes)
        if row is None:
            _log.warning("session %s is driven by another control plane now", self.row.id)
            raise Fenced
        self.row = row
