"""Writes of sessions, events, tokens and idempotency keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentfield.wire.rest import SessionState
from agentfield_server.store.operations.planning import Operation, Touched
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

__all__ = [
    "AppendEvents",
    "CreateSession",
    "DropTokens",
    "EraseBodies",
    "FindSessionForKey",
    "PutToken",
    "ReleaseKey",
    "SaveResponse",
    "TakeSession",
    "UpdateSession",
    "UseToken",
]


class CreateSession(Operation[tuple[SessionRow, bool]], frozen=True):
    """See `Store.create_session`."""

    session: NewSession
    root: NewExecution
    owner: str
    events: Sequence[NewEvent]


class UpdateSession(Operation[SessionRow | None], frozen=True, kw_only=True):
    """See `Store.update_session`."""

    session_id: str
    epoch: int
    state: SessionState | None
    end_reason: str | None
    end_detail: str | None
    call_ref: Mapping[str, str] | None
    handler_state: Mapping[str, Any] | None
    handler_epoch: int | None
    turns: int | None
    events: Sequence[NewEvent]

    def touches(self) -> Touched:
        """Return its session."""
        return Touched((), (self.session_id,))


class TakeSession(Operation[SessionRow | None], frozen=True):
    """See `Store.take_session`."""

    session_id: str
    owner: str


class AppendEvents(Operation[list[EventRow]], frozen=True):
    """See `Store.append_events`."""

    run_id: str
    events: Sequence[NewEvent]
    session_id: str | None
    epoch: int | None

    def touches(self) -> Touched:
        """Return its session, which it reads."""
        return Touched(() if self.session_id is None else (self.session_id,), ())


class EraseBodies(Operation[int | None], frozen=True):
    """See `Store.erase_bodies`."""

    run_id: str
    seqs: Sequence[int]


class FindSessionForKey(Operation[str | None], frozen=True):
    """See `Store.session_for_key`; it deletes an expired key."""

    key: IdempotencyKey


class SaveResponse(Operation[Mapping[str, Any] | None], frozen=True):
    """See `Store.save_response`."""

    key: IdempotencyKey
    response: Mapping[str, Any] | None


class ReleaseKey(Operation[None], frozen=True):
    """See `Store.release_key`."""

    key: IdempotencyKey


class PutToken(Operation[None], frozen=True):
    """See `Store.put_token`."""

    digest: bytes
    session_id: str
    kind: str
    expires_at: float
    rights: TokenRights = "caller"
    details: bool = False


class UseToken(Operation[TokenRow | None], frozen=True):
    """See `Store.use_token`."""

    digest: bytes
    kind: str
    now: float
    once: bool


class DropTokens(Operation[None], frozen=True):
    """See `Store.drop_tokens`."""

    session_id: str
