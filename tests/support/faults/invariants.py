"""The invariants of a store after any fault: one checker for all tests, which prints counts."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentfield.identity import b64url, canonical, leaf_hash, tree_root
from agentfield.proof import parse_credential
from agentfield_server.engine import FINAL
from support.server.log_entries import event_of, is_intact

__all__ = ["Counts", "Receipt", "examine"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """A request that a webhook receiver got."""

    delivery: str
    body: bytes


@dataclass(slots=True)
class Counts:
    """The counts; `str()` is the printed line."""

    acknowledged: int = 0
    lost: int = 0
    completed_twice: int = 0
    redelivered: int = 0
    """Attempts beyond the first."""
    executions: int = 0
    states: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why executions failed, by code."""
    effects: int = 0
    deliveries: int = 0
    told_again: int = 0
    """Deliveries that arrived more than once, each time under the same id."""

    def __str__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        return (
            f"acknowledged {self.acknowledged}, lost {self.lost}, double-completed {self.completed_twice}, "
            f"redelivered {self.redelivered}; executions {self.executions} ({states}), failed for {dict(self.reasons)}, side effects {self.effects}, "
            f"webhook deliveries {self.deliveries} (told again {self.told_again})"
        )


def examine(
    database: Path,
    what: str,
    *,
    acknowledged: Iterable[str] = (),
    cancelled: Iterable[str] = (),
    effects: Sequence[tuple[str, int]] = (),
    receipts: Sequence[Receipt] = (),
) -> Counts:
    """Check every invariant of a store without running work, and print the counts.

    Args:
        database: The store's file.
        what: The fault that was injected.
        acknowledged: Ids of executions whose creation was acknowledged.
        cancelled: Ids of executions whose cancellation was acknowledged.
        effects: Execution and attempt of each side effect.
        receipts: The requests of the webhook receiver.

    Raises:
        AssertionError: One or more invariants do not hold; the message names them.
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, isolation_level=None)) as store:
        store.execute("PRAGMA busy_timeout = 10000")
        store.execute("BEGIN")
        store_view = _Invariants(store)
        found = [
            *store_view.file(),
            *store_view.logs(),
            *store_view.states(),
            *store_view.graph(),
            *store_view.outbox(receipts),
            *store_view.proofs(),
        ]
        found += store_view.effects(effects)
        asked = set(acknowledged)
        lost = asked - store_view.rows.keys()
        found += [f"acknowledged, and lost: {name}" for name in sorted(lost)]
        found += [
            f"cancelled, but {name} is {store_view.status(name)}"
            for name in cancelled
            if store_view.status(name) != "cancelled"
        ]
    counts = Counts(
        acknowledged=len(asked),
        lost=len(lost),
        completed_twice=sum(count > 1 for count in store_view.endings().values()),
        redelivered=sum(max(row["attempt"] - 1, 0) for row in store_view.rows.values()),
        executions=len(store_view.rows),
        states=Counter(row["status"] for row in store_view.rows.values()),
        reasons=Counter(
            json.loads(row["problem"])["code"] for row in store_view.rows.values() if row["status"] == "failed"
        ),
        effects=len(effects),
        deliveries=len(store_view.deliveries),
        told_again=sum(count - 1 for count in Counter(receipt.delivery for receipt in receipts).values()),
    )
    print(f"\n{what}: {counts}")  # noqa: T201 -- the counts belong in the log of a run
    assert not found, f"{counts}\n" + "\n".join(found[:30])
    return counts


class _Invariants:
    """The content of a store; each check yields the violations."""

    def __init__(self, store: sqlite3.Connection) -> None:
        store.row_factory = sqlite3.Row
        self._store = store
        self.rows: dict[str, Mapping[str, Any]] = {
            row["id"]: dict(row) for row in store.execute("SELECT * FROM executions")
        }
        self.deliveries = {row["id"]: dict(row) for row in store.execute("SELECT * FROM deliveries")}
        self._runs = dict(tuple(row) for row in store.execute("SELECT id, seq FROM runs"))
        self._events: dict[str, list[sqlite3.Row]] = defaultdict(list)
        for row in store.execute("SELECT * FROM events ORDER BY run_id, seq"):
            self._events[row["run_id"]].append(row)

    def status(self, execution_id: str) -> str | None:
        """Return the status of an execution."""
        return self.rows[execution_id]["status"] if execution_id in self.rows else None

    def proofs(self) -> Iterator[str]:
        """Each ended execution has one credential or waits for it; numbers, logs and anchors fit."""
        waiting = Counter(row["execution_id"] for row in self._store.execute("SELECT * FROM credential_queue"))
        leaves: dict[str, list[bytes]] = defaultdict(list)
        found = Counter[str]()
        for row in self._store.execute("SELECT * FROM credentials ORDER BY run_id, number"):
            credential = parse_credential(row["document"])
            found[row["execution_id"]] += 1
            events, before = self._events[row["run_id"]], leaves[row["run_id"]]
            before.append(row["leaf"])
            if (credential.subject.number, credential.leaf) != (len(before), row["leaf"]):
                yield f"credential {row['number']} of {row['run_id']} is not {len(before)}"
            log = credential.subject.log
            if log is not None and log.root != tree_root([event["leaf"] for event in events[: log.size]]):
                yield f"the log of {row['run_id']} is not that of credential {row['number']}"
        for name, execution in self.rows.items():
            count = found[name] + waiting[name]
            if count != (execution["status"] in FINAL):
                yield f"{name} is {execution['status']} and has {count} credentials"
        for at, row in enumerate(self._store.execute("SELECT * FROM control_plane_log ORDER BY seq"), start=1):
            anchors = self._store.execute("SELECT leaf FROM anchors WHERE entry = ? ORDER BY place", (at,)).fetchall()
            root = b64url(tree_root([anchor["leaf"] for anchor in anchors]))
            if row["seq"] != at or row["leaf"] != leaf_hash(row["entry"]) or json.loads(row["entry"])["root"] != root:
                yield f"entry {row['seq']} of the control plane's log does not fit its anchors"

    def _of(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield execution id and body of all events of a type, in order."""
        for rows in self._events.values():
            yield from (
                (row["execution_id"], event_of(row["entry"], row["body"])["body"])
                for row in rows
                if row["type"] == kind
            )

    def endings(self) -> Counter[str]:
        """Return how often each execution was completed."""
        return Counter(name for name, _ in self._of("execution.ended"))

    def file(self) -> Iterator[str]:
        """Check the integrity of the file."""
        yield from (f"integrity: {row[0]}" for row in self._store.execute("PRAGMA integrity_check") if row[0] != "ok")
        yield from (f"foreign key: {tuple(row)}" for row in self._store.execute("PRAGMA foreign_key_check"))

    def logs(self) -> Iterator[str]:
        """Check that every log is numbered without gaps and matches its leaves."""
        for run_id, last in self._runs.items():
            rows = self._events[run_id]
            if [row["seq"] for row in rows] != list(range(1, last + 1)):
                yield f"{run_id}: numbers of events are not 1 to {last}"
            for row in rows:
                intact = is_intact(row["entry"], row["body"], row["salt"], row["leaf"])
                if not intact or json.loads(row["entry"])["seq"] != row["seq"]:
                    yield f"{run_id}: event {row['seq']} was changed"
        yield from (f"{run_id}: events without a run" for run_id in self._events.keys() - self._runs.keys())

    def states(self) -> Iterator[str]:
        """Check that each execution has ended once, as its event says, or waits for an approval, and that attempts rise."""
        ended: dict[str, list[str]] = defaultdict(list)
        started: dict[str, list[int]] = defaultdict(list)
        for name, body in self._of("execution.ended"):
            ended[name].append(body["status"])
        for name, body in self._of("execution.started"):
            started[name].append(body["attempt"])
        created = Counter(name for name, _ in self._of("execution.created"))
        parked = {row[0] for row in self._store.execute("SELECT execution_id FROM approvals WHERE status = 'pending'")}
        for name, row in self.rows.items():
            status, attempts = row["status"], started[name]
            if status in FINAL and ended[name] != [status]:
                yield f"{name} is {status}, its log says {ended[name]}"
            if status not in FINAL and (ended[name] or status != "waiting" or name not in parked):
                yield f"{name} is {status} without a pending approval, its log says {ended[name]}"
            if status in FINAL and name in parked:
                yield f"{name} is {status}, and an approval of it is still pending"
            if attempts != sorted(set(attempts)) or attempts[-1:] > [row["attempt"]]:
                yield f"{name} is in attempt {row['attempt']}, its log says {attempts}"
            if created[name] != 1:
                yield f"{name} was created {created[name]} times"
        yield from (f"the log knows {name}, no row does" for name in (ended.keys() | started.keys()) - self.rows.keys())

    def graph(self) -> Iterator[str]:
        """Check that every parent exists, belongs to the same run and is older."""
        for name, row in self.rows.items():
            if (parent_id := row["parent_id"]) is None:
                continue
            parent = self.rows.get(parent_id)
            if parent is None or parent["run_id"] != row["run_id"] or parent["pos"] >= row["pos"]:
                yield f"{name} has the impossible parent {parent_id}"

    def effects(self, effects: Sequence[tuple[str, int]]) -> Iterator[str]:
        """Check that no effect happened twice in an attempt, or in an attempt that was never assigned."""
        for (name, attempt), count in Counter(effects).items():
            given = self.rows[name]["attempt"] if name in self.rows else 0
            if count > 1 or attempt > given:
                yield f"{name} happened {count} times in attempt {attempt}; it had {given}"

    def outbox(self, receipts: Sequence[Receipt]) -> Iterator[str]:
        """Check that every event is delivered to each subscribed webhook, under one id, as its own bytes."""
        wanted = Counter((row["webhook_id"], row["run_id"], row["seq"]) for row in self.deliveries.values())
        yield from (f"{key} has {count} deliveries" for key, count in wanted.items() if count > 1)
        log = {(run_id, row["seq"]): row for run_id, rows in self._events.items() for row in rows}
        hooks = self._store.execute("SELECT id, events, created_at FROM webhooks").fetchall()
        for hook in hooks:
            kinds = json.loads(hook["events"])
            missed = [
                key
                for key, row in log.items()
                if row["type"] in kinds and row["at"] > hook["created_at"] and (hook["id"], *key) not in wanted
            ]
            yield from (f"{key} has no delivery to {hook['id']}" for key in missed)
        told = {receipt.delivery for receipt in receipts}
        for name, delivery in self.deliveries.items():
            if delivery["status"] != "pending" and name not in told:
                yield f"{name} is {delivery['status']}, and never arrived"
        for receipt in receipts:
            row = self.deliveries.get(receipt.delivery)
            event = None if row is None else log[row["run_id"], row["seq"]]
            if event is None or canonical(event_of(event["entry"], event["body"])) != receipt.body:
                yield f"{receipt.delivery} arrived with another event, or is unknown"
