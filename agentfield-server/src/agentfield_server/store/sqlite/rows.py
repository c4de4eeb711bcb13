"""Column lists of the tables, and the conversion of rows to records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentfield_server.store.json_text import load
from agentfield_server.store.records import (
    Approval,
    Delivery,
    EventRow,
    Execution,
    NodeDid,
    SessionRow,
    TokenRow,
    Webhook,
)

__all__ = [
    "APPROVAL_COLUMNS",
    "DELIVERY_COLUMNS",
    "EVENT_COLUMNS",
    "EXECUTION_COLUMNS",
    "EXECUTION_LISTED",
    "KNOWN_RUN",
    "NODE_DID_COLUMNS",
    "SESSION_COLUMNS",
    "TOKEN_COLUMNS",
    "WEBHOOK_COLUMNS",
    "approval_row",
    "delivery_row",
    "event_row",
    "execution_row",
    "node_did_row",
    "session_row",
    "token_row",
    "webhook_row",
]

_EXECUTION_FIELDS = (
    "id, run_id, kind, target, status, problem, parent_id, session_id, actor_id, attempt, max_attempts, priority, backoff, "
    "progress, lineage, pauses, lease_owner, lease_epoch, lease_until, accepted, not_before, deadline, input_digest, "
    "output_digest, signature, signer, statement, proof, input_salt, output_salt, created_at, started_at, ended_at"
)


def _with_payload(name: str) -> str:
    apart = f"SELECT body FROM payloads WHERE digest = {name}_payload"  # noqa: S608 - constants only
    return f"CASE WHEN {name}_payload IS NULL THEN {name} ELSE ({apart}) END, NULL"


EXECUTION_COLUMNS = f"{_EXECUTION_FIELDS}, {_with_payload('input')}, {_with_payload('output')}"
"""Columns of an execution with its input and output, also where they are in `payloads`."""
EXECUTION_LISTED = f"{_EXECUTION_FIELDS}, input, input_size, output, output_size".replace(
    "statement, proof", "NULL, NULL"
)
"""Columns of an execution in lists: of a payload that is stored separately, only the size; no statement and no proof."""
KNOWN_RUN = "(SELECT id FROM runs WHERE id = ? AND pruned_at IS NULL)"
"""Subquery of a run that is not pruned: while the rows of a run are being deleted, no reader sees a part of it."""
SESSION_COLUMNS = (
    "id, run_id, root_id, target, node_id, caller, metadata, config, declaration_hash, principal, state, end_reason, "
    "end_detail, call_ref, handler_state, owner, epoch, handler_epoch, turns, created_at, live_at, ended_at"
)
APPROVAL_COLUMNS = (
    "id, execution_id, key, run_id, session_id, target, title, details, status, principal, decided_by, via, note, data, "
    "created_at, expires_at, decided_at"
)
WEBHOOK_COLUMNS = "id, url, events, secret, created_at"
DELIVERY_COLUMNS = "id, webhook_id, run_id, seq, type, status, attempts, not_before, answer, created_at, ended_at"
TOKEN_COLUMNS = "digest, session_id, kind, expires_at, used, rights, details"  # noqa: S105 - columns
NODE_DID_COLUMNS = "node_id, did, state, admitted_by, admitted_at, linked_at, revoked_at"
EVENT_COLUMNS = "run_id, seq, id, type, at, execution_id, session_id, entry, leaf, body, salt"

_EXECUTION = [*_EXECUTION_FIELDS.split(", "), "input", "input_size", "output", "output_size"]
_SESSION = SESSION_COLUMNS.split(", ")
_TOKEN = TOKEN_COLUMNS.split(", ")
_NODE_DID = NODE_DID_COLUMNS.split(", ")
_EVENT = EVENT_COLUMNS.split(", ")
_WEBHOOK = WEBHOOK_COLUMNS.split(", ")
_DELIVERY = DELIVERY_COLUMNS.split(", ")
_APPROVAL = APPROVAL_COLUMNS.split(", ")


def execution_row(row: Sequence[Any]) -> Execution:
    """Return the record of a row of `EXECUTION_COLUMNS` or `EXECUTION_LISTED`."""
    values = dict(zip(_EXECUTION, row, strict=True))
    for name in ("input", "output", "problem", "progress"):
        values[name] = load(values[name])
    values["accepted"] = bool(values["accepted"])
    sizes = {name: values.pop(f"{name}_size") for name in ("input", "output")}
    values["left_out"] = {name: size for name, size in sizes.items() if size is not None}
    return Execution(**values)


def session_row(row: Sequence[Any]) -> SessionRow:
    """Return the record of a row of `SESSION_COLUMNS`."""
    values = dict(zip(_SESSION, row, strict=True))
    for name in ("metadata", "config", "call_ref", "handler_state"):
        values[name] = load(values[name])
    return SessionRow(**values)


def event_row(row: Sequence[Any]) -> EventRow:
    """Return the record of a row of `EVENT_COLUMNS`."""
    return EventRow(**dict(zip(_EVENT, row, strict=True)))


def approval_row(row: Sequence[Any]) -> Approval:
    """Return the record of a row of `APPROVAL_COLUMNS`."""
    values = dict(zip(_APPROVAL, row, strict=True))
    for name in ("details", "data"):
        values[name] = load(values[name])
    return Approval(**values)


def webhook_row(row: Sequence[Any]) -> Webhook:
    """Return the record of a row of `WEBHOOK_COLUMNS`."""
    values = dict(zip(_WEBHOOK, row, strict=True))
    values["events"] = tuple(load(values["events"]))
    return Webhook(**values)


def delivery_row(row: Sequence[Any]) -> Delivery:
    """Return the record of a row of `DELIVERY_COLUMNS`."""
    return Delivery(**dict(zip(_DELIVERY, row, strict=True)))


def token_row(row: Sequence[Any]) -> TokenRow:
    """Return the record of a row that begins with `TOKEN_COLUMNS`."""
    values = dict(zip(_TOKEN, row, strict=False))
    values["details"] = bool(values["details"])
    return TokenRow(**values)


def node_did_row(row: Sequence[Any]) -> NodeDid:
    """Return the record of a row of `NODE_DID_COLUMNS`."""
    return NodeDid(**dict(zip(_NODE_DID, row, strict=True)))
