"""The SQLite store as its users see it: what returns is on disk, numbered, and never done twice."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentfield.errors import Conflict, InvalidInput, NotFound, Unavailable
from agentfield.identity import leaf_hash
from agentfield.ids import new_id
from agentfield_server.store.records import EventRow, IdempotencyKey, NewEvent, NewExecution, NewSession
from agentfield_server.store.sqlite import SqliteStore


class Clock:
    """Time that moves only when told."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(
    path: Path, clock: Clock | None = None, seen: list[EventRow] | None = None
) -> AsyncIterator[SqliteStore]:
    """A store that is open."""
    store = SqliteStore(path, on_commit=(seen if seen is not None else []).extend, clock=clock or Clock())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path / "a.db") as opened_store:
        yield opened_store


def call(**values: Any) -> NewExecution:
    """A call that starts a run of its own."""
    given: dict[str, Any] = {
        "id": new_id("exe"),
        "run_id": new_id("run"),
        "kind": "call",
        "target": "node.fn",
        "input": {"n": 1},
    }
    return NewExecution(**{**given, **values})


def session_pair(**values: Any) -> tuple[NewSession, NewExecution]:
    """A session and its root."""
    session_id, run_id = new_id("ses"), new_id("run")
    given: dict[str, Any] = {
        "id": session_id,
        "run_id": run_id,
        "target": "node.voice",
        "node_id": "node",
        "caller": None,
        "metadata": {},
        "config": {"model": "m"},
        "declaration_hash": "u0",
        "principal": "operator",
    }
    root = call(run_id=run_id, session_id=session_id, kind="session", target="node.voice", status="running")
    return NewSession(**{**given, **values}), root


def key(name: str = "k", body: bytes = b"1") -> IdempotencyKey:
    """An idempotency key."""
    return IdempotencyKey(principal="operator", route="execute", target="node.fn", key=name, body_digest=body)


async def test_execution_goes_from_queue_to_result(store: SqliteStore) -> None:
    """Queue, lease, accept and complete: each step is visible to the next read, and leaves its event."""
    new = call()
    created, is_new = await store.create_execution(new)
    assert (created.status, created.attempt, is_new) == ("queued", 0, True)
    leased = await store.lease_execution(new.id, owner="i1", until=9.0)
    assert leased is not None
    assert (leased.status, leased.attempt, leased.lease_epoch, leased.accepted) == ("running", 1, 1, False)
    assert await store.lease_execution(new.id, owner="i2", until=9.0) is None
    assert await store.accept_execution(new.id, attempt=1, epoch=1)
    assert not await store.accept_execution(new.id, attempt=1, epoch=1)
    done = await store.complete_execution(new.id, attempt=1, epoch=1, status="succeeded", output={"a": None})
    assert done is not None
    assert (done.status, done.output, done.ended_at) == ("succeeded", {"a": None}, 1_800_000_000.0)
    assert await store.get_execution(new.id) == done
    assert await store.complete_execution(new.id, attempt=1, epoch=1, status="failed") is None
    events = await store.read_events(new.run_id)
    assert [event.type for event in events] == ["execution.created", "execution.started", "execution.ended"]
    started = json.loads(events[1].canonical)
    about = {"kind": "call", "target": "node.fn", "node_id": "node", "instance_id": "i1"}
    assert started["body"] == {"attempt": 1, **about}


async def test_lease_in_the_insert(store: SqliteStore) -> None:
    """With an owner at hand the execution is created leased, in its first attempt."""
    created, _ = await store.create_execution(call(), lease_to="i1", lease_until=5.0)
    assert (created.status, created.attempt, created.lease_owner, created.lease_until) == ("running", 1, "i1", 5.0)
    assert await store.renew_leases("i1", until=50.0) == 1
    assert await store.renew_leases("i2", until=50.0) == 0
    assert (await store.open_executions(lease_owner="i1"))[0].lease_until == 50.0


async def test_requeue_gives_up_the_attempt(store: SqliteStore) -> None:
    """After a requeue the old attempt can neither complete nor be accepted, and the next one counts on."""
    new = call()
    await store.create_execution(new, lease_to="i1", lease_until=5.0)
    assert await store.accept_execution(new.id, attempt=1, epoch=1)
    assert await store.requeue_execution(new.id, attempt=1, epoch=1)
    assert not await store.requeue_execution(new.id, attempt=1, epoch=1)
    assert await store.complete_execution(new.id, attempt=1, epoch=1, status="succeeded") is None
    leased = await store.lease_execution(new.id, owner="i2", until=5.0)
    assert leased is not None
    assert (leased.attempt, leased.lease_epoch, leased.max_attempts) == (2, 3, 1)
    assert await store.complete_execution(new.id, attempt=1, epoch=1, status="succeeded") is None
    assert await store.complete_execution(new.id, attempt=2, epoch=3, status="succeeded") is not None


