"""The event log of a run: numbered without gaps, canonical, with leaf digests, written with the change it records.

A run keeps the format of the log in which it began: 1 (entries hold the bodies) or 2 (entries hold commitments to them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec.structs import astuple

from agentfield.errors import NotFound
from agentfield.identity import canonical, event_frame, leaf_hash, new_salt
from agentfield.ids import new_id
from agentfield_server.store.json_text import dump
from agentfield_server.store.operations import AppendEvents, EraseBodies
from agentfield_server.store.records import EventRow, NewEvent
from agentfield_server.store.sqlite.operations import proofs, webhooks
from agentfield_server.store.sqlite.rows import EVENT_COLUMNS
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["LOG_FORMAT", "Change", "LogEnd", "append", "erase", "record", "reserve", "write"]

LOG_FORMAT = 2
"""Format of the log of a new run."""

_INSERT = f"INSERT INTO events ({EVENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants only
_NUMBER = "UPDATE runs SET seq = seq + ? WHERE id = ? AND pruned_at IS NULL RETURNING id, seq, session_id, format"
_BEGIN = (
    "INSERT INTO runs (id, seq, created_at, format, principal) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET seq = seq + excluded.seq WHERE pruned_at IS NULL RETURNING id, seq, session_id, format"
)
_OWNED = "SELECT 1 FROM sessions WHERE id = ? AND epoch = ?"
_ERASE = (
    "UPDATE events SET body = NULL, salt = NULL "
    "WHERE run_id = ? AND seq IN (SELECT value FROM json_each(?)) AND salt IS NOT NULL"
)


@dataclass(slots=True)
class Change:
    """What an operation of a group did, and the events that record it."""

    result: Any
    run_id: str = ""
    events: Sequence[NewEvent] = ()
    row: Mapping[str, Any] | None = None
    """An execution to be inserted, in a run that may begin with it."""
    principal: str | None = None
    """Who begins that run."""
    recorded: list[EventRow] = field(default_factory=list)
    """Its events, once `write` has numbered them."""


class LogEnd(NamedTuple):
    """The last number of a log, with the numbers reserved for a group, and what its events have in common."""

    last: int
    session_id: str | None
    format: int


def reserve(transaction: Transaction, changes: Sequence[Change]) -> dict[str, LogEnd]:
    """Reserve numbers for the events of a group; create the runs that begin with it.

    Raises:
        NotFound: A run does not exist or was pruned (code `unknown_run`).
    """
    counts: dict[str, int] = {}
    begun: dict[str, str | None] = {}
    for change in changes:
        if change.events:
            counts[change.run_id] = counts.get(change.run_id, 0) + len(change.events)
        if change.row is not None:
            begun.setdefault(change.run_id, change.principal)
    in_order = sorted(counts)
    found = transaction.many(_NUMBER, [(counts[run_id], run_id) for run_id in in_order if run_id not in begun])
    found += transaction.many(
        _BEGIN,
        [
            (run_id, counts[run_id], transaction.now, LOG_FORMAT, begun[run_id])
            for run_id in in_order
            if run_id in begun
        ],
    )
    ends = {run_id: LogEnd(*end) for run_id, *end in found}
    if len(ends) < len(counts):
        raise _unknown(next(run_id for run_id in in_order if run_id not in ends))
    return ends


def write(transaction: Transaction, changes: Sequence[Change], ends: Mapping[str, LogEnd]) -> None:
    """Write the events of a group, numbered in the order of its operations, and their deliveries.

    Args:
        transaction: The transaction of the changes.
        changes: The changes, in the order of submission.
        ends: What `reserve` returned for them.

    Raises:
        InvalidInput: A body has no canonical JSON form.
    """
    left: dict[str, int] = {}
    for change in changes:
        if change.events:
            left[change.run_id] = left.get(change.run_id, 0) + len(change.events)
    at = round(transaction.now, 6)
    rows: list[EventRow] = []
    for change in changes:
        for new in change.events:
            end = ends[change.run_id]
            left[change.run_id] -= 1
            change.recorded.append(_row(new, run_id=change.run_id, end=end, seq=end.last - left[change.run_id], at=at))
        rows += change.recorded
    # the fields of the record are in the order of the columns
    transaction.many(_INSERT, [astuple(row) for row in rows])
    transaction.events += rows
    if rows:
        webhooks.enqueue(transaction, rows)
        proofs.enqueue(transaction, rows)


def record(transaction: Transaction, run_id: str, events: Sequence[NewEvent]) -> list[EventRow]:
    """Append events to a run and return their rows, see `reserve` and `write`."""
    change = Change(None, run_id, events)
    write(transaction, [change], reserve(transaction, [change]))
    return change.recorded


def append(transaction: Transaction, operations: Sequence[AppendEvents]) -> list[Change]:
    """Append to logs, see `Store.append_events`."""
    return [
        Change(None, operation.run_id, operation.events if _is_owned(transaction, operation) else ())
        for operation in operations
    ]


def _is_owned(transaction: Transaction, operation: AppendEvents) -> bool:
    return operation.epoch is None or transaction.one(_OWNED, operation.session_id, operation.epoch) is not None


def _unknown(run_id: str) -> NotFound:
    return NotFound(f"There is no run {run_id!r}.", code="unknown_run")


def _row(new: NewEvent, *, run_id: str, end: LogEnd, seq: int, at: float) -> EventRow:
    event_id, session_id = new_id("evt"), end.session_id
    frame = event_frame(
        event_id=event_id,
        seq=seq,
        kind=new.type,
        at=at,
        run_id=run_id,
        session_id=session_id,
        execution_id=new.execution_id,
    )
    given = canonical(dict(new.body))
    body, salt = (None, None) if end.format == 1 else (given, new_salt())
    entry = frame.shown(given) if salt is None else frame.entry(salt, given)
    return EventRow(
        run_id=run_id,
        seq=seq,
        id=event_id,
        type=new.type,
        at=at,
        execution_id=new.execution_id,
        session_id=session_id,
        entry=entry,
        leaf=leaf_hash(entry),
        body=body,
        salt=salt,
    )


def erase(transaction: Transaction, operation: EraseBodies) -> int | None:
    """Erase bodies of events, see `Store.erase_bodies`."""
    run_id = operation.run_id
    run = transaction.one("SELECT format FROM runs WHERE id = ? AND pruned_at IS NULL", run_id)
    if run is None:
        raise _unknown(run_id)
    if run[0] == 1:
        return None
    return transaction.run(_ERASE, run_id, dump(list(operation.seqs)))
