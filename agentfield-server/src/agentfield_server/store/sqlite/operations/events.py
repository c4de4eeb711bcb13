"""The event log of a run: numbered without gaps, canonical, with leaf digests, written with the change it records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from agentfield.errors import NotFound
from agentfield.identity import canonical, leaf_hash
from agentfield.ids import new_id
from agentfield_server.store.records import EventRow, NewEvent
from agentfield_server.store.sqlite.operations import webhooks
from agentfield_server.store.sqlite.rows import EVENT_COLUMNS
from agentfield_server.store.sqlite.writer import Transaction

__all__ = ["SequenceNumbers", "record", "reserve_numbers"]

_INSERT = f"INSERT INTO events ({EVENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants only
_NUMBER = "UPDATE runs SET seq = seq + ? WHERE id = ? AND pruned_at IS NULL RETURNING seq, session_id"
_BEGIN = (
    "INSERT INTO runs (id, seq, created_at) VALUES (?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET seq = seq + excluded.seq WHERE pruned_at IS NULL RETURNING seq, session_id"
)


class SequenceNumbers(NamedTuple):
    """Sequence numbers reserved in the log of a run."""

    last: int
    session_id: str | None


def reserve_numbers(transaction: Transaction, run_id: str, count: int) -> SequenceNumbers:
    """Reserve sequence numbers for `count` events of a run; create the run if it does not exist.

    Raises:
        NotFound: The run was pruned.
    """
    return _numbers(transaction.one(_BEGIN, run_id, count, transaction.now), run_id)


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
    last, session_id = numbers or _numbers(transaction.one(_NUMBER, count, run_id), run_id)
    rows = [
        _row(new, run_id=run_id, session_id=session_id, seq=last - count + offset, at=round(transaction.now, 6))
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
            row.canonical,
            row.leaf,
        )
    transaction.events.extend(rows)
    webhooks.enqueue(transaction, rows)
    return rows


def _numbers(run: tuple[Any, ...] | None, run_id: str) -> SequenceNumbers:
    if run is None:
        raise NotFound(f"There is no run {run_id!r}.", code="unknown_run")
    return SequenceNumbers(*run)


def _row(new: NewEvent, *, run_id: str, session_id: str | None, seq: int, at: float) -> EventRow:
    event_id = new_id("evt")
    content: dict[str, Any] = {
        "id": event_id,
        "seq": seq,
        "type": new.type,
        "at": at,
        "run_id": run_id,
        "session_id": session_id,
        "execution_id": new.execution_id,
        "body": dict(new.body),
    }
    data = canonical(content)
    return EventRow(
        run_id=run_id,
        seq=seq,
        id=event_id,
        type=new.type,
        at=at,
        execution_id=new.execution_id,
        session_id=session_id,
        canonical=data,
        leaf=leaf_hash(data),
    )
