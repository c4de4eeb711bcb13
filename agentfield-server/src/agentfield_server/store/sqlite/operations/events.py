"""The event log of a run: numbered without gaps, canonical, with leaf digests, written with the change it records.

A run keeps the format of the log in which it began: 1 (entries hold the bodies) or 2 (entries hold commitments to them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from agentfield.errors import NotFound
from agentfield.identity import canonical, event_frame, leaf_hash, new_salt
from agentfield.ids import new_id
from agentfield_server.store.json_text import dump
from agentfield_server.store.records import EventRow, NewEvent
from agentfield_server.store.sqlite.operations import webhooks
from agentfield_server.store.sqlite.rows import EVENT_COLUMNS
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["LOG_FORMAT", "SequenceNumbers", "erase", "record", "reserve_numbers"]

LOG_FORMAT = 2
"""Format of the log of a new run."""

_INSERT = f"INSERT INTO events ({EVENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants only
_NUMBER = "UPDATE runs SET seq = seq + ? WHERE id = ? AND pruned_at IS NULL RETURNING seq, session_id, format"
_BEGIN = (
    "INSERT INTO runs (id, seq, created_at, format) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET seq = seq + excluded.seq WHERE pruned_at IS NULL RETURNING seq, session_id, format"
)
_ERASE = (
    "UPDATE events SET body = NULL, salt = NULL "
    "WHERE run_id = ? AND seq IN (SELECT value FROM json_each(?)) AND salt IS NOT NULL"
)


class SequenceNumbers(NamedTuple):
    """Sequence numbers reserved in the log of a run."""

    last: int
    session_id: str | None
    format: int


def reserve_numbers(transaction: Transaction, run_id: str, count: int) -> SequenceNumbers:
    """Reserve sequence numbers for `count` events of a run; create the run if it does not exist.

    Raises:
        NotFound: The run was pruned.
    """
    return _numbers(transaction.one(_BEGIN, run_id, count, transaction.now, LOG_FORMAT), run_id)


def record(
    transaction: Transaction, run_id: str, events: Sequence[NewEvent], numbers: SequenceNumbers | None = None
) -> list[EventRow]:
    """Append events to a run and return their rows.

    Args:
        transaction: The transaction of the change.
        run_id: The run.
        events: The events.
        numbers: What `reserve_numbers` returned for them; else they get the next ones.

    Raises:
        NotFound: The run does not exist or was pruned (code `unknown_run`).
        InvalidInput: A body has no canonical JSON form.
    """
    if not events:
        return []
    count = len(events)
    last, session_id, log_format = numbers or _numbers(transaction.one(_NUMBER, count, run_id), run_id)
    at = round(transaction.now, 6)
    rows = [
        _row(new, run_id=run_id, session_id=session_id, seq=last - count + offset, at=at, log_format=log_format)
        for offset, new in enumerate(events, start=1)
    ]
    for row in rows:
        transaction.run(
            _INSERT,
            row.run_id,
            row.seq,
            row.id,
            row.type,
            row.at,
            row.execution_id,
            row.session_id,
            row.entry,
            row.leaf,
            row.body,
            row.salt,
        )
    transaction.events.extend(rows)
    webhooks.enqueue(transaction, rows)
    return rows


def _numbers(run: tuple[Any, ...] | None, run_id: str) -> SequenceNumbers:
    if run is None:
        raise _unknown(run_id)
    return SequenceNumbers(*run)


def _unknown(run_id: str) -> NotFound:
    return NotFound(f"There is no run {run_id!r}.", code="unknown_run")


def _row(new: NewEvent, *, run_id: str, session_id: str | None, seq: int, at: float, log_format: int) -> EventRow:
    event_id = new_id("evt")
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
    body, salt = (None, None) if log_format == 1 else (given, new_salt())
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


def erase(transaction: Transaction, run_id: str, seqs: Sequence[int]) -> int | None:
    """Erase bodies of events, see `Store.erase_bodies`."""
    run = transaction.one("SELECT format FROM runs WHERE id = ? AND pruned_at IS NULL", run_id)
    if run is None:
        raise _unknown(run_id)
    if run[0] == 1:
        return None
    return transaction.run(_ERASE, run_id, dump(list(seqs)))
