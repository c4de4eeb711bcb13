"""Rotation of the issuer's key: what the old key signed before is verified with the new one, what it signs later is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfield.identity import NodeKey
from agentfield.proof import Report, verify_export
from agentfield_server.proof.exporting import Exporter
from agentfield_server.proof.issuing import Issuer
from agentfield_server.proof.own_log import OwnLog
from agentfield_server.store.sqlite.store import SqliteStore
from support.server.store import call

OLD, NEW = NodeKey.generate(), NodeKey.generate()


def clock() -> float:
    return 1_800_000_000.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=clock)
    await store.open()
    yield store
    await store.close()


async def issued(store: SqliteStore, issuer: Issuer) -> str:
    """End a call and issue everything about it; return its run."""
    new = call()
    await store.create_execution(new, lease_to="i", lease_until=1.0)
    await store.complete_execution(new.id, attempt=1, status="succeeded", output=1)
    await issuer.catch_up()
    return new.run_id


async def exported(store: SqliteStore, issuer: Issuer, run_id: str) -> Report:
    """Export a run and verify it against the new key."""
    lines = [
        line
        async for page in Exporter(store, issuer).export(run_id, session_id=None, bodies=True, at=clock())
        for line in page
    ]
    return verify_export(lines, issuer=NEW.did)


async def test_what_was_signed_before_a_rotation_counts(store: SqliteStore) -> None:
    """The chain of keys travels in the export; a run that the stolen old key signs after it is refused."""
    before = Issuer(store, OLD, await OwnLog.open(store, OLD, clock=clock), clock=clock)
    first = await issued(store, before)
    own_log = await OwnLog.open(store, NEW, clock=clock, before=OLD)
    after = Issuer(store, NEW, own_log, clock=clock)
    second = await issued(store, after)
    for run_id in (first, second):
        report = await exported(store, after, run_id)
        assert (report.verdict, report.problem) == ("complete", None)
    thief = Issuer(store, OLD, own_log, clock=clock)
    third = await issued(store, thief)
    report = await exported(store, after, third)
    assert report.verdict == "wrong"
    assert report.problem is not None


async def test_what_waited_for_its_anchor_at_a_rotation_counts(store: SqliteStore) -> None:
    """A process that was killed before it anchored its last heads leaves them to the start that rotates."""
    before = Issuer(store, OLD, await OwnLog.open(store, OLD, clock=clock), clock=clock)
    before.own_log.anchor_waiting = never  # type: ignore[method-assign]
    run_id = await issued(store, before)
    after = Issuer(store, NEW, await OwnLog.open(store, NEW, clock=clock, before=OLD), clock=clock)
    report = await exported(store, after, run_id)
    assert (report.verdict, report.problem) == ("complete", None)


async def never() -> int:
    """Anchor nothing, as a process that is gone."""
    return 0
