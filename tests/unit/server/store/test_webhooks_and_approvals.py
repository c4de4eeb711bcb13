"""Approvals, webhooks with their deliveries, and known nodes, in every store."""

from __future__ import annotations

import json

from agentfield.ids import new_id
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import Approval, NewEvent, NewExecution, Webhook
from support.server.store import Opened, call

DAY = 24 * 3600.0


async def suspended(store: Store, new: NewExecution, *, key: str = "k") -> Approval:
    """Create, lease and suspend an execution."""
    await store.create_execution(new, lease_to="i", lease_until=1.0)
    approval = await store.suspend_execution(
        new.id, attempt=1, epoch=1, key=key, title="Refund?", details={"eur": 5}, expires=60.0
    )
    assert approval is not None
    return approval


def hook(*events: str) -> Webhook:
    """Return a webhook."""
    return Webhook(id=new_id("whk"), url="https://x.example/", events=events, secret="s", created_at=1.0)


# --- approvals


async def test_a_suspended_execution_has_no_lease(opens: Opened) -> None:
    """It is waiting, without owner, queue position or running deadline; the decision queues it as it was."""
    async with opens() as store:
        new = call(timeout=100.0)
        opens.clock.now += 0.0
        approval = await suspended(store, new)
        assert (approval.status, approval.expires_at) == ("pending", opens.clock.now + 60)
        row = await store.get_execution(new.id)
        assert row is not None
        assert (row.status, row.lease_owner, row.deadline, row.pauses) == ("waiting", None, None, 1)
        assert await store.queued_executions("node", now=2e9, limit=9) == []
        assert await store.complete_execution(new.id, attempt=1, epoch=1, status="succeeded") is None
    opens.clock.now += 10 * DAY
    async with opens() as store:
        decided = await store.decide(
            approval.id, status="approved", principal="key:a", by="ada", via="rest", note="ok", data={"n": 1}
        )
        assert decided is not None
        assert (decided.status, decided.decided_by, decided.via, decided.note, decided.data, decided.decided_at) == (
            ("approved", "ada", "rest", "ok", {"n": 1}, opens.clock.now)
        )
        assert await store.get_approval(approval.id) == decided
        assert await store.decide(approval.id, status="rejected", principal="key:b", by="bob", via="rest") is None
        (waiting,) = await store.queued_executions("node", now=2e9, limit=9)
        assert (waiting.id, waiting.deadline, waiting.max_attempts) == (new.id, opens.clock.now + 100, 2)
        events = [event.type for event in await store.read_events(new.run_id)]
    assert events == ["execution.created", "approval.requested", "approval.decided"]


async def test_only_the_current_attempt_can_suspend(store: Store) -> None:
    """A stale attempt changes and records nothing; deciding an unknown approval returns None."""
    new = call()
    await store.create_execution(new, lease_to="i", lease_until=1.0)
    for attempt, epoch in ((2, 1), (1, 0)):
        assert (
            await store.suspend_execution(
                new.id, attempt=attempt, epoch=epoch, key="k", title="t", details=None, expires=1.0
            )
            is None
        )
    assert await store.list_approvals() == []
    assert len(await store.read_events(new.run_id)) == 1
    assert await store.decide("apr_0", status="approved", principal="key:a", by=None, via="rest") is None
    assert await store.get_approval("apr_0") is None


async def test_cancelling_withdraws_the_approval(store: Store) -> None:
    """An approval of a cancelled execution can no longer be decided."""
    new = call()
    approval = await suspended(store, new)
    assert await store.complete_execution(new.id, attempt=None, status="cancelled") is not None
    row = await store.get_approval(approval.id)
    assert row is not None
    assert row.status == "cancelled"
    assert await store.decide(approval.id, status="approved", principal="key:a", by=None, via="rest") is None


async def test_approvals_are_listed_newest_first(store: Store) -> None:
    """Pages of approvals, filtered by state or execution if requested."""
    news = [call() for _ in range(3)]
    made = [await suspended(store, new) for new in news]
    await store.decide(made[1].id, status="rejected", principal="key:a", by=None, via="rest")
    assert [row.id for row in await store.list_approvals(limit=2)] == [made[2].id, made[1].id]
    assert [row.id for row in await store.list_approvals(before=made[1].id)] == [made[0].id]
    assert [row.id for row in await store.list_approvals(status="rejected")] == [made[1].id]
    assert [row.id for row in await store.list_approvals(execution_id=news[0].id)] == [made[0].id]


