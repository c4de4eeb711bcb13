"""Pruning in SQLite: Merkle roots, interrupted pruning, triggers that protect the records, and query plans."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentfield_server.store.sqlite.methods.maintenance import _PRUNABLE_RUNS
from agentfield_server.store.sqlite.operations.retention import root_of
from agentfield_server.store.sqlite.store import SqliteStore
from support.server.proofs import issue_all
from support.server.store import Clock, call

DAY = 24 * 3600.0


def rfc9162_root(leaves: Sequence[bytes]) -> bytes:
    """Compute the root by the recursion of RFC 9162 §2.1.1."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return hashlib.sha256(b"\x01" + rfc9162_root(leaves[:half]) + rfc9162_root(leaves[half:])).digest()


@given(st.integers(0, 70))
def test_the_root_is_that_of_rfc_9162(count: int) -> None:
    """For every number of leaves the root is the one that the recursion of RFC 9162 gives."""
    leaves = [hashlib.sha256(bytes([n])).digest() for n in range(count)]
    assert root_of(leaves) == rfc9162_root(leaves)


async def test_interrupted_pruning_is_continued(tmp_path: Path) -> None:
    """A partly pruned run is invisible, accepts no rows, and is listed until the rest is pruned."""
    clock = Clock()
    store = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=clock)
    await store.open()
    new = call(input={"text": "x" * 40_000})
    await store.create_execution(new, lease_to="i", lease_until=1.0)
    await store.complete_execution(new.id, attempt=1, status="succeeded")
    await issue_all(store)
    clock.now += 2 * DAY
    before = clock.now - DAY
    assert await store.prune_run(new.run_id, before=before, rows=1) == 1
    await store.close()

    store = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=clock)
    await store.open()
    try:
        assert await store.read_events(new.run_id) == await store.list_executions(new.run_id) == []
        (left,) = (await store.ended_runs(before=before)).runs
        assert (left.run_id, left.events) == (new.run_id, 2)
        steps = 0
        while await store.prune_run(new.run_id, before=before, rows=1):
            steps += 1
        assert steps == 3  # an event, the credential, the execution
        assert (await store.ended_runs(before=before)).runs == ()
        stats = await store.stats()
        assert (stats.executions, stats.events, stats.payloads, stats.runs, stats.pruned_runs) == (0, 0, 0, 0, 1)
    finally:
        await store.close()


async def test_triggers_protect_the_record(tmp_path: Path) -> None:
    """With direct access too: no record for an open run, no record changed or deleted, no event deleted without one."""
    clock = Clock()
    store = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=clock)
    await store.open()
    still, over = call(), call()
    for new in (still, over):
        await store.create_execution(new, lease_to="i", lease_until=1.0)
    await store.complete_execution(over.id, attempt=1, status="succeeded")
    await issue_all(store)
    clock.now += 2 * DAY
    assert await store.prune_run(still.run_id, before=clock.now - DAY) is None
    assert await store.prune_run(over.run_id, before=clock.now - DAY) == 2
    await store.close()
    connection = apsw.Connection(str(tmp_path / "a.db"))
    for sql in (
        f"UPDATE runs SET pruned_at = 1 WHERE id = '{still.run_id}'",
        f"DELETE FROM events WHERE run_id = '{still.run_id}'",
        f"UPDATE runs SET root = NULL WHERE id = '{over.run_id}'",
        f"UPDATE runs SET pruned_at = NULL WHERE id = '{over.run_id}'",
        f"DELETE FROM runs WHERE id = '{over.run_id}'",
    ):
        with pytest.raises(apsw.ConstraintError):
            connection.execute(sql)
    connection.close()


async def test_lists_of_ended_runs_use_indexes(tmp_path: Path) -> None:
    """The query for runs that may be pruned uses indexes and scans no table."""
    store = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=Clock())
    await store.open()
    await store.close()
    connection = apsw.Connection(str(tmp_path / "a.db"))
    plan = connection.execute(
        f"EXPLAIN QUERY PLAN {_PRUNABLE_RUNS}", {"after": "", "until": "z", "before": 1.0}
    ).fetchall()
    connection.close()
    assert not [step for *_, step in plan if step.startswith("SCAN")]
