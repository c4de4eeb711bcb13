"""Sessions, event logs of runs and browser tokens: the methods of the `Store` protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentfield.wire.rest import SessionState
from agentfield_server.store.json_text import dump
from agentfield_server.store.operations import (
    AppendEvents,
    CreateSession,
    DropTokens,
    EraseBodies,
    FindSessionForKey,
    PutToken,
    TakeSession,
    UpdateSession,
    UseToken,
)
from agentfield_server.store.records import (
    EventRow,
    IdempotencyKey,
    NewEvent,
    NewExecution,
    NewSession,
    SessionRow,
    TokenRights,
    TokenRow,
)
from agentfield_server.store.sqlite.database import SqliteDatabase
from agentfield_server.store.sqlite.rows import EVENT_COLUMNS, KNOWN_RUN, SESSION_COLUMNS, event_row, session_row

__all__ = ["SessionMethods"]


class SessionMethods(SqliteDatabase):
    """Reads and writes of sessions, events and tokens."""

    async def create_session(
        self, session: NewSession, root: NewExecution, *, owner: str, events: Sequence[NewEvent] = ()
    ) -> tuple[SessionRow, bool]:
        """Create a session with its run and root, see `Store.create_session`."""
        return await self._write(CreateSession(session, root, owner=owner, events=events))

    async def update_session(
        self,
        session_id: str,
        *,
        epoch: int,
        state: SessionState | None = None,
        end_reason: str | None = None,
        end_detail: str | None = None,
        call_ref: Mapping[str, str] | None = None,
        handler_state: Mapping[str, Any] | None = None,
        handler_epoch: int | None = None,
        turns: int | None = None,
        events: Sequence[NewEvent] = (),
    ) -> SessionRow | None:
        """Change a session if the epoch owns it, see `Store.update_session`."""
        return await self._write(
            UpdateSession(
                session_id=session_id,
                epoch=epoch,
                state=state,
                end_reason=end_reason,
                end_detail=end_detail,
                call_ref=call_ref,
                handler_state=handler_state,
                handler_epoch=handler_epoch,
                turns=turns,
                events=events,
            )
        )

    async def take_session(self, session_id: str, *, owner: str) -> SessionRow | None:
        """Take over a session, see `Store.take_session`."""
        return await self._write(TakeSession(session_id, owner=owner))

    async def get_session(self, session_id: str) -> SessionRow | None:
        """Return a session."""
        rows = await self._read(f"SELECT {SESSION_COLUMNS} FROM sessions WHERE id = ?", session_id)  # noqa: S608
        return session_row(rows[0]) if rows else None

    async def session_for_key(self, key: IdempotencyKey) -> SessionRow | None:
        """Return the session of a key, see `Store.session_of`."""
        session_id = await self._write(FindSessionForKey(key))
        return None if session_id is None else await self.get_session(session_id)

    async def list_sessions(
        self,
        *,
        state: SessionState | None = None,
        principal: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[SessionRow]:
        """Return sessions, newest first, see `Store.list_sessions`."""
        rows = await self._read(
            f"SELECT {SESSION_COLUMNS} FROM sessions WHERE (?1 IS NULL OR state = ?1) "  # noqa: S608
            "AND (?4 IS NULL OR principal = ?4) AND (?2 IS NULL OR pos < (SELECT pos FROM sessions WHERE id = ?2)) ORDER BY pos DESC LIMIT ?3",
            state,
            before,
            limit,
            principal,
        )
        return [session_row(row) for row in rows]

    async def unfinished_sessions(self) -> list[SessionRow]:
        """Return all sessions that have not ended."""
        rows = await self._read(f"SELECT {SESSION_COLUMNS} FROM sessions WHERE state <> 'ended' ORDER BY pos")  # noqa: S608
        return [session_row(row) for row in rows]

    async def append_events(
        self, run_id: str, events: Sequence[NewEvent], *, session_id: str | None = None, epoch: int | None = None
    ) -> list[EventRow]:
        """Append to the log of a run, see `Store.append_events`."""
        return await self._write(AppendEvents(run_id, events, session_id=session_id, epoch=epoch))

    async def read_events(self, run_id: str, *, after: int = 0, limit: int = 500) -> list[EventRow]:
        """Return recorded events with a larger `seq`, in order."""
        rows = await self._read(
            f"SELECT {EVENT_COLUMNS} FROM events WHERE run_id = {KNOWN_RUN} AND seq > ? ORDER BY seq LIMIT ?",  # noqa: S608
            run_id,
            after,
            limit,
        )
        return [event_row(row) for row in rows]

    async def history(self, run_id: str, execution_ids: Sequence[str]) -> list[EventRow]:
        """Return the events between start and end of executions, see `Store.history`."""
        rows = await self._read(
            f"SELECT {EVENT_COLUMNS} FROM events WHERE run_id = {KNOWN_RUN} "  # noqa: S608
            "AND type IN ('execution.retrying', 'execution.returned', 'approval.requested', 'approval.decided') "
            "AND execution_id IN (SELECT value FROM json_each(?)) ORDER BY seq",
            run_id,
            dump(list(execution_ids)),
        )
        return [event_row(row) for row in rows]

    async def erase_bodies(self, run_id: str, seqs: Sequence[int]) -> int | None:
        """Erase bodies of events, see `Store.erase_bodies`."""
        return await self._write(EraseBodies(run_id, seqs))

    async def last_event(self, run_id: str, kind: str) -> EventRow | None:
        """Return the newest event of a type."""
        rows = await self._read(
            f"SELECT {EVENT_COLUMNS} FROM events WHERE run_id = {KNOWN_RUN} AND type = ? ORDER BY seq DESC LIMIT 1",  # noqa: S608
            run_id,
            kind,
        )
        return event_row(rows[0]) if rows else None

    async def put_token(
        self,
        digest: bytes,
        *,
        session_id: str,
        kind: str,
        expires_at: float,
        rights: TokenRights = "caller",
        details: bool = False,
    ) -> None:
        """Store a token by its digest."""
        await self._write(PutToken(digest, session_id, kind, expires_at, rights, details))

    async def use_token(self, digest: bytes, *, kind: str, now: float, once: bool = False) -> TokenRow | None:
        """Count a use of a token, see `Store.use_token`."""
        return await self._write(UseToken(digest, kind=kind, now=now, once=once))

    async def drop_tokens(self, session_id: str) -> None:
        """Delete all tokens of a session."""
        await self._write(DropTokens(session_id))
