"""The queue in every store: order, shares, delays, limits, and what a requeue keeps."""

from __future__ import annotations

import json

import pytest

from agentfield.errors import LimitExceeded
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import LIVE_PRIORITY, NewEvent
from support.server.store import Opened, call


async def order(store: Store, *, now: float = 2e9, without: tuple[str, ...] = ()) -> list[str]:
    """Return the ids of the queue of `node`, in order."""
    return [row.id for row in await store.queued_executions("node", now=now, limit=100, without=without)]


async def test_shares_take_turns(store: Store) -> None:
    """At equal priority the shares take turns, whatever number of executions each has queued."""
    made = {name: [call(share=name[0]) for _ in range(count)] for name, count in {"a": 4, "b": 2, "c": 1}.items()}
    for new in (*made["a"], *made["b"], *made["c"]):
        await store.create_execution(new)
    a, b, c = ([new.id for new in made[name]] for name in "abc")
    assert await order(store) == [a[0], b[0], c[0], a[1], b[1], a[2], a[3]]


async def test_a_returning_share_does_not_catch_up(store: Store) -> None:
    """A share that was idle starts at the current position and gets no extra turns for that time."""
    busy = [call(share="busy") for _ in range(4)]
    for new in busy:
        await store.create_execution(new)
    for new in busy[:2]:
        await store.lease_execution(new.id, owner="i", until=1.0)
    late = [call(share="late") for _ in range(2)]
    for new in late:
        await store.create_execution(new)
    assert await order(store) == [busy[2].id, late[0].id, busy[3].id, late[1].id]


async def test_a_child_has_the_share_of_its_parent(store: Store) -> None:
    """Calls made by an execution take turns within the share of that execution."""
    parent = call(share="a")
    await store.create_execution(parent, lease_to="i", lease_until=1.0)
    children = [call(run_id=parent.run_id, parent_id=parent.id) for _ in range(2)]
    other = call(share="b")
    for new in (*children, other):
        await store.create_execution(new)
    assert await order(store) == [children[0].id, other.id, children[1].id]


async def test_higher_priorities_and_sessions_go_first(store: Store) -> None:
    """A higher priority goes first, and executions of a session have at least `LIVE_PRIORITY`."""
    low, high, live = call(), call(priority=7), call(session_id="ses_1")
    for new in (low, high, live):
        await store.create_execution(new)
    assert await order(store) == [live.id, high.id, low.id]
    row = await store.get_execution(live.id)
    assert row is not None
    assert row.priority == LIVE_PRIORITY


async def test_a_page_omits_excluded_targets_and_other_nodes(store: Store) -> None:
    """A page has executions of one node, up to the limit, without the excluded targets."""
    first, second, third = call(), call(target="node.other"), call()
    for new in (first, second, third, call(target="elsewhere.fn")):
        await store.create_execution(new)
    assert await order(store, without=("node.fn",)) == [second.id]
    (one,) = await store.queued_executions("node", now=2e9, limit=1)
    assert one.id == first.id


async def test_a_delay_does_not_count_against_the_timeout(opens: Opened) -> None:
    """A delayed execution starts at its time, `next_start` returns it, and the deadline counts from there."""
    async with opens() as store:
        now = opens.clock.now
        soon, late = call(delay=5.0, timeout=10.0), call(delay=50.0)
        for new in (late, soon):
            await store.create_execution(new)
        row = await store.get_execution(soon.id)
        assert row is not None
        assert (row.not_before, row.deadline) == (now + 5, now + 15)
        assert await order(store, now=now) == []
        assert await store.next_start("node", after=now) == now + 5
        assert await order(store, now=now + 5) == [soon.id]
        assert await store.next_start("node", after=now + 5) == now + 50
        assert await store.next_start("node", after=now + 50) is None
        assert await store.next_start("elsewhere", after=now) is None


async def test_a_full_queue_refuses_but_sessions_have_twice_the_limit(store: Store) -> None:
    """At the limit one more execution is refused; one of a session is refused at twice the limit."""
    for _ in range(2):
        await store.create_execution(call(), max_queued=2)
    refused = call()
    with pytest.raises(LimitExceeded) as caught:
        await store.create_execution(refused, max_queued=2)
    assert (caught.value.code, caught.value.data["retry_after"]) == ("queue_full", 2)
    assert await store.get_execution(refused.id) is None
    for _ in range(2):
        await store.create_execution(call(session_id="ses_1"), max_queued=2)
    with pytest.raises(LimitExceeded):
        await store.create_execution(call(session_id="ses_1"), max_queued=2)
    await store.create_execution(call(target="elsewhere.fn"), max_queued=2)
    await store.create_execution(call(), lease_to="i", lease_until=1.0, max_queued=2)


async def test_a_requeue_can_start_a_new_lineage(store: Store) -> None:
    """A requeue keeps the lineage unless `anew` is set; its events are recorded with it."""
    new = call(max_attempts=3)
    await store.create_execution(new, lease_to="i", lease_until=1.0)
    await store.accept_execution(new.id, attempt=1, epoch=1)
    again = NewEvent(type="execution.retry", body={"n": 1}, execution_id=new.id)
    assert await store.requeue_execution(new.id, attempt=1, epoch=1, not_before=9.0, anew=True, events=[again])
    second = await store.lease_execution(new.id, owner="j", until=1.0)
    assert second is not None
    assert (second.attempt, second.lineage, second.not_before, second.max_attempts) == (2, 1, None, 3)
    assert await store.requeue_execution(new.id, attempt=2, epoch=second.lease_epoch)
    third = await store.lease_execution(new.id, owner="j", until=1.0)
    assert third is not None
    assert (third.attempt, third.lineage) == (3, 1)
    assert [event.type for event in await store.read_events(new.run_id)] == [
        "execution.created",
        "execution.started",
        "execution.retry",
    ]


async def test_progress_is_accepted_from_the_current_attempt_only(store: Store) -> None:
    """The latest progress is stored and recorded; that of an ended attempt is not."""
    new = call()
    await store.create_execution(new, lease_to="i", lease_until=1.0)
    assert await store.progress(new.id, attempt=1, epoch=1, value={"done": 0.5})
    assert not await store.progress(new.id, attempt=2, epoch=1, value={"done": 0.9})
    row = await store.get_execution(new.id)
    assert row is not None
    assert row.progress == {"done": 0.5}
    last = await store.last_event(new.run_id, "execution.progress")
    assert last is not None
    assert json.loads(last.canonical)["body"] == {"progress": {"done": 0.5}}
    assert await store.last_event(new.run_id, "execution.ended") is None


async def test_leases_are_renewed_by_owner(store: Store) -> None:
    """Renewing extends the leases of one instance only; filters narrow `open_executions`."""
    mine, yours, waiting = call(), call(session_id="ses_1"), call()
    await store.create_execution(mine, lease_to="i", lease_until=1.0)
    await store.create_execution(yours, lease_to="j", lease_until=1.0)
    await store.create_execution(waiting)
    assert await store.renew_leases("i", until=9.0) == 1
    assert [row.lease_until for row in await store.open_executions()] == [9.0, 1.0, None]
    assert [row.id for row in await store.open_executions(lease_owner="j")] == [yours.id]
    assert [row.id for row in await store.open_executions(session_id="ses_1")] == [yours.id]
    assert [row.id for row in await store.open_executions(run_id=waiting.run_id)] == [waiting.id]
    assert {row.id for row in await store.get_executions([mine.id, "exe_0", yours.id])} == {mine.id, yours.id}
