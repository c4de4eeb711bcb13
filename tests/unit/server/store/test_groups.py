"""Operations of one commit are executed in groups, with the same outcome as one after the other."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agentfield.errors import InvalidInput
from agentfield_server.store import operations as op
from agentfield_server.store.records import LIVE_PRIORITY, Approval, EventRow, Execution, NewEvent, Webhook
from agentfield_server.store.sqlite.operations.groups import execute
from agentfield_server.store.sqlite.schema import LARGE, digest_key
from agentfield_server.store.sqlite.store import SqliteStore
from agentfield_server.store.sqlite.writer import Transaction
from support.server.log_entries import is_intact
from support.server.store import Clock, call, key, session_pair
from support.waiting import until

NOW = 1_800_000_000.0
RUNS = ["run_a", "run_b", "run_c", "run_new"]
LEASED = [f"exe_leased_{n}" for n in range(12)]
WAITING = "exe_waiting"
QUEUED = [f"exe_queued_{n}" for n in range(2)]
CREATED = [f"exe_created_{n}" for n in range(16)]
EXECUTIONS = [*LEASED, WAITING, *QUEUED, *CREATED[:3], "exe_unknown"]
ALONE = ["requeue", "suspend"]
TOGETHER = ["accept", "accept", "progress", "complete", "complete", "complete", "cancel", "lease"]
TABLES = {
    "executions": ["input_payload", "output_payload", "input_salt", "output_salt"],
    "runs": [],
    "events": ["id", "salt", "entry", "leaf"],
    "approvals": ["id"],
    "deliveries": ["id"],
    "idempotency": ["body_digest"],
    "payloads": ["digest"],
    "sessions": [],
}
"""Every table with the columns that differ between two equal stores: random ids, salts and keyed digests."""

SESSION, ROOT = session_pair(id="ses_1", run_id="run_c")
ROOT = replace(ROOT, id="exe_root", run_id="run_c", session_id="ses_1")

VALUES = st.sampled_from([None, 1, {"n": 1}, {"text": "x" * (LARGE + 1)}, float("nan")])
EVENTS = st.lists(
    st.sampled_from([NewEvent(type="note", body={"n": 1}), NewEvent(type="text", body={"x": "\ud800"})]), max_size=2
).map(tuple)
GOOD_EVENTS = EVENTS.map(lambda events: tuple(event for event in events if event.type == "note"))
CURRENT = st.sampled_from([(1, 1), (1, 1), (1, 1), (2, 2), (1, 0)])


@st.composite
def creations(draw: st.DrawFn, *, alone: bool) -> op.Operation[Any]:
    """Return a creation, which may repeat an id, an `op_id` or a key, and name a parent of another run.

    With `alone` it may be large or unrepresentable, and have a parent of another run, so that it is refused.
    """
    status = draw(st.sampled_from(["queued", "running"]))
    new = call(
        id=draw(st.sampled_from(CREATED)),
        run_id=draw(st.sampled_from(RUNS)),
        kind=draw(st.sampled_from(["call", "turn"])),
        status=status,
        input=draw(VALUES) if alone else {"n": 1},
        parent_id=draw(st.sampled_from([None, *EXECUTIONS])) if alone else None,
        priority=draw(st.sampled_from([0, 0, 1, LIVE_PRIORITY])),
        share=draw(st.sampled_from([None, "a", "b"])),
        op_id=draw(st.sampled_from([None, None, "op_1", "op_2"])),
        idempotency=draw(st.sampled_from([None, None, key("k", b"1"), key("k", b"2"), key("l")])),
        events=draw(GOOD_EVENTS),
    )
    leased = draw(st.booleans())
    return op.CreateExecution(
        new,
        lease_to="node_1" if leased else None,
        lease_until=NOW + 9 if leased else None,
        max_queued=draw(st.sampled_from([None, 4, 9])) if alone else None,
    )


@st.composite
def changes(draw: st.DrawFn, *, alone: bool) -> op.Operation[Any]:
    """Return a change of an execution, which may be unknown, closed, or in another attempt."""
    name, (attempt, epoch) = draw(st.sampled_from(EXECUTIONS)), draw(CURRENT)
    values, events = (VALUES, EVENTS) if alone else (st.just({"n": 1}), GOOD_EVENTS)
    match draw(st.sampled_from(TOGETHER + ALONE if alone else TOGETHER)):
        case "accept":
            return op.AcceptExecution(name, attempt, epoch, draw(st.sampled_from([None, 0.5])))
        case "progress":
            return op.RecordProgress(name, attempt, epoch, draw(values))
        case "lease":
            return op.LeaseExecution(name, "node_2", NOW + 9)
        case "requeue":
            return op.RequeueExecution(
                name, attempt, epoch, entered=True, counts=False, not_before=None, anew=False, events=draw(events)
            )
        case "suspend":
            return op.SuspendExecution(name, attempt, epoch, "key", "title", None, 60.0)
        case "cancel":
            return completion(name, None, None, status="cancelled", problem={"code": "cancelled"})
        case _:
            return completion(
                name,
                attempt,
                epoch,
                output=draw(values),
                entered=draw(st.sampled_from([None, 0.25])),
                events=draw(events),
            )


@st.composite
def appends(draw: st.DrawFn, *, alone: bool) -> op.Operation[Any]:
    """Return events for a run, fenced by an owner or not, or a change of the session."""
    epoch = draw(st.sampled_from([None, 1, 1, 2]))
    if epoch is not None and draw(st.booleans()):
        return session_update(epoch, draw(EVENTS if alone else GOOD_EVENTS))
    run_id = draw(st.sampled_from(RUNS if alone else RUNS[:3]))
    return op.AppendEvents(run_id, draw(EVENTS if alone else GOOD_EVENTS), None if epoch is None else SESSION.id, epoch)


def completion(execution_id: str, attempt: int | None, epoch: int | None, **values: Any) -> op.CompleteExecution:
    """Return a completion."""
    given = {"status": "succeeded", "output": None, "problem": None, "entered": None, "events": (), "known": None}
    signed = dict.fromkeys(("input_digest", "output_digest", "signature", "signer", "statement", "proof"))
    return op.CompleteExecution(
        execution_id=execution_id, attempt=attempt, epoch=epoch, **{**given, **signed, **values}
    )


def session_update(epoch: int, events: Sequence[NewEvent]) -> op.UpdateSession:
    """Return a change of the session."""
    unchanged = dict.fromkeys(("state", "end_reason", "end_detail", "call_ref", "handler_state", "handler_epoch"))
    return op.UpdateSession(session_id=SESSION.id, epoch=epoch, turns=3, events=events, **unchanged)


def mixed(*, alone: bool) -> st.SearchStrategy[op.Operation[Any]]:
    """Return operations; with `alone` also those that have a group of their own, and those that are refused."""
    return creations(alone=alone) | changes(alone=alone) | changes(alone=alone) | appends(alone=alone)


OPERATIONS = st.lists(mixed(alone=True), min_size=2, max_size=64) | st.lists(
    mixed(alone=False), min_size=2, max_size=64
)
OTHERS = st.lists(changes(alone=False) | appends(alone=True), max_size=3)


class Store:
    """A store with the rows that the operations change, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.db"
        self.seen: list[EventRow] = []
        self.store = SqliteStore(self.path, on_commit=self.seen.extend, clock=Clock(NOW))

    async def prepare(self, *, webhook: bool) -> None:
        """Open the store and write the rows."""
        store = self.store
        await store.open()
        assert store._writer is not None
        store._writer._connection.pragma("synchronous", 0)  # faster; no power is cut here
        if webhook:
            await store.add_webhook(Webhook(id="whk_1", url="https://x/", events=("*",), secret="s", created_at=1.0))
        await store.create_session(SESSION, ROOT, owner="cp")
        news = [call(id=name, run_id=RUNS[n % 2], input={"n": n}) for n, name in enumerate([*LEASED, WAITING])]
        await asyncio.gather(*(store.create_execution(new, lease_to="node_1", lease_until=NOW + 9) for new in news))
        await store.suspend_execution(WAITING, attempt=1, epoch=1, key="k", title="t", details=None, expires=60.0)
        for name in QUEUED:
            await store.create_execution(call(id=name, run_id="run_a"))

    async def one_by_one(
        self, others: Sequence[op.Operation[Any]], operations: Sequence[op.Operation[Any]]
    ) -> list[Any]:
        """Execute each operation in a commit of its own, after those of another writer."""
        self.write_outside(others)()
        return [await outcome(self.store._write(operation)) for operation in operations]

    async def in_one_commit(
        self, others: Sequence[op.Operation[Any]], operations: Sequence[op.Operation[Any]]
    ) -> list[Any]:
        """Execute all operations in one commit, which waits for the transaction of another writer."""
        commit = self.write_outside(others)
        # the writer thread takes this one and waits for the lock; what is submitted meanwhile shares the next commit
        first = asyncio.ensure_future(self.store._write(op.RenewLeases("nobody", NOW)))
        writer = self.store._writer
        assert writer is not None
        await until(lambda: writer._submitted and writer._jobs.empty())
        rest = [asyncio.ensure_future(outcome(self.store._write(operation))) for operation in operations]
        await until(lambda: writer._jobs.qsize() == len(operations))
        commit()
        await first
        return await asyncio.gather(*rest)

    def write_outside(self, operations: Sequence[op.Operation[Any]]) -> Callable[[], None]:
        """Execute operations on a connection of another writer; return what commits them."""
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(5000)
        connection.execute("BEGIN IMMEDIATE")
        for operation in operations:
            connection.execute("SAVEPOINT one")
            try:
                execute(Transaction(connection, NOW, digest_key(connection)), [operation])
            except Exception:  # noqa: BLE001 -- refused: the other writer goes on without it
                connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")

        def commit() -> None:
            connection.execute("COMMIT")
            connection.close()

        return commit

    def content(self) -> dict[str, list[dict[str, Any]]]:
        """Return all rows, without what is random."""
        with closing(apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
            found = {name: rows_of(connection, name) for name in TABLES}
        for name, rows in found.items():
            for row in rows:
                for column in TABLES[name]:
                    row[column] = row[column] is None
                if name == "events":
                    row["body"] = re.sub(rb"apr_[0-9a-f-]+", b"apr", row["body"])
        return found


def rows_of(connection: apsw.Connection, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table by column name."""
    names = [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})").fetchall()]
    return [dict(zip(names, row, strict=True)) for row in connection.execute(f"SELECT * FROM {table}").fetchall()]


async def outcome(work: Any) -> Any:
    """Return what an operation returned, without random ids, or its error."""
    try:
        result = await work
    except Exception as error:  # noqa: BLE001 -- compared with the error of the other store
        return type(error), getattr(error, "code", None)
    if isinstance(result, list):
        return [(row.run_id, row.seq, row.type, row.at, row.execution_id, row.session_id, row.body) for row in result]
    if isinstance(result, Approval):
        return replace(result, id="apr")
    if isinstance(result, tuple):
        return without_salts(result[0]), result[1]
    return without_salts(result) if isinstance(result, Execution) else result


def without_salts(row: Execution) -> Execution:
    """Return an execution without its random salts."""
    return replace(row, input_salt=None, output_salt=None)


@settings(
    max_examples=40, deadline=None, phases=[Phase.reuse, Phase.generate]
)  # an example opens two stores: to shrink one takes minutes
@given(operations=OPERATIONS, others=OTHERS, webhook=st.booleans(), known=st.booleans())
def test_a_commit_equals_its_operations_one_by_one(
    operations: list[op.Operation[Any]], others: list[op.Operation[Any]], webhook: bool, known: bool
) -> None:
    """2 to 64 operations, mostly on the same rows, have the outcomes and rows of one-by-one execution, also after a second writer."""

    async def compare() -> None:
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            single, grouped = Store(Path(one)), Store(Path(two))
            for store in (single, grouped):
                await store.prepare(webhook=webhook)
            rows = {row.id: row for name in LEASED if (row := await grouped.store.get_execution(name))}
            given = [
                replace(each, known=rows.get(each.execution_id))
                if known and isinstance(each, op.CompleteExecution)
                else each
                for each in operations
            ]
            expected = await single.one_by_one(others, operations)
            found = await grouped.in_one_commit(others, given)
            for operation, got, wanted in zip(operations, found, expected, strict=True):
                assert got == wanted, operation
            assert grouped.content() == single.content()
            for store in (single, grouped):
                for run_id in RUNS:
                    log = await store.store.read_events(run_id, limit=9999)
                    assert [row.seq for row in log] == list(range(1, len(log) + 1))
                    assert all(is_intact(row.entry, row.body, row.salt, row.leaf) for row in log)
                await store.store.close()
            told = [[(row.run_id, row.seq) for row in store.seen] for store in (single, grouped)]
            assert sorted(told[0]) == sorted(told[1])

    asyncio.run(compare())


def test_a_group_ends_where_operations_meet() -> None:
    """Operations on one execution, op_id or key are in different groups; those on one run, or that join queues, share one."""
    first, second = call(id="exe_1", run_id="run_1", op_id="op"), call(id="exe_2", run_id="run_1")
    child = call(id="exe_3", run_id="run_1", parent_id="exe_1")
    again = call(id="exe_4", op_id="op")
    creations = [op.CreateExecution(new, lease_to="i") for new in (first, second, child, again)]
    queued = [op.CreateExecution(call(id=f"exe_{n}")) for n in (5, 6)]
    lease, cancel = op.LeaseExecution("exe_7", "i", 1.0), completion("exe_8", None, None)
    alone = op.RenewLeases("i", 1.0)
    append = op.AppendEvents("run_1", (), None, None)
    assert list(op.plan([*creations, append])) == [(0, 2), (2, 5)]
    assert list(op.plan([creations[0], completion("exe_1", 1, 1), completion("exe_2", 1, 1)])) == [(0, 1), (1, 3)]
    assert list(op.plan([completion("exe_1", 1, 1), creations[2], creations[0]])) == [(0, 2), (2, 3)]
    assert list(op.plan([*queued, append, lease, cancel, queued[0]])) == [(0, 3), (3, 5), (5, 6)]
    assert list(op.plan([append, alone, append, append])) == [(0, 1), (1, 2), (2, 4)]
    assert list(op.plan([])) == []


async def test_a_refused_operation_fails_alone(tmp_path: Path) -> None:
    """One row in the middle of a group that cannot be written takes nobody else with it."""
    store = Store(tmp_path)
    await store.prepare(webhook=False)
    news = [call(id=f"exe_{n}", run_id="run_a", input=float("nan") if n == 20 else n) for n in range(40)]
    found = await store.in_one_commit([], [op.CreateExecution(new, lease_to="i", lease_until=1.0) for new in news])
    listed = await store.store.list_executions("run_a", limit=99)
    await store.store.close()
    assert [n for n, each in enumerate(found) if each == (InvalidInput, "unrepresentable")] == [20]
    assert [row.id for row in listed if row.id in {new.id for new in news}] == [
        new.id for new in news if new is not news[20]
    ]


async def test_a_full_disk_fails_the_whole_commit(tmp_path: Path) -> None:
    """An error that ends the transaction fails every operation of the commit, and none is done again one by one."""
    store = Store(tmp_path)
    await store.prepare(webhook=False)
    assert store.store._writer is not None
    connection = store.store._writer._connection
    connection.pragma("max_page_count", int(connection.pragma("page_count")) + 4)
    before = store.content()
    found = await store.in_one_commit(
        [], [op.CreateExecution(call(input="x" * 4000), lease_to="i", lease_until=1.0) for _ in range(30)]
    )
    assert {each[1] for each in found} == {"store_full"}
    assert store.content() == before
    connection.pragma("max_page_count", 1_000_000)
    await store.store.append_events("run_a", [NewEvent(type="after")])
    await store.store.close()


@pytest.mark.parametrize("count", [2, 200])
async def test_events_of_one_run_are_numbered_in_the_order_of_submission(tmp_path: Path, count: int) -> None:
    """Calls of one run share a group, and their events are numbered as they were submitted."""
    store = Store(tmp_path)
    await store.prepare(webhook=False)
    news = [call(id=f"exe_{n}", run_id="run_c", parent_id="exe_root") for n in range(count)]
    await store.in_one_commit([], [op.CreateExecution(new, lease_to="i", lease_until=1.0) for new in news])
    log = await store.store.read_events("run_c", limit=9999)
    await store.store.close()
    assert [row.execution_id for row in log[-count:]] == [new.id for new in news]
    assert [row.seq for row in log] == list(range(1, len(log) + 1))