async def test_an_attempt_that_never_began_does_not_count(store: SqliteStore) -> None:
    """A requeue before the function was entered allows one attempt more."""
    new = call()
    await store.create_execution(new, lease_to="i1", lease_until=5.0)
    await store.requeue_execution(new.id, attempt=1, epoch=1)
    assert [row.max_attempts for row in await store.open_executions()] == [2]


async def test_queue_order_and_not_before(store: SqliteStore) -> None:
    """The queue of a node is ordered by priority, then age, and leaves out what may not start yet."""
    first, second, urgent, other = call(), call(), call(priority=5), call(target="other.fn")
    for new in (first, second, urgent, other):
        await store.create_execution(new)
    later = call()
    await store.create_execution(later, lease_to="i", lease_until=1.0)
    await store.requeue_execution(later.id, attempt=1, epoch=1, not_before=100.0)
    queued = await store.queued_executions("node", now=50.0, limit=10)
    assert [row.id for row in queued] == [urgent.id, first.id, second.id]
    assert [row.id for row in await store.queued_executions("node", now=100.0, limit=10)][-1] == later.id


async def test_same_operation_happens_once(store: SqliteStore) -> None:
    """A repeated op_id or idempotency key returns the first execution; another body is refused."""
    new = call(op_id="op_1")
    await store.create_execution(new)
    again, is_new = await store.create_execution(call(op_id="op_1"))
    assert (again.id, is_new) == (new.id, False)
    keyed = call(idempotency=key())
    await store.create_execution(keyed)
    again, is_new = await store.create_execution(call(idempotency=key()))
    assert (again.id, is_new) == (keyed.id, False)
    with pytest.raises(InvalidInput) as refused:
        await store.create_execution(call(idempotency=key(body=b"2")))
    assert refused.value.code == "idempotency_mismatch"


async def test_idempotency_keys_live_for_a_day(tmp_path: Path) -> None:
    """After 24 hours the same key may be used for something else."""
    clock = Clock()
    async with opened(tmp_path / "a.db", clock) as store:
        first, _ = await store.create_execution(call(idempotency=key()))
        clock.now += 24 * 3600 + 1
        second, is_new = await store.create_execution(call(idempotency=key(body=b"2")))
        assert is_new
        assert second.id != first.id


async def test_foreign_parents_are_refused(store: SqliteStore) -> None:
    """A parent must exist and belong to the same run; nothing is left behind by the refusal."""
    parent = call()
    await store.create_execution(parent)
    child = call(run_id=parent.run_id, parent_id=parent.id)
    assert (await store.create_execution(child))[0].parent_id == parent.id
    for wrong in (call(parent_id="exe_nowhere"), call(parent_id=parent.id)):
        with pytest.raises(InvalidInput) as refused:
            await store.create_execution(wrong)
        assert refused.value.code == "foreign_parent"
        assert await store.get_execution(wrong.id) is None
        assert await store.list_executions(wrong.run_id) == []
    assert [row.id for row in await store.list_executions(parent.run_id)] == [parent.id, child.id]
    assert [row.id for row in await store.list_executions(parent.run_id, after=parent.id)] == [child.id]


async def test_events_are_numbered_without_gaps_and_verifiable(tmp_path: Path) -> None:
    """Concurrent writers to one run: seq is 1, 2, 3 …, the canonical bytes hash to the leaf, hints carry them all."""
    seen: list[EventRow] = []
    async with opened(tmp_path / "a.db", seen=seen) as store:
        new = call()
        await store.create_execution(new)
        async with asyncio.TaskGroup() as group:
            for n in range(50):
                group.create_task(store.append_events(new.run_id, [NewEvent(type="t", body={"n": n})] * 2))
        events = await store.read_events(new.run_id)
    assert [event.seq for event in events] == list(range(1, 102))
    assert all(leaf_hash(event.canonical) == event.leaf for event in events)
    assert all(json.loads(event.canonical)["seq"] == event.seq for event in events)
    assert seen == events


