"""Retention in every store: which runs may be pruned, that a run goes completely, and what `stats` reports."""

from __future__ import annotations

import pytest

from agentfield.errors import NotFound
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import NewEvent, Webhook
from support.server.proofs import issue_all
from support.server.store import Opened, call, key, session_pair

DAY = 24 * 3600.0


async def ended(store: Store) -> str:
    """Create a run whose only execution has succeeded; return its id."""
    new = call()
    await store.create_execution(new, lease_to="i", lease_until=1.0)
    await store.complete_execution(new.id, attempt=1, status="succeeded", output={})
    return new.run_id


async def prune(store: Store, before: float) -> list[str]:
    """Prune every run that may be pruned; return the ids of those runs."""
    await issue_all(store)
    gone, after = [], ""
    while True:
        page = await store.ended_runs(before=before, after=after)
        for run in page.runs:
            while await store.prune_run(run.run_id, before=before, rows=2):
                pass
            gone.append(run.run_id)
        if page.next is None:
            return gone
        after = page.next


async def test_only_ended_runs_are_pruned(opens: Opened) -> None:
    """A run that is queued, running, waiting, live or has a pending delivery is not listed and is not pruned."""
    async with opens() as store:
        over = [await ended(store) for _ in range(3)]
        queued, running, waiting, told = call(), call(), call(), call()
        await store.create_execution(queued)
        await store.create_execution(running, lease_to="i", lease_until=1.0)
        await store.create_execution(waiting, lease_to="i", lease_until=1.0)
        await store.suspend_execution(waiting.id, attempt=1, epoch=1, key="k", title="t", details=None, expires=1.0)
        session, root = session_pair()
        await store.create_session(session, root, owner="cp")
        await store.complete_execution(root.id, attempt=None, status="succeeded")
        await store.add_webhook(Webhook(id="whk_1", url="https://x/", events=("*",), secret="s", created_at=1.0))
        await store.create_execution(told, lease_to="i", lease_until=1.0)
        await store.complete_execution(told.id, attempt=1, status="succeeded")
        stay = [new.run_id for new in (queued, running, waiting, told)] + [session.run_id]
        before = opens.clock.now + 1
        opens.clock.now += 2 * DAY
        young = await ended(store)
        for run_id in (*stay, young, "run_0"):
            assert await store.prune_run(run_id, before=before) is None
        assert sorted(await prune(store, before)) == sorted(over)
        for run_id in (*stay, young):
            assert await store.list_executions(run_id)
            assert await store.pruned_run(run_id) is None
        stats = await store.stats()
    assert (stats.runs, stats.pruned_runs, stats.executions, stats.open_executions, stats.sessions) == (6, 3, 6, 3, 1)


async def test_pruning_removes_the_run_and_leaves_a_record(opens: Opened) -> None:
    """Nothing of a pruned run is found, nothing can be added to it, and its record describes its log."""
    async with opens() as store:
        session, root = session_pair(idempotency=key())
        await store.create_session(session, root, owner="cp")
        tool = call(run_id=session.run_id, parent_id=root.id, session_id=session.id, op_id="op")
        await store.create_execution(tool, lease_to="i", lease_until=1.0)
        approval = await store.suspend_execution(
            tool.id, attempt=1, epoch=1, key="k", title="t", details=None, expires=1.0
        )
        assert approval is not None
        for execution_id in (tool.id, root.id):
            await store.complete_execution(execution_id, attempt=None, status="cancelled")
        await store.update_session(session.id, epoch=1, state="ended", end_reason="operator")
        await store.put_token(b"t", session_id=session.id, kind="token", expires_at=9e9)
        log = await store.read_events(session.run_id)
        before = opens.clock.now + 1
        opens.clock.now += 2 * DAY
        assert await prune(store, before) == [session.run_id]
        assert await store.get_session(session.id) is None
        assert await store.session_for_key(key()) is None
        assert await store.get_approval(approval.id) is None
        assert await store.execution_for_op("op") is None
        assert await store.use_token(b"t", kind="token", now=1.0) is None
        assert await store.get_executions([root.id, tool.id]) == []
        assert await store.read_events(session.run_id) == await store.list_executions(session.run_id) == []
        assert await store.last_event(session.run_id, "execution.created") is None
        with pytest.raises(NotFound):
            await store.append_events(session.run_id, [NewEvent(type="late")])
        with pytest.raises(NotFound):
            await store.create_execution(call(run_id=session.run_id))
        record = await store.pruned_run(session.run_id)
    assert record is not None
    assert (record.events, record.last_leaf, record.pruned_at) == (len(log), log[-1].leaf, opens.clock.now)
    async with opens() as store:
        assert await store.pruned_run(session.run_id) == record


