"""Sessions: every change is conditional on the epoch of the owner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentfield_server.store.json_text import dump
from agentfield_server.store.operations import CreateExecution, CreateSession, TakeSession, UpdateSession
from agentfield_server.store.records import SessionRow
from agentfield_server.store.sqlite.operations import creations, keys
from agentfield_server.store.sqlite.operations.events import LOG_FORMAT, Change, record
from agentfield_server.store.sqlite.rows import SESSION_COLUMNS, session_row
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["create", "find", "take", "update"]

# All SQL below is built from constants; values are always bound.
_SELECT = f"SELECT {SESSION_COLUMNS} FROM sessions WHERE id = ?"  # noqa: S608
_INSERT = f"""
INSERT INTO sessions (id, run_id, root_id, target, node_id, caller, metadata, config, declaration_hash, principal, state,
    owner, epoch, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'created', ?, 1, ?) RETURNING {SESSION_COLUMNS}
"""  # noqa: S608
_UPDATE = f"""
UPDATE sessions SET
    state = CASE WHEN state = 'ended' THEN state ELSE COALESCE(:state, state) END,
    end_reason = COALESCE(end_reason, :end_reason),
    end_detail = COALESCE(end_detail, :end_detail),
    call_ref = COALESCE(:call_ref, call_ref),
    handler_state = COALESCE(:handler_state, handler_state),
    handler_epoch = COALESCE(:handler_epoch, handler_epoch),
    turns = COALESCE(:turns, turns),
    live_at = CASE WHEN :state = 'live' THEN COALESCE(live_at, :now) ELSE live_at END,
    ended_at = CASE WHEN :state = 'ended' THEN COALESCE(ended_at, :now) ELSE ended_at END
WHERE id = :id AND epoch = :epoch RETURNING {SESSION_COLUMNS}
"""  # noqa: S608
_TAKE = (
    "UPDATE sessions SET owner = ?, epoch = epoch + 1 WHERE id = ? AND state <> 'ended' "  # noqa: S608
    f"RETURNING {SESSION_COLUMNS}"
)


def find(transaction: Transaction, session_id: str) -> SessionRow | None:
    """Return a session as this transaction sees it."""
    row = transaction.one(_SELECT, session_id)
    return None if row is None else session_row(row)


def create(transaction: Transaction, operation: CreateSession) -> tuple[SessionRow, bool]:
    """Create a session, see `Store.create_session`."""
    new, root = operation.session, operation.root
    if new.idempotency is not None:
        earlier = keys.claim(transaction, new.idempotency, session_id=new.id)
        if earlier is not None and (known := find(transaction, earlier)) is not None:
            return known, False
    transaction.run(
        "INSERT INTO runs (id, session_id, created_at, format, principal) VALUES (?, ?, ?, ?, ?)",
        new.run_id,
        new.id,
        transaction.now,
        LOG_FORMAT,
        new.principal,
    )
    record(transaction, new.run_id, operation.events)
    creations.settle(transaction, creations.create(transaction, [CreateExecution(root)]))
    row = transaction.one(
        _INSERT,
        new.id,
        new.run_id,
        root.id,
        new.target,
        new.node_id,
        new.caller,
        dump(new.metadata),
        dump(new.config),
        new.declaration_hash,
        new.principal,
        operation.owner,
        transaction.now,
    )
    assert row is not None  # noqa: S101 - an INSERT that did not raise returns its row
    return session_row(row), True


def update(transaction: Transaction, operations: Sequence[UpdateSession]) -> list[Change]:
    """Change sessions, see `Store.update_session`."""
    rows = transaction.many(_UPDATE, [_values(transaction, operation) for operation in operations])
    changed = {row.id: row for row in map(session_row, rows)}
    changes = []
    for operation in operations:
        row = changed.get(operation.session_id)
        changes.append(Change(None) if row is None else Change(row, row.run_id, operation.events))
    return changes


def _values(transaction: Transaction, operation: UpdateSession) -> dict[str, Any]:
    call_ref, handler_state = operation.call_ref, operation.handler_state
    return {
        "id": operation.session_id,
        "epoch": operation.epoch,
        "state": operation.state,
        "end_reason": operation.end_reason,
        # the first reason and its detail are kept together
        "end_detail": operation.end_detail,
        "call_ref": None if call_ref is None else dump(dict(call_ref)),
        "handler_state": None if handler_state is None else dump(dict(handler_state)),
        "handler_epoch": operation.handler_epoch,
        "turns": operation.turns,
        "now": transaction.now,
    }


def take(transaction: Transaction, operation: TakeSession) -> SessionRow | None:
    """Take over a session, see `Store.take_session`."""
    row = transaction.one(_TAKE, operation.owner, operation.session_id)
    return None if row is None else session_row(row)
