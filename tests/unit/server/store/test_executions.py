"""Executions and event logs in every store: writes are durable, events are numbered, and nothing happens twice."""

from __future__ import annotations

import asyncio
import json

import pytest
from msgspec.structs import replace

from agentfield.errors import InvalidInput, NotFound, Unavailable
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import NewEvent
from support.server.log_entries import is_intact
from support.server.store import Opened, call, key


async def test_execution_goes_from_queue_to_result(store: Store) -> None:
    """Create, lease, accept and complete: each step is visible to the next read and records its event."""
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


async def test_acceptance_can_be_recorded_with_the_completion(store: Store) -> None:
    """A short function is recorded as started with its completion, and not twice if it was accepted before."""
    quick, slow = call(), call()
    for new in (quick, slow):
        await store.create_execution(new, lease_to="i1", lease_until=5.0)
    assert await store.complete_execution(quick.id, attempt=2, epoch=1, status="succeeded", entered=0.0) is None
    await store.accept_execution(slow.id, attempt=1, epoch=1)
    for new in (quick, slow):
        done = await store.complete_execution(new.id, attempt=1, epoch=1, status="succeeded", entered=0.0)
        assert done is not None
        assert (done.accepted, done.started_at) == (True, 1_800_000_000.0)
        assert await store.get_execution(new.id) == done
        events = await store.read_events(new.run_id)
        assert [event.type for event in events] == ["execution.created", "execution.started", "execution.ended"]
    first, second = [json.loads((await store.read_events(new.run_id))[1].canonical)["body"] for new in (quick, slow)]
    assert first == {**second, "entered_at": 1_800_000_000.0}


async def test_late_acceptance_has_the_real_start_time(opens: Opened) -> None:
    """The start of such an execution is its end minus its duration, but not before it was created."""
    clock, times = opens.clock, []
    async with opens() as store:
        for seconds in (0.25, 5.0):
            new = call()
            await store.create_execution(new, lease_to="i1", lease_until=5.0)
            clock.now += 1.0
            done = await store.complete_execution(new.id, attempt=1, epoch=1, status="succeeded", entered=seconds)
            assert done is not None
            assert done.started_at is not None
            times.append(clock.now - done.started_at)
            started = json.loads((await store.read_events(new.run_id))[1].canonical)
            assert (started["body"]["entered_at"], started["at"]) == (done.started_at, clock.now)
    assert times == [0.25, 1.0]


async def test_create_can_lease_in_the_same_transaction(store: Store) -> None:
    """With a lease owner given, the execution is created running, in its first attempt."""
    created, _ = await store.create_execution(call(), lease_to="i1", lease_until=5.0)
    assert (created.status, created.attempt, created.lease_owner, created.lease_until) == ("running", 1, "i1", 5.0)
    assert await store.renew_leases("i1", until=50.0) == 1
    assert await store.renew_leases("i2", until=50.0) == 0
    assert (await store.open_executions(lease_owner="i1"))[0].lease_until == 50.0


async def test_history_returns_retries_and_approvals(store: Store) -> None:
    """`history` returns retries, returns to the queue, approval requests and decisions of the given executions, in order."""
    first, second, other = call(), call(), call()
    await store.create_execution(first)
    for new in (second, other):
        await store.create_execution(replace(new, run_id=first.run_id))
    wanted = ("execution.retrying", "execution.returned", "approval.requested", "approval.decided")
    kinds = (wanted[0], "something.else", *wanted[1:3], "execution.progress", wanted[3])
    for new in (first, other, second):
        await store.append_events(first.run_id, [NewEvent(type=kind, execution_id=new.id) for kind in kinds])
    told = await store.history(first.run_id, [second.id, first.id, "exe_none"])
    assert [(event.execution_id, event.type) for event in told] == [
        (new.id, kind) for new in (first, second) for kind in wanted
    ]
    assert await store.history("run_none", [first.id]) == []


async def test_requeue_ends_the_attempt(store: Store) -> None:
    """After a requeue the old attempt can neither complete nor be accepted; the next one has the next number."""
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


async def test_requeue_of_a_never_started_attempt_loses_to_acceptance(store: Store) -> None:
    """A requeue on the condition that the function never started fails once its acceptance is stored."""
    new = call()
    await store.create_execution(new, lease_to="i1", lease_until=5.0)
    assert await store.accept_execution(new.id, attempt=1, epoch=1)
    assert not await store.requeue_execution(new.id, attempt=1, epoch=1, entered=False)
    assert [(row.status, row.attempt) for row in await store.open_executions()] == [("running", 1)]