async def test_runs_of_the_last_day_are_kept(opens: Opened) -> None:
    """A run of the last day is never pruned: an idempotency key may still be answered with it."""
    async with opens() as store:
        run_id = await ended(store)
        opens.clock.now += DAY / 2
        assert await prune(store, opens.clock.now) == []
        assert await store.prune_run(run_id, before=opens.clock.now) is None
        opens.clock.now += DAY
        assert await prune(store, opens.clock.now) == [run_id]


@pytest.mark.parametrize("values", [("input", "input"), ("input", "output"), ("output", "input"), ("output", "output")])
async def test_a_shared_payload_is_kept_until_its_last_run_is_pruned(opens: Opened, values: tuple[str, str]) -> None:
    """A large value that two runs share, as input or output, is stored until the second run is pruned."""
    async with opens() as store:
        large = {"text": "x" * 40_000}
        runs = []
        for name in values:
            new = call(input=large if name == "input" else {})
            await store.create_execution(new, lease_to="i", lease_until=1.0)
            output = large if name == "output" else None
            await store.complete_execution(new.id, attempt=1, status="succeeded", output=output)
            runs.append(new)
            opens.clock.now += 2 * DAY
        assert (await store.stats()).payloads == 1
        assert await prune(store, opens.clock.now - 3 * DAY) == [runs[0].run_id]
        second = await store.get_execution(runs[1].id)
        assert second is not None
        assert large in (second.input, second.output)
        assert await prune(store, opens.clock.now - DAY) == [runs[1].run_id]
        assert (await store.stats()).payloads == 0


async def test_compaction_terminates_and_shrinks_the_file(opens: Opened) -> None:
    """Each step leaves less to free, the last returns false, and remaining rows are unchanged."""
    async with opens() as store:
        kept = call(input={"text": "y" * 40_000})
        await store.create_execution(kept)
        for n in range(20):
            new = call(input={"text": f"{n}" * 40_000})
            await store.create_execution(new, lease_to="i", lease_until=1.0)
            await store.complete_execution(new.id, attempt=1, status="succeeded")
        opens.clock.now += 2 * DAY
        assert len(await prune(store, opens.clock.now - DAY)) == 20
        before = await store.stats()
        while await store.compact(pages=10):
            pass
        after = await store.stats()
        assert after.bytes < before.bytes / 2
        assert (after.free_bytes, after.log_bytes) == (0, 0)
        row = await store.get_execution(kept.id)
        assert row is not None
        assert row.input == kept.input


async def test_a_run_without_its_proofs_is_kept(opens: Opened) -> None:
    """A run is pruned only once its credentials are issued, its final head is signed and both are anchored."""
    async with opens() as store:
        run_id = await ended(store)
        session, root = session_pair()
        await store.create_session(session, root, owner="cp")
        await store.complete_execution(root.id, attempt=None, status="succeeded")
        await store.update_session(session.id, epoch=1, state="ended", end_reason="operator")
        opens.clock.now += 2 * DAY
        for run in (run_id, session.run_id):
            assert await store.prune_run(run, before=opens.clock.now) is None
        await issue_all(store)
        for run in (run_id, session.run_id):
            assert await store.prune_run(run, before=opens.clock.now)
