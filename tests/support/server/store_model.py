"""A model of the store in dictionaries, which every implementation is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agentfield_server.store.records import LIVE_PRIORITY, Execution, NewExecution

OPEN = ("queued", "running", "waiting")
DAY = 24 * 3600.0
LARGE = 32 * 1024


@dataclass
class Row:
    """An execution as modelled."""

    new: NewExecution
    order: int
    status: str
    priority: int
    share: str
    attempt: int = 0
    epoch: int = 0
    told: tuple[int, int] = (0, 0)
    """Attempt and epoch of the last lease."""
    owner: str | None = None
    accepted: bool = False
    max_attempts: int = 1
    lineage: int = 0
    pauses: int = 0
    place: int = 0
    not_before: float | None = None
    deadline: float | None = None
    left: float | None = None
    """The time left to the deadline when it was suspended."""
    approval: str | None = None
    """The id of the pending approval."""
    output: Any = None
    endings: int = 0

    def matches(self, row: Execution) -> bool:
        """Tell whether a stored execution equals this one in all modelled fields."""
        return (
            (row.id, row.run_id, row.status, row.priority, row.attempt, row.lease_epoch, row.lease_owner)
            == (self.new.id, self.new.run_id, self.status, self.priority, self.attempt, self.epoch, self.owner)
            and (row.accepted, row.max_attempts, row.lineage, row.pauses, row.not_before, row.deadline)
            == (self.accepted, self.max_attempts, self.lineage, self.pauses, self.not_before, self.deadline)
            and row.left_out.keys() == {name for name, value in self.values().items() if is_large(value)}
            and all(getattr(row, name) == (None if is_large(value) else value) for name, value in self.values().items())
        )

    def values(self) -> dict[str, Any]:
        """Return the input and the output."""
        return {"input": self.new.input, "output": self.output}

    def current(self, stale: bool) -> tuple[bool, int, int]:
        """Return whether a current or outdated holder may act for it, and the claim that the holder presents."""
        attempt, epoch = self.told
        return self.status == "running" and not stale, attempt, epoch - stale


def is_large(value: Any) -> bool:
    """Tell whether lists omit a value because of its size."""
    return isinstance(value, dict) and len(value.get("text", "")) > LARGE


@dataclass
class Session:
    """A session as modelled."""

    run_id: str
    root_id: str
    state: str = "created"
    epoch: int = 1
    reason: str | None = None


@dataclass
class Key:
    """An idempotency key as modelled."""

    body: bytes
    response: dict[str, Any] | None
    at: float


@dataclass
class Model:
    """All acknowledged state."""

    rows: dict[str, Row] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)
    """The types of the events of a run, in order."""
    last: dict[str, float] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    pruned: dict[str, int] = field(default_factory=dict)
    hook: str | None = None
    pending: set[tuple[str, int]] = field(default_factory=set)
    dead: set[tuple[str, int]] = field(default_factory=set)
    made: int = 0

    def record(self, run_id: str, now: float, *types: str) -> None:
        """Record events of a run, with their deliveries to the webhook that subscribes to executions."""
        log = self.logs.setdefault(run_id, [])
        for kind in types:
            log.append(kind)
            self.last[run_id] = now
            if self.hook is not None and kind.startswith("execution."):
                self.pending.add((run_id, len(log)))

    def create(self, new: NewExecution, now: float, *, lease_to: str | None = None) -> Row:
        """Create an execution."""
        parent = self.rows[new.parent_id] if new.parent_id is not None else None
        row = Row(
            new=new,
            order=self.made,
            status="running" if lease_to is not None else new.status,
            priority=new.priority if new.session_id is None else max(new.priority, LIVE_PRIORITY),
            share=new.share or new.session_id or (parent.share if parent is not None else new.run_id),
            max_attempts=new.max_attempts,
            owner=lease_to,
            deadline=None if new.timeout is None else now + new.delay + new.timeout,
        )
        self.made += 1
        if row.status == "queued":
            row.place = self._queue_position(row)
            row.not_before = now + new.delay if new.delay else None
        else:
            row.attempt = 1
        if lease_to is not None:
            row.epoch, row.told = 1, (1, 1)
        self.rows[new.id] = row
        self.record(new.run_id, now, "execution.created")
        return row

    def _queue_position(self, row: Row) -> int:
        queue = [other for other in self.queued() if other.priority == row.priority]
        behind = max((other.place for other in queue if other.share == row.share), default=-1)
        return max(behind + 1, min((other.place for other in queue), default=0))

    def queued(self) -> list[Row]:
        """Return the queued executions in the order in which they are leased."""
        waiting = [row for row in self.rows.values() if row.status == "queued"]
        return sorted(waiting, key=lambda row: (-row.priority, row.place, row.order))

    def close(self, row: Row, status: str, now: float, output: Any = None) -> None:
        """End an execution."""
        row.status, row.output, row.approval = status, output, None
        row.endings += 1
        self.record(row.new.run_id, now, "execution.ended")

    def prunable(self, before: float) -> set[str]:
        """Return finished runs whose last event is older than a time."""
        busy = {row.new.run_id for row in self.rows.values() if row.status in OPEN}
        busy |= {session.run_id for session in self.sessions.values() if session.state != "ended"}
        busy |= {run_id for run_id, _ in self.pending}
        return {run_id for run_id, at in self.last.items() if at < before and run_id not in busy}

    def prune(self, run_id: str) -> None:
        """Delete a run."""
        self.pruned[run_id] = len(self.logs.pop(run_id))
        del self.last[run_id]
        self.rows = {name: row for name, row in self.rows.items() if row.new.run_id != run_id}
        self.sessions = {name: known for name, known in self.sessions.items() if known.run_id != run_id}
        self.dead = {where for where in self.dead if where[0] != run_id}