async def test_one_bad_row_fails_alone(store: SqliteStore) -> None:
    """In one commit, an operation that fails leaves the others and the numbering untouched."""
    new = call()
    await store.create_execution(new)
    results = await asyncio.gather(
        store.append_events(new.run_id, [NewEvent(type="good")]),
        store.append_events(new.run_id, [NewEvent(type="good"), NewEvent(type="bad", body={"x": float("nan")})]),
        store.append_events("run_nowhere", [NewEvent(type="good")]),
        store.append_events(new.run_id, [NewEvent(type="good")]),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [list, InvalidInput, NotFound, list]
    assert [(event.seq, event.type) for event in await store.read_events(new.run_id, after=1)] == [
        (2, "good"),
        (3, "good"),
    ]


async def test_recorded_events_cannot_be_changed(tmp_path: Path) -> None:
    """Even with the file in hand, rows of the log refuse to be updated or deleted."""
    async with opened(tmp_path / "a.db") as store:
        await store.create_execution(call())
    with apsw.Connection(str(tmp_path / "a.db")) as connection:
        for sql in ("UPDATE events SET type = 'x'", "DELETE FROM events"):
            with pytest.raises(apsw.ConstraintError):
                connection.execute(sql)
    connection.close()


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    """What was written before `close` is read after `open`."""
    new = call()
    async with opened(tmp_path / "a.db") as store:
        await store.create_execution(new, lease_to="i1", lease_until=5.0)
        before = await store.get_execution(new.id)
    async with opened(tmp_path / "a.db") as store:
        assert await store.get_execution(new.id) == before
        await store.append_events(new.run_id, [NewEvent(type="t")])
        assert [event.seq for event in await store.read_events(new.run_id)] == [1, 2]


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """The store belongs to one process; the error names it. After it is closed the next one may have it."""
    async with opened(tmp_path / "a.db"):
        with pytest.raises(Unavailable) as refused:
            async with opened(tmp_path / "a.db"):
                pass
        assert refused.value.code == "store_locked"
        assert refused.value.data["pid"] == os.getpid()
        assert str(os.getpid()) in refused.value.message
    async with opened(tmp_path / "a.db"):
        pass


async def test_nobody_else_may_read_the_files(tmp_path: Path) -> None:
    """All files of the store have mode 0600."""
    async with opened(tmp_path / "a.db") as store:
        await store.create_execution(call())
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path)}
    assert modes == dict.fromkeys(("a.db", "a.db-wal", "a.db-shm", "a.db.lock"), 0o600)


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database of a newer version is not touched."""
    async with opened(tmp_path / "a.db"):
        pass
    connection = apsw.Connection(str(tmp_path / "a.db"))
    connection.pragma("user_version", 999)
    connection.close()
    with pytest.raises(Unavailable) as refused:
        async with opened(tmp_path / "a.db"):
            pass
    assert refused.value.code == "store_newer"


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A typed error names the file."""
    (tmp_path / "a.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(Unavailable) as refused:
        async with opened(tmp_path / "a.db"):
            pass
    assert refused.value.code == "store_unusable"
    assert "a.db" in refused.value.message


async def test_a_full_disk_loses_nothing_that_was_acknowledged(store: SqliteStore, tmp_path: Path) -> None:
    """When the disk is full the write is refused with a reason, and the store works on when there is room again."""
    new = call()
    await store.create_execution(new)
    assert store._writer is not None
    connection = store._writer._connection
    pages = int(connection.pragma("page_count"))
    connection.pragma("max_page_count", pages + 2)
    with pytest.raises(Unavailable) as refused:
        await store.append_events(new.run_id, [NewEvent(type="t", body={"x": "y" * 100_000})])
    assert refused.value.code == "store_full"
    connection.pragma("max_page_count", 1_000_000)
    await store.append_events(new.run_id, [NewEvent(type="after")])
    events = await store.read_events(new.run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].type == "after"


async def test_closed_store_refuses(tmp_path: Path) -> None:
    """After `close` a call is refused, not lost; closing again is fine."""
    async with opened(tmp_path / "a.db") as store:
        pass
    await store.close()
    with pytest.raises(Unavailable):
        await store.create_execution(call())
    with pytest.raises(Unavailable):
        await store.get_execution("exe_1")


async def test_cancelled_callers_do_not_disturb_others(store: SqliteStore) -> None:
    """A caller that goes away while its write is queued leaves the other writes alone."""
    new = call()
    await store.create_execution(new)
    tasks = [asyncio.create_task(store.append_events(new.run_id, [NewEvent(type=str(n))])) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    events = await store.read_events(new.run_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert {str(n) for n in range(1, 20, 2)} <= {event.type for event in events}


# --- sessions


async def test_session_lifecycle(tmp_path: Path) -> None:
    """State, times, reason and counters follow the updates; a reason once set stays."""
    clock = Clock()
    async with opened(tmp_path / "a.db", clock) as store:
        session, root = session_pair()
        row, is_new = await store.create_session(
            session, root, owner="cp1", events=[NewEvent(type="session.created", body={"target": "node.voice"})]
        )
        assert is_new
        assert (row.state, row.epoch, row.owner, row.root_id) == ("created", 1, "cp1", root.id)
        clock.now += 1
        live = await store.update_session(session.id, epoch=1, state="live", call_ref={"call": "c1"}, handler_epoch=1)
        assert live is not None
        assert (live.live_at, live.call_ref, live.handler_epoch) == (clock.now, {"call": "c1"}, 1)
        clock.now += 1
        ended = await store.update_session(
            session.id,
            epoch=1,
            state="ended",
            end_reason="caller_hangup",
            turns=3,
            events=[NewEvent(type="session.state", body={"state": "ended"})],
        )
        assert ended is not None
        assert (ended.state, ended.end_reason, ended.turns, ended.ended_at) == (
            "ended",
            "caller_hangup",
            3,
            clock.now,
        )
        later = await store.update_session(session.id, epoch=1, state="live", end_reason="operator")
        assert later is not None
        assert (later.state, later.end_reason) == ("ended", "caller_hangup")
        assert await store.get_session(session.id) == later
        assert await store.unfinished_sessions() == []
        assert await store.take_session(session.id, owner="cp2") is None
        events = await store.read_events(session.run_id)
    assert [event.type for event in events] == ["session.created", "execution.created", "session.state"]
    assert {event.session_id for event in events} == {session.id}


async def test_a_taken_session_fences_its_old_owner(store: SqliteStore) -> None:
    """After a takeover the old epoch changes nothing and records nothing."""
    session, root = session_pair()
    await store.create_session(session, root, owner="cp1")
    taken = await store.take_session(session.id, owner="cp2")
    assert taken is not None
    assert (taken.epoch, taken.owner) == (2, "cp2")
    assert await store.update_session(session.id, epoch=1, state="live", events=[NewEvent(type="x")]) is None
    assert await store.append_events(session.run_id, [NewEvent(type="x")], session_id=session.id, epoch=1) == []
    fine = await store.append_events(session.run_id, [NewEvent(type="y")], session_id=session.id, epoch=2)
    assert [event.seq for event in fine] == [2]


async def test_sessions_are_listed_newest_first(store: SqliteStore) -> None:
    """Pages of sessions, by state where asked."""
    made = []
    for _ in range(3):
        session, root = session_pair()
        await store.create_session(session, root, owner="cp")
        made.append(session.id)
    await store.update_session(made[1], epoch=1, state="live")
    assert [row.id for row in await store.list_sessions(limit=2)] == [made[2], made[1]]
    assert [row.id for row in await store.list_sessions(before=made[1])] == [made[0]]
    assert [row.id for row in await store.list_sessions(state="live")] == [made[1]]


async def test_starting_twice_with_one_key_is_one_session(store: SqliteStore) -> None:
    """The second start returns the first session, and leaves no second run."""
    session, root = session_pair(idempotency=key())
    await store.create_session(session, root, owner="cp")
    again, again_root = session_pair(idempotency=key())
    row, is_new = await store.create_session(again, again_root, owner="cp")
    assert (row.id, is_new) == (session.id, False)
    assert await store.list_executions(again.run_id) == []


# --- tokens and keys


async def test_tokens_expire_and_codes_are_used_once(store: SqliteStore) -> None:
    """A token counts its uses until it expires or is dropped; a code works once."""
    await store.put_token(b"t", session_id="ses_1", kind="token", expires_at=100.0)
    await store.put_token(b"c", session_id="ses_1", kind="code", expires_at=100.0)
    used: Iterator[int] = count(1)
    for _ in range(2):
        row = await store.use_token(b"t", kind="token", now=50.0)
        assert row is not None
        assert (row.session_id, row.used) == ("ses_1", next(used))
    assert await store.use_token(b"t", kind="code", now=50.0) is None
    assert await store.use_token(b"t", kind="token", now=100.0) is None
    assert await store.use_token(b"c", kind="code", now=50.0, once=True) is not None
    assert await store.use_token(b"c", kind="code", now=50.0, once=True) is None
    await store.drop_tokens("ses_1")
    assert await store.use_token(b"t", kind="token", now=50.0) is None


async def test_a_remembered_response_is_given_again(store: SqliteStore) -> None:
    """The first call claims the key, a second meanwhile conflicts, later ones get the stored response."""
    assert await store.remember(key(), response=None) is None
    with pytest.raises(Conflict) as refused:
        await store.remember(key(), response=None)
    assert refused.value.code == "in_flight"
    await store.remember(key(), response={"status": 202})
    assert await store.remember(key(), response=None) == {"status": 202}
    with pytest.raises(InvalidInput):
        await store.remember(key(body=b"2"), response=None)


async def test_a_failed_first_call_frees_its_key(tmp_path: Path) -> None:
    """A key is free again when it was let go, or when the process that claimed it is gone."""
    async with opened(tmp_path / "a.db") as store:
        await store.remember(key(), response=None)
        await store.forget(key())
        assert await store.remember(key(), response=None) is None
    async with opened(tmp_path / "a.db") as store:
        assert await store.remember(key(), response=None) is None