async def test_an_attempt_that_never_started_does_not_count(store: Store) -> None:
    """A requeue before the function was accepted allows one more attempt."""
    new = call()
    await store.create_execution(new, lease_to="i1", lease_until=5.0)
    await store.requeue_execution(new.id, attempt=1, epoch=1)
    assert [row.max_attempts for row in await store.open_executions()] == [2]


async def test_queue_order_and_not_before(store: Store) -> None:
    """The queue of a node is ordered by priority, then age, and omits executions that may not start yet."""
    first, second, urgent, other = call(), call(), call(priority=5), call(target="other.fn")
    for new in (first, second, urgent, other):
        await store.create_execution(new)
    later = call()
    await store.create_execution(later, lease_to="i", lease_until=1.0)
    await store.requeue_execution(later.id, attempt=1, epoch=1, not_before=100.0)
    queued = await store.queued_executions("node", now=50.0, limit=10)
    assert [row.id for row in queued] == [urgent.id, first.id, second.id]
    assert [row.id for row in await store.queued_executions("node", now=100.0, limit=10)][-1] == later.id


async def test_same_operation_is_stored_once(store: Store) -> None:
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


async def test_idempotency_keys_expire_after_a_day(opens: Opened) -> None:
    """After 24 hours the same key may be used for another request."""
    clock = opens.clock
    async with opens() as store:
        first, _ = await store.create_execution(call(idempotency=key()))
        clock.now += 24 * 3600 + 1
        second, is_new = await store.create_execution(call(idempotency=key(body=b"2")))
        assert is_new
        assert second.id != first.id


async def test_a_parent_of_another_run_is_refused(store: Store) -> None:
    """A parent must exist and belong to the same run; a refused execution leaves no row."""
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


async def test_events_are_numbered_without_gaps_and_hash_to_their_leaves(opens: Opened) -> None:
    """With concurrent writers seq is 1, 2, 3 …, the canonical bytes hash to the leaf, and all are announced."""
    seen = opens.seen
    async with opens() as store:
        new = call()
        await store.create_execution(new)
        async with asyncio.TaskGroup() as group:
            for n in range(50):
                group.create_task(store.append_events(new.run_id, [NewEvent(type="t", body={"n": n})] * 2))
        events = await store.read_events(new.run_id)
    assert [event.seq for event in events] == list(range(1, 102))
    assert all(is_intact(event.entry, event.body, event.salt, event.leaf) for event in events)
    assert all(json.loads(event.canonical)["seq"] == event.seq for event in events)
    assert seen == events


async def test_a_failing_operation_does_not_fail_its_batch(store: Store) -> None:
    """Of several operations in one commit, one that fails leaves the others and the numbering untouched."""
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


async def test_rows_survive_a_restart(opens: Opened) -> None:
    """What was written before `close` is read after `open`."""
    new = call()
    async with opens() as store:
        await store.create_execution(new, lease_to="i1", lease_until=5.0)
        before = await store.get_execution(new.id)
    async with opens() as store:
        assert await store.get_execution(new.id) == before
        await store.append_events(new.run_id, [NewEvent(type="t")])
        assert [event.seq for event in await store.read_events(new.run_id)] == [1, 2]


async def test_a_closed_store_refuses_calls(opens: Opened) -> None:
    """After `close` a call raises instead of being lost; closing again is allowed."""
    async with opens() as store:
        pass
    await store.close()
    with pytest.raises(Unavailable):
        await store.create_execution(call())
    with pytest.raises(Unavailable):
        await store.get_execution("exe_1")


async def test_a_cancelled_caller_does_not_affect_other_writes(store: Store) -> None:
    """A caller that is cancelled while its write is queued leaves the other writes alone."""
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


async def test_lists_read_no_statement_and_no_proof(store: Store) -> None:
    """A list of executions omits what proves their results; the execution itself has it."""
    new = call()
    await store.create_execution(new, lease_to="node_1", lease_until=1.0)
    await store.complete_execution(new.id, attempt=1, status="succeeded", statement="{}", proof="{}")
    [listed] = await store.list_executions(new.run_id)
    assert (listed.statement, listed.proof) == (None, None)
    shown = await store.get_execution(new.id)
    assert shown is not None
    assert (shown.statement, shown.proof) == ("{}", "{}")
