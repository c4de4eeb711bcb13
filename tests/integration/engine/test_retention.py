"""Retention in a running control plane: old runs are deleted whole, open ones stay, and other work is not delayed."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from agentfield.ids import new_id
from agentfield.wire.frames import Invoke
from agentfield_cli.main import run
from agentfield_server.app import control_plane
from agentfield_server.engine.retention import Retention
from agentfield_server.settings import Settings
from agentfield_server.store.records import NewEvent, Webhook
from agentfield_server.store.sqlite.store import SqliteStore
from support.server.engine import Plane, RawNode, plane
from support.server.proofs import issue_all, settled
from support.server.store import call, session_pair
from support.waiting import until, until_async

DAY = 24 * 3600.0
LONG = {"text": "x" * 100_000}


def old_store(path: Path) -> SqliteStore:
    """Return a store whose clock is 40 days behind."""
    return SqliteStore(path, on_commit=lambda _: None, clock=lambda: time.time() - 40 * DAY)


async def finished_run(store: SqliteStore, **values: Any) -> str:
    """Create an ended run with a child and a large result."""
    first = call(**values)
    await store.create_execution(first, lease_to="i", lease_until=1.0)
    child = call(run_id=first.run_id, parent_id=first.id)
    await store.create_execution(child, lease_to="i", lease_until=1.0)
    # a different value for each run: equal values would be stored once
    await store.complete_execution(child.id, attempt=1, status="succeeded", output=[child.id, LONG])
    await store.complete_execution(first.id, attempt=1, status="succeeded", output={})
    return first.run_id


async def ended_session(store: SqliteStore) -> str:
    """Create an ended session with its log."""
    session, root = session_pair()
    await store.create_session(session, root, owner="cp")
    await store.append_events(session.run_id, [NewEvent(type="note", body={"n": n}) for n in range(1200)])
    await store.complete_execution(root.id, attempt=None, status="succeeded")
    await store.update_session(session.id, epoch=1, state="ended", end_reason="operator")
    return session.id


async def suspended_run(store: SqliteStore) -> str:
    """Create a run that waits for an approval."""
    new = call()
    await store.create_execution(new, lease_to="i", lease_until=1.0)
    await store.suspend_execution(new.id, attempt=1, epoch=1, key="k", title="t", details={}, expires=400 * DAY)
    return new.run_id


async def af(cp: Plane, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run `af store … --json` and return the object that it prints."""
    capsys.readouterr()
    assert await asyncio.to_thread(run, ["store", *words, "--url", cp.url, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


async def test_pruning_under_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`af store prune` and `compact` under load: every call is answered, logs have no gaps, and the file shrinks."""
    path = tmp_path / "a.db"
    store = old_store(path)
    await store.open()
    gone = [await finished_run(store) for _ in range(60)]
    session_id = await ended_session(store)
    queued = call()
    await store.create_execution(queued)
    kept = [await suspended_run(store), queued.run_id]
    await store.close()

    async with plane(path) as cp:
        session = await cp.store.get_session(session_id)
        assert session is not None
        for run_id in (*gone, session.run_id):
            await settled(cp.issuer, run_id)
        node = RawNode(node_id="busy")
        async with node.linked(cp):
            stop, answered = asyncio.Event(), list[str]()

            async def answers() -> None:
                while True:
                    await node.answer(await node.next(Invoke), "done")

            async def asks() -> None:
                while not stop.is_set():
                    status, body, _ = await cp.execute("busy.fn")
                    assert status == 200, body
                    answered.append(body["run_id"])

            answering = asyncio.create_task(answers())
            asking = [asyncio.create_task(asks()) for _ in range(4)]
            await until(lambda: len(answered) > 3)
            before = await af(cp, capsys, "stats")
            would = await af(cp, capsys, "prune", "--older-than", "30d", "--dry-run")
            assert (await cp.store.stats()).pruned_runs == 0
            assert await af(cp, capsys, "prune", "--older-than", "30d") == {**would, "dry_run": False}
            assert (would["runs"], would["executions"], would["events"]) == (61, 121, 60 * 4 + 1202)
            sizes = await af(cp, capsys, "compact")
            begun = len(answered)
            await until(lambda: len(answered) > begun)
            stop.set()
            await asyncio.gather(*asking)
            answering.cancel()
            after = await af(cp, capsys, "stats")

        left = 200_000 + 8_000 * len(answered)  # what was answered meanwhile stays; a pruned run had 100 kB
        assert before["bytes"] > 6_000_000 > left > after["bytes"]
        assert sizes["after"]["bytes"] < sizes["before"]["bytes"]
        assert (after["pruned_runs"], after["payloads"], after["sessions"]) == (61, 0, 0)
        for run_id in answered:
            await cp.events(run_id)
        for run_id in gone:
            status, problem = await cp.get(f"/workflows/{run_id}/dag")
            assert (status, problem["code"], problem["events"]) == (404, "run_pruned", 4)
        assert await cp.store.get_session(session_id) is None
        for run_id in kept:
            assert (await cp.get(f"/workflows/{run_id}/dag"))[0] == 200
            assert await cp.events(run_id)
    assert path.stat().st_size < left


async def test_run_with_pending_deliveries_is_kept(tmp_path: Path) -> None:
    """A run is kept while deliveries are pending, and pruned once they are dead."""
    store = old_store(tmp_path / "a.db")
    await store.open()
    hook = Webhook(id=new_id("whk"), url="https://x.example", events=("execution.ended",), secret="s", created_at=1.0)
    await store.add_webhook(hook)
    run_id = await finished_run(store)
    await store.close()
    store = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=time.time)
    await store.open()
    try:
        retention = Retention(store, clock=time.time)
        assert (await retention.prune(older_than=30 * DAY)).runs == 0
        await issue_all(store)
        for delivery, _, _ in await store.due_deliveries(now=time.time(), limit=10):
            await store.record_not_delivered(delivery.id, "gone", not_before=None)
        assert (await retention.prune(older_than=30 * DAY)).runs == 1
        assert await store.list_deliveries(hook.id) == []
        assert await store.read_events(run_id) == []
    finally:
        await store.close()


async def test_periodic_retention(tmp_path: Path) -> None:
    """With `AGENTFIELD_RETENTION_DAYS` old runs are pruned periodically; without it, none."""
    store = old_store(tmp_path / "agentfield.db")
    await store.open()
    run_id = await finished_run(store)
    await store.close()
    async with control_plane(Settings(home=tmp_path, port=0)) as running:
        await settled(running.issuer, run_id)
        assert await running.engine._store.list_executions(run_id)
    async with control_plane(Settings(home=tmp_path, port=0, retention_days=30)) as running:
        assert await until_async(lambda: running.engine._store.pruned_run(run_id))


@pytest.mark.parametrize("days", [0, 0.5, -1, "NaN"])
async def test_runs_of_the_last_day_are_kept(tmp_path: Path, days: Any) -> None:
    """Less than a day is refused: idempotency keys are valid for a day."""
    async with plane(tmp_path / "a.db") as cp:
        status, problem, _ = await cp.post("/store/prune", {"older_than_days": days})
    assert (status, problem["field"]) == (422, "older_than_days")


async def test_text_output_of_af_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes, counts and totals in lines; an invalid age is refused before any request."""
    store = old_store(tmp_path / "a.db")
    await store.open()
    run_id = await finished_run(store)
    await store.close()

    async def said(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(run, ["store", *words, "--url", cp.url])
        return code, "".join(capsys.readouterr())

    async with plane(tmp_path / "a.db") as cp:
        await settled(cp.issuer, run_id)
        code, text = await said("stats")
        assert (code, "executions  2" in text, "pruned     0 runs" in text) == (0, True, True)
        gone = "1 runs with 2 executions and 4 events"
        assert await said("prune", "--older-than", "30d", "--dry-run") == (0, f"{gone} would be deleted\n")
        assert await said("prune", "--older-than", "30d") == (0, f"{gone} were deleted\n")
        code, text = await said("compact")
        assert (code, "MB before" in text) == (0, True)
        for wrong in ("12h", "0.5d", "nan", ""):
            code, text = await said("prune", "--older-than", wrong)
            assert (code, "expected a number of days, at least 1d" in text) == (2, True)
