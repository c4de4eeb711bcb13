"""Every store against a model: after any sequence of operations both have the same state."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agentfield.errors import Conflict, InvalidInput
from agentfield.ids import new_id
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import EventRow, Execution, NewEvent, Webhook
from support.server.log_entries import is_intact
from support.server.proofs import issue_all
from support.server.store import Clock, Factory, Opened, call, key, session_pair
from support.server.store_model import DAY, LARGE, OPEN, Key, Model, Row, Session, is_large

T = TypeVar("T")

VALUES = st.sampled_from([{}, {"n": 1}, {"text": "x" * (LARGE + 1)}, {"text": "y" * (LARGE + 1)}])


class StoreMachine(RuleBasedStateMachine):
    """Calls every operation of the protocol in random order, also with stale attempts and stale owners.

    Args:
        make: The implementation.
    """

    executions: Bundle[str] = Bundle("executions")
    sessions: Bundle[str] = Bundle("sessions")

    def __init__(self, make: Factory) -> None:
        super().__init__()
        self.make = make
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = Clock()
        self.seen: list[EventRow] = []
        self.runs = [new_id("run"), new_id("run")]
        self.model = Model()
        self.store = self._opened()

    def _opened(self) -> Store:
        store = self.make(Path(self.folder.name), self.clock, self.seen.extend)
        self.do(store.open())
        return store

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a store operation."""
        return self.runner.run(work)

    def teardown(self) -> None:
        """Close the store."""
        self.do(self.store.close())
        self.runner.close()
        self.folder.cleanup()

    def modelled(self, execution: str) -> Row | None:
        """Return the modelled row, or None for a pruned one, which the store must not have either."""
        row = self.model.rows.get(execution)
        if row is None:
            assert self.do(self.store.get_execution(execution)) is None
        return row

    def assert_complete(self, row: Row, stored: Execution | None) -> None:
        """Assert that an execution is returned with its values, however large."""
        assert stored is not None
        assert (stored.input, stored.output, stored.left_out) == (row.new.input, row.output, {})

    # --- executions

    @rule(
        target=executions,
        run=st.integers(0, 1),
        leased=st.booleans(),
        share=st.sampled_from([None, "a", "b"]),
        priority=st.integers(0, 1),
        delay=st.sampled_from([0.0, 0.0, 30.0]),
        timeout=st.sampled_from([None, 90.0]),
        value=VALUES,
    )
    def create(self, run: int, leased: bool, value: Any, **values: Any) -> str:
        """Create an execution of any kind, leased in the same transaction or not."""
        if leased:
            values["delay"] = 0.0
        new = call(run_id=self.runs[run], input=value, **values)
        lease_to = "i" if leased else None
        stored, is_new = self.do(self.store.create_execution(new, lease_to=lease_to, lease_until=1.0))
        assert is_new
        self.assert_complete(self.model.create(new, self.clock.now, lease_to=lease_to), stored)
        return new.id

    @rule(target=executions, parent=executions)
    def create_child(self, parent: str) -> str:
        """Create a child with an op_id; a second request with it returns the same execution."""
        above = self.modelled(parent)
        new = call(run_id=above.new.run_id if above else self.runs[0], parent_id=parent, op_id=new_id("op"))
        if above is None:
            with pytest.raises(InvalidInput) as refused:
                self.do(self.store.create_execution(new))
            assert refused.value.code == "foreign_parent"
            return parent
        self.do(self.store.create_execution(new))
        self.model.create(new, self.clock.now)
        again, is_new = self.do(self.store.create_execution(call(op_id=new.op_id)))
        assert (again.id, is_new) == (new.id, False)
        found = self.do(self.store.execution_for_op(str(new.op_id)))
        assert found == again
        return new.id

    @rule(execution=executions)
    def lease(self, execution: str) -> None:
        """A lease succeeds exactly on queued rows and increments attempt and epoch."""
        row = self.modelled(execution)
        stored = self.do(self.store.lease_execution(execution, owner="j", until=1.0))
        assert (stored is not None) == (row is not None and row.status == "queued")
        if row is not None and stored is not None:
            row.status, row.owner, row.accepted, row.not_before = "running", "j", False, None
            row.attempt, row.epoch = row.attempt + 1, row.epoch + 1
            row.told = (row.attempt, row.epoch)
            self.assert_complete(row, stored)

    @precondition(lambda self: self.model.queued())
    @rule(count=st.integers(1, 3))
    def lease_next(self, count: int) -> None:
        """Lease the first executions of the queue."""
        for row in self.model.queued()[:count]:
            self.lease(row.new.id)

    @rule(target=executions, run=st.integers(0, 1), value=VALUES, output=VALUES)
    def run_through(self, run: int, value: Any, output: Any) -> str:
        """Create an execution that starts at once and succeeds."""
        execution = self.create(run=run, leased=True, value=value)
        self.complete(execution, stale=False, status="succeeded", output=output)
        return execution

    @rule(execution=executions, stale=st.booleans())
    def accept(self, execution: str, stale: bool) -> None:
        """Only the current attempt can be accepted, and only once."""
        if (row := self.modelled(execution)) is None:
            return
        may, attempt, epoch = row.current(stale)
        accepted = self.do(self.store.accept_execution(execution, attempt=attempt, epoch=epoch))
        assert accepted == (may and not row.accepted)
        if accepted:
            row.accepted = True
            self.model.record(row.new.run_id, self.clock.now, "execution.started")

    @rule(execution=executions, stale=st.booleans())
    def progress(self, execution: str, stale: bool) -> None:
        """Only the current attempt can report progress."""
        if (row := self.modelled(execution)) is None:
            return
        may, attempt, epoch = row.current(stale)
        assert self.do(self.store.progress(execution, attempt=attempt, epoch=epoch, value={"n": 1})) == may
        if may:
            self.model.record(row.new.run_id, self.clock.now, "execution.progress")

    @rule(execution=executions, stale=st.booleans(), later=st.booleans(), anew=st.booleans())
    def requeue(self, execution: str, stale: bool, later: bool, anew: bool) -> None:
        """Only the current attempt can be requeued; one that never started does not count."""
        if (row := self.modelled(execution)) is None:
            return
        may, attempt, epoch = row.current(stale)
        at = self.clock.now + 10 if later else None
        done = self.do(
            self.store.requeue_execution(
                execution, attempt=attempt, epoch=epoch, not_before=at, anew=anew, events=[NewEvent(type="again")]
            )
        )
        assert done == may
        if may:
            row.status, row.owner, row.epoch, row.not_before = "queued", None, row.epoch + 1, at
            row.max_attempts += not row.accepted
            row.accepted = False
            row.lineage += anew
            self.model.record(row.new.run_id, self.clock.now, "again")

    @rule(
        execution=executions,
        stale=st.booleans(),
        status=st.sampled_from(["succeeded", "failed"]),
        output=VALUES,
        entered=st.none() | st.sampled_from([0.0, 0.25, 3600.0]),
    )
    def complete(self, execution: str, stale: bool, status: Any, output: Any, entered: float | None = None) -> None:
        """Only the current attempt of an open execution can be completed, and be accepted in the same transaction."""
        if (row := self.modelled(execution)) is None:
            return
        may, attempt, epoch = row.current(stale)
        stored = self.do(
            self.store.complete_execution(
                execution,
                attempt=attempt,
                epoch=epoch,
                status=status,
                output=output,
                entered=entered,
                events=[NewEvent(type="extra")],
            )
        )
        assert (stored is not None) == may
        if may:
            if entered is not None and not row.accepted:
                row.accepted = True
                self.model.record(row.new.run_id, self.clock.now, "execution.started")
            self.model.close(row, status, self.clock.now, output)
            self.model.record(row.new.run_id, self.clock.now, "extra")
            self.assert_complete(row, stored)

    @rule(execution=executions)
    def cancel(self, execution: str) -> None:
        """A cancellation ends any open execution and withdraws its approval."""
        row = self.modelled(execution)
        if row is not None and row.new.kind == "session":
            return
        stored = self.do(self.store.complete_execution(execution, attempt=None, status="cancelled"))
        assert (stored is not None) == (row is not None and row.status in OPEN)
        if row is not None and stored is not None:
            self.model.close(row, "cancelled", self.clock.now)

    # --- approvals

    @rule(execution=executions, stale=st.booleans())
    def suspend(self, execution: str, stale: bool) -> None:
        """Only the current attempt can be suspended; its deadline is suspended with it."""
        if (row := self.modelled(execution)) is None:
            return
        may, attempt, epoch = row.current(stale)
        approval = self.do(
            self.store.suspend_execution(
                execution, attempt=attempt, epoch=epoch, key=new_id("k"), title="t", details=None, expires=1.0
            )
        )
        assert (approval is not None) == may
        if approval is not None:
            row.left = None if row.deadline is None else max(row.deadline - self.clock.now, 0.001)
            row.status, row.owner, row.epoch, row.accepted, row.deadline = "waiting", None, row.epoch + 1, False, None
            row.pauses, row.approval = row.pauses + 1, approval.id
            self.model.record(row.new.run_id, self.clock.now, "approval.requested")

    @rule(execution=executions)
    def decide(self, execution: str) -> None:
        """A decision queues the execution again; a second decision is refused."""
        row = self.modelled(execution)
        if row is None or row.approval is None:
            return
        approval, row.approval = row.approval, None
        assert (
            self.do(self.store.decide(approval, status="approved", principal="key:a", by="a", via="rest")) is not None
        )
        assert self.do(self.store.decide(approval, status="rejected", principal="key:b", by="b", via="rest")) is None
        row.status, row.max_attempts, row.not_before = "queued", row.max_attempts + 1, None
        row.deadline = None if row.left is None else self.clock.now + row.left
        self.model.record(row.new.run_id, self.clock.now, "approval.decided")

    # --- sessions

    @rule(target=sessions)
    def start(self) -> str:
        """Create a session with its run and its root execution."""
        session, root = session_pair()
        _, is_new = self.do(
            self.store.create_session(session, root, owner="cp", events=[NewEvent(type="session.created")])
        )
        assert is_new
        self.model.record(session.run_id, self.clock.now, "session.created")
        self.model.create(root, self.clock.now)
        self.model.sessions[session.id] = Session(session.run_id, root.id)
        return session.id

    @rule(target=executions, session=sessions)
    def call_tool(self, session: str) -> str:
        """Create a tool execution of a session: it has live priority and the session's share."""
        known = self.model.sessions.get(session)
        if known is None:
            return new_id("exe")
        new = call(run_id=known.run_id, parent_id=known.root_id, session_id=session, kind="tool")
        self.do(self.store.create_execution(new))
        self.model.create(new, self.clock.now)
        return new.id

    @rule(session=sessions, stale=st.booleans(), state=st.sampled_from(["connecting", "live", "ended"]))
    def update(self, session: str, stale: bool, state: Any) -> None:
        """Only the owner changes a session; `ended` is final, keeps its first reason, and ends the root."""
        known = self.model.sessions.get(session)
        if known is None:
            assert self.do(self.store.get_session(session)) is None
            return
        reason = state if state == "ended" else None
        stored = self.do(
            self.store.update_session(
                session,
                epoch=known.epoch - stale,
                state=state,
                end_reason=reason,
                events=[NewEvent(type="session.state")],
            )
        )
        assert (stored is not None) == (not stale)
        if stored is None:
            return
        known.state = "ended" if known.state == "ended" else state
        known.reason = known.reason or reason
        self.model.record(known.run_id, self.clock.now, "session.state")
        root = self.model.rows[known.root_id]
        if known.state == "ended" and root.status in OPEN:
            self.do(self.store.complete_execution(known.root_id, attempt=None, status="succeeded"))
            self.model.close(root, "succeeded", self.clock.now)

    @rule(session=sessions)
    def take(self, session: str) -> None:
        """A takeover increments the epoch of a session that has not ended."""
        known = self.model.sessions.get(session)
        stored = self.do(self.store.take_session(session, owner="other"))
        assert (stored is not None) == (known is not None and known.state != "ended")
        if known is not None and stored is not None:
            known.epoch += 1

    @rule(session=sessions, stale=st.booleans(), count=st.integers(0, 3))
    def append(self, session: str, stale: bool, count: int) -> None:
        """The owner appends events; a former owner appends none."""
        known = self.model.sessions.get(session)
        if known is None:
            return
        events = [NewEvent(type="note", body={"n": n}) for n in range(count)]
        rows = self.do(self.store.append_events(known.run_id, events, session_id=session, epoch=known.epoch - stale))
        assert len(rows) == (0 if stale else count)
        self.model.record(known.run_id, self.clock.now, *[row.type for row in rows])

    # --- keys

    @rule(name=st.sampled_from("ab"), body=st.sampled_from([b"1", b"2"]), answer=st.sampled_from([None, {"n": 1}]))
    def save_response(self, name: str, body: bytes, answer: Any) -> None:
        """A key is claimed, answered once, refused for another body, and expires after a day."""
        known = self.model.keys.get(name)
        if known is not None and known.at < self.clock.now - DAY:
            known = None
        try:
            got = self.do(self.store.save_response(key(name, body), response=answer))
        except InvalidInput:
            assert known is not None
            assert known.body != body
        except Conflict:
            assert known is not None
            assert (known.body, known.response, answer) == (body, None, None)
        else:
            if known is None:
                known = self.model.keys[name] = Key(body, None, self.clock.now)
            assert known.body == body
            known.response = known.response or answer
            assert got == known.response

    # --- webhooks

    @initialize(wanted=st.booleans())
    def subscribe_first(self, wanted: bool) -> None:
        """In half of the runs there is a webhook from the beginning."""
        if wanted:
            self.subscribe()

    @precondition(lambda self: self.model.hook is None)
    @rule()
    def subscribe(self) -> None:
        """Add a webhook for all events of executions."""
        hook = Webhook(id=new_id("whk"), url="https://x/", events=("execution.*",), secret="s", created_at=1.0)
        self.do(self.store.add_webhook(hook))
        self.model.hook = hook.id

    @rule(fate=st.sampled_from(["arrives", "dies", "later"]))
    def deliver(self, fate: str) -> None:
        """A due delivery belongs to a recorded event; it is delivered, dead, or postponed."""
        now = self.clock.now
        for delivery, _, event in self.do(self.store.due_deliveries(now=now, limit=3)):
            where = (delivery.run_id, delivery.seq)
            assert where in self.model.pending
            assert self.model.logs[event.run_id][event.seq - 1] == event.type
            if fate == "arrives":
                self.do(self.store.record_delivered(delivery.id, "204"))
            else:
                self.do(
                    self.store.record_not_delivered(delivery.id, "500", not_before=now if fate == "later" else None)
                )
            if fate != "later":
                self.model.pending.discard(where)
            if fate == "dies":
                self.model.dead.add(where)

    @precondition(lambda self: self.model.hook is not None)
    @rule(release_key=st.booleans())
    def redrive(self, release_key: bool) -> None:
        """Redrive a dead delivery, or delete the webhook with all its deliveries."""
        assert self.model.hook is not None
        if release_key:
            assert self.do(self.store.remove_webhook(self.model.hook))
            self.model.hook = None
            self.model.pending.clear()
        else:
            assert self.do(self.store.redrive(self.model.hook)) == len(self.model.dead)
            self.model.pending |= self.model.dead
        self.model.dead.clear()

    # --- time

    @rule(seconds=st.sampled_from([1.0, 40.0, 2 * DAY]))
    def wait(self, seconds: float) -> None:
        """Advance the clock."""
        self.clock.now += seconds

    @rule(rows=st.sampled_from([1, 500]), later=st.booleans())
    def prune(self, rows: int, later: bool) -> None:
        """Exactly the ended runs are pruned, completely."""
        self.clock.now += 2 * DAY if later else 0.0
        before = self.clock.now - DAY
        self.do(issue_all(self.store))
        page = self.do(self.store.ended_runs(before=before))
        assert {run.run_id for run in page.runs} == self.model.prunable(before)
        for run in page.runs:
            assert run.events == len(self.model.logs[run.run_id])
            while self.do(self.store.prune_run(run.run_id, before=before, rows=rows)):
                assert self.do(self.store.read_events(run.run_id)) == []
            self.model.prune(run.run_id)
            self.runs = [new_id("run") if one == run.run_id else one for one in self.runs]
        self.do(self.store.compact())

    @rule()
    def restart(self) -> None:
        """Close and open the store; claimed keys without a response are free again."""
        self.do(self.store.close())
        self.model.keys = {name: known for name, known in self.model.keys.items() if known.response is not None}
        self.store = self._opened()

    # --- what holds at every moment

    @invariant()
    def rows_are_as_modelled(self) -> None:
        """Lists have every row, in order, without large values; no execution ends twice."""
        rows = self.model.rows.values()
        for run_id in self.model.logs:
            listed = self.do(self.store.list_executions(run_id, limit=999))
            mine = [row for row in rows if row.new.run_id == run_id]
            assert [row.id for row in listed] == [row.new.id for row in mine]
            assert all(row.matches(stored) for row, stored in zip(mine, listed, strict=True))
        still = self.do(self.store.open_executions())
        assert [row.id for row in still] == [row.new.id for row in rows if row.status in OPEN]
        assert all(row.endings == (row.status not in OPEN) for row in rows)

    @invariant()
    def queues_are_as_modelled(self) -> None:
        """The queue has the modelled order, and `next_start` the modelled time."""
        now, waiting = self.clock.now, self.model.queued()
        queued = self.do(self.store.queued_executions("node", now=now, limit=999))
        assert [row.id for row in queued] == [row.new.id for row in waiting if (row.not_before or 0) <= now]
        starts = [row.not_before for row in waiting if row.not_before is not None and row.not_before > now]
        assert self.do(self.store.next_start("node", after=now)) == min(starts, default=None)

    @invariant()
    def logs_are_whole(self) -> None:
        """Logs are numbered without gaps, have the modelled events and valid leaves, and all were announced."""
        for run_id, types in self.model.logs.items():
            rows = self.do(self.store.read_events(run_id, limit=9999))
            assert [(row.seq, row.type) for row in rows] == list(enumerate(types, start=1))
            assert all(is_intact(row.entry, row.body, row.salt, row.leaf) for row in rows)
            assert all(json.loads(row.canonical)["run_id"] == run_id for row in rows)
            assert [row for row in self.seen if row.run_id == run_id] == rows

    @invariant()
    def the_rest_is_as_modelled(self) -> None:
        """Sessions, approvals, deliveries, records of pruned runs, and payloads match the model."""
        sessions = self.do(self.store.list_sessions(limit=999))
        assert {row.id: (row.state, row.epoch, row.end_reason) for row in sessions} == {
            name: (known.state, known.epoch, known.reason) for name, known in self.model.sessions.items()
        }
        asked = self.do(self.store.list_approvals(status="pending", limit=999))
        assert {row.id for row in asked} == {row.approval for row in self.model.rows.values() if row.approval}
        if self.model.hook is not None:
            for status, there in (("pending", self.model.pending), ("dead", self.model.dead)):
                rows = self.do(self.store.list_deliveries(self.model.hook, status=status, limit=999))  # type: ignore[arg-type]
                assert {(row.run_id, row.seq) for row in rows} == there
        large = {v["text"] for row in self.model.rows.values() for v in row.values().values() if is_large(v)}
        stats = self.do(self.store.stats())
        assert (stats.payloads, stats.executions, stats.pruned_runs) == (
            len(large),
            len(self.model.rows),
            len(self.model.pruned),
        )


def test_the_store_matches_the_model(opens: Opened) -> None:
    """No sequence of operations makes the store and the model differ."""
    run_state_machine_as_test(
        partial(StoreMachine, opens.make),
        settings=settings(max_examples=15, stateful_step_count=50, deadline=None),
    )
