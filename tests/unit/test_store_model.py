"""The store against a small model: whatever is done in whatever order, numbering, attempts and endings hold."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from agentfield.identity import leaf_hash
from agentfield.ids import new_id
from agentfield_server.store.records import EventRow, Execution, NewEvent, NewExecution
from agentfield_server.store.sqlite import SqliteStore

T = TypeVar("T")
OPEN = ("queued", "running")


class StoreMachine(RuleBasedStateMachine):
    """Creates, leases, accepts, requeues, completes and restarts at random."""

    executions: Bundle[str] = Bundle("executions")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.seen: list[EventRow] = []
        self.store = self._opened()
        self.runs = [new_id("run"), new_id("run")]
        self.model: dict[str, Execution] = {}
        self.completions: Counter[str] = Counter()
        self.attempts: dict[str, int] = {}
        self.logged: Counter[str] = Counter()

    def _opened(self) -> SqliteStore:
        async def opened() -> SqliteStore:
            store = SqliteStore(Path(self.folder.name) / "a.db", on_commit=self.seen.extend, clock=lambda: 1000.0)
            await store.open()
            return store

        return self.runner.run(opened())

    def do(self, work: Awaitable[T]) -> T:
        """Run a store operation."""

        async def run() -> T:
            return await work

        return self.runner.run(run())

    def teardown(self) -> None:
        """Close the store."""
        self.do(self.store.close())
        self.runner.close()
        self.folder.cleanup()

    @rule(target=executions, run=st.integers(0, 1), leased=st.booleans())
    def create(self, run: int, leased: bool) -> str:
        """A new execution, leased in the insert or not."""
        new = NewExecution(id=new_id("exe"), run_id=self.runs[run], kind="call", target="n.f", input={})
        row, is_new = self.do(self.store.create_execution(new, lease_to="i" if leased else None, lease_until=1.0))
        assert is_new
        assert row.attempt == (1 if leased else 0)
        self.model[row.id] = row
        self.attempts[row.id] = row.attempt
        self.logged[row.run_id] += 1
        return row.id

    @rule(target=executions, known=executions)
    def create_again(self, known: str) -> str:
        """A repeated operation id returns what is there."""
        first = NewExecution(
            id=new_id("exe"), run_id=self.runs[0], kind="call", target="n.f", input={}, op_id=f"op_{known}"
        )
        row, is_new = self.do(self.store.create_execution(first))
        if is_new:
            self.model[row.id], self.attempts[row.id] = row, 0
            self.logged[row.run_id] += 1
        else:
            assert row.id in self.model
        return row.id

    @rule(execution=executions)
    def lease(self, execution: str) -> None:
        """A lease succeeds exactly on queued rows, and the attempt rises."""
        before = self.model[execution]
        row = self.do(self.store.lease_execution(execution, owner="i", until=1.0))
        assert (row is not None) == (before.status == "queued")
        if row is not None:
            assert row.attempt == self.attempts[execution] + 1
            self.attempts[execution] = row.attempt
            assert row.lease_epoch > before.lease_epoch
            self.model[execution] = row

    @rule(execution=executions, stale=st.booleans())
    def accept(self, execution: str, stale: bool) -> None:
        """Only the current attempt can be accepted, once."""
        before = self.model[execution]
        attempt = before.attempt - stale
        accepted = self.do(self.store.accept_execution(execution, attempt=attempt, epoch=before.lease_epoch))
        assert accepted == (before.status == "running" and not stale and not before.accepted)
        self.logged[before.run_id] += accepted
        self._refresh(execution)

    @rule(execution=executions, stale=st.booleans())
    def requeue(self, execution: str, stale: bool) -> None:
        """Only the current attempt can be given back."""
        before = self.model[execution]
        epoch = before.lease_epoch - stale
        requeued = self.do(self.store.requeue_execution(execution, attempt=before.attempt, epoch=epoch))
        assert requeued == (before.status == "running" and not stale)
        self._refresh(execution)

    @rule(execution=executions, stale=st.booleans(), status=st.sampled_from(["succeeded", "failed"]))
    def complete(self, execution: str, stale: bool, status: str) -> None:
        """Only the current attempt of an open execution can be completed."""
        before = self.model[execution]
        row = self.do(
            self.store.complete_execution(
                execution,
                attempt=before.attempt,
                epoch=before.lease_epoch - stale,
                status=status,  # type: ignore[arg-type]
                events=[NewEvent(type="extra")],
            )
        )
        assert (row is not None) == (before.status == "running" and not stale)
        self._completed(execution, row)

    @rule(execution=executions)
    def cancel(self, execution: str) -> None:
        """A cancellation closes whatever is open."""
        before = self.model[execution]
        row = self.do(self.store.complete_execution(execution, attempt=None, status="cancelled"))
        assert (row is not None) == (before.status in OPEN)
        self._completed(execution, row, extra=0)

    def _completed(self, execution: str, row: Execution | None, extra: int = 1) -> None:
        if row is not None:
            self.completions[execution] += 1
            self.logged[row.run_id] += 1 + extra
            self.model[execution] = row

    @rule(run=st.integers(0, 1), bodies=st.lists(st.dictionaries(st.text(), st.integers(-5, 5)), max_size=3))
    def append(self, run: int, bodies: list[dict[str, int]]) -> None:
        """Events of the caller's own."""
        run_id = self.runs[run]
        if run_id in self.logged:
            rows = self.do(self.store.append_events(run_id, [NewEvent(type="note", body=body) for body in bodies]))
            assert len(rows) == len(bodies)
            self.logged[run_id] += len(bodies)

    @rule()
    def restart(self) -> None:
        """Close and open the store."""
        self.do(self.store.close())
        self.store = self._opened()

    def _refresh(self, execution: str) -> None:
        row = self.do(self.store.get_execution(execution))
        assert row is not None
        self.model[execution] = row

    @invariant()
    def rows_are_as_modelled(self) -> None:
        """What is read is what was returned; open ones are listed as open."""
        listed = {row.id: row for run_id in self.runs for row in self.do(self.store.list_executions(run_id, limit=999))}
        assert listed == self.model
        still = {row.id for row in self.do(self.store.open_executions())}
        assert still == {row.id for row in self.model.values() if row.status in OPEN}

    @invariant()
    def endings_happen_once(self) -> None:
        """No execution is completed twice."""
        assert all(count == 1 for count in self.completions.values())

    @invariant()
    def logs_are_whole(self) -> None:
        """Numbers without gaps, as many as were written, verifiable, and all of them were announced."""
        for run_id in self.runs:
            rows = self.do(self.store.read_events(run_id, limit=9999))
            assert [row.seq for row in rows] == list(range(1, self.logged[run_id] + 1))
            assert all(leaf_hash(row.canonical) == row.leaf for row in rows)
            ended = Counter(row.execution_id for row in rows if row.type == "execution.ended")
            assert all(count == 1 for count in ended.values())
            assert all(json.loads(row.canonical)["run_id"] == run_id for row in rows)
            assert [row for row in self.seen if row.run_id == run_id] == rows


StoreMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestStoreModel = StoreMachine.TestCase