# --- webhooks


async def test_an_event_creates_deliveries_in_its_transaction(store: Store) -> None:
    """Each webhook whose types match has a delivery for an event; older events have none."""
    new = call()
    await store.create_execution(new, lease_to="i", lease_until=1.0)
    every, ends = hook("*"), hook("execution.*", "other")
    for webhook in (every, ends):
        await store.add_webhook(webhook)
    assert await store.list_webhooks() == [every, ends]
    assert await store.next_delivery() is None
    await store.append_events(new.run_id, [NewEvent(type="note")])
    await store.complete_execution(new.id, attempt=1, status="succeeded")
    due = await store.due_deliveries(now=2e9, limit=10)
    assert [(delivery.type, webhook.id, delivery.seq) for delivery, webhook, _ in due] == [
        ("note", every.id, 2),
        ("execution.ended", every.id, 3),
        ("execution.ended", ends.id, 3),
    ]
    assert [event for *_, event in due][:2] == (await store.read_events(new.run_id))[1:]
    assert all(json.loads(event.canonical)["seq"] == delivery.seq for delivery, _, event in due)


async def test_a_delivery_is_retried_until_delivered_or_dead(opens: Opened) -> None:
    """A failure postpones it under the same id, the last makes it dead, redriving starts over, delivered is final."""
    async with opens() as store:
        webhook, new = hook("execution.created"), call()
        await store.add_webhook(webhook)
        await store.create_execution(new)
        now = opens.clock.now
        assert await store.next_delivery() == now
        ((delivery, _, _),) = await store.due_deliveries(now=now, limit=10)
        await store.record_not_delivered(delivery.id, "500", not_before=now + 5)
        assert await store.due_deliveries(now=now, limit=10) == []
        assert await store.next_delivery() == now + 5
        ((again, _, _),) = await store.due_deliveries(now=now + 5, limit=10)
        assert (again.id, again.attempts, again.answer) == (delivery.id, 1, "500")
        await store.record_not_delivered(delivery.id, "410", not_before=None)
        (dead,) = await store.list_deliveries(webhook.id, status="dead")
        assert (dead.id, dead.attempts, dead.ended_at) == (delivery.id, 2, now)
        assert await store.next_delivery() is None
        assert await store.redrive(webhook.id) == 1
        assert await store.redrive(webhook.id) == 0
        ((redriven, _, _),) = await store.due_deliveries(now=now, limit=10)
        assert (redriven.id, redriven.attempts) == (delivery.id, 0)
        await store.record_delivered(delivery.id, "204")
        (arrived,) = await store.list_deliveries(webhook.id)
        assert (arrived.status, arrived.attempts, arrived.answer) == ("delivered", 1, "204")
        assert await store.next_delivery() is None


async def test_deliveries_are_listed_newest_first_and_deleted_with_their_webhook(store: Store) -> None:
    """Pages of deliveries; deleting a webhook deletes all its deliveries."""
    webhook, new = hook("note"), call()
    await store.add_webhook(webhook)
    await store.create_execution(new)
    await store.append_events(new.run_id, [NewEvent(type="note")] * 3)
    listed = await store.list_deliveries(webhook.id)
    assert [row.seq for row in listed] == [4, 3, 2]
    assert [row.seq for row in await store.list_deliveries(webhook.id, limit=1)] == [4]
    assert [row.seq for row in await store.list_deliveries(webhook.id, before=listed[1].id)] == [2]
    assert await store.remove_webhook(webhook.id)
    assert not await store.remove_webhook(webhook.id)
    assert await store.list_deliveries(webhook.id) == await store.due_deliveries(now=2e9, limit=9) == []


# --- nodes


async def test_nodes_are_known_for_thirty_days(opens: Opened) -> None:
    """The latest declaration of a node is kept, also over a restart, until 30 days after its last link."""
    async with opens() as store:
        await store.remember_node("a", {"n": 1})
        opens.clock.now += 20 * DAY
        await store.remember_node("b", {"n": 2})
        await store.remember_node("b", {"n": 3})
    async with opens() as store:
        assert await store.known_nodes() == {"a": {"n": 1}, "b": {"n": 3}}
        opens.clock.now += 11 * DAY
        assert await store.known_nodes() == {"b": {"n": 3}}
