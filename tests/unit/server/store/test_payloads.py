"""Large inputs and outputs: stored once, not read by lists, and complete wherever one execution is returned."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentfield_server.store.sqlite.schema import LARGE
from agentfield_server.store.sqlite.store import SqliteStore
from support.server.store import Clock, call

LONG = {"text": "x" * LARGE}
SIZE = len('{"text":""}') + LARGE


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=Clock())
    await opened.open()
    yield opened
    await opened.close()


def payload_count(path: Path) -> int:
    """Return the number of payloads."""
    connection = apsw.Connection(str(path))
    try:
        return int(connection.execute("SELECT COUNT(*) FROM payloads").fetchall()[0][0])
    finally:
        connection.close()


@contextmanager
def tables_read(store: SqliteStore) -> Iterator[set[str]]:
    """Collect the tables that the readers' statements may touch, as SQLite's compiler names them."""
    read = set[str]()

    def note(action: int, first: str | None, *_: Any) -> int:
        if action == apsw.SQLITE_READ and first is not None:
            read.add(first)
        return int(apsw.SQLITE_OK)

    readers = store._connections[1:]
    for reader in readers:
        reader.authorizer = note
    try:
        yield read
    finally:
        for reader in readers:
            reader.authorizer = None


async def test_lists_give_sizes_instead_of_large_values(store: SqliteStore) -> None:
    """Every method that returns one execution returns all of it; lists give the size instead."""
    new = call(input=LONG, op_id="op_1")
    made, _ = await store.create_execution(new)
    again, _ = await store.create_execution(call(op_id="op_1"))
    leased = await store.lease_execution(new.id, owner="i", until=1.0)
    assert leased is not None
    for row in (made, again, leased, await store.get_execution(new.id), await store.execution_for_op("op_1")):
        assert row is not None
        assert (row.input, row.left_out) == (LONG, {})
    (listed,) = await store.open_executions()
    assert (listed.input, listed.left_out) == (None, {"input": SIZE})
    done = await store.complete_execution(new.id, attempt=1, status="succeeded", output=[LONG])
    assert done is not None
    assert (done.input, done.output, done.left_out) == (LONG, [LONG], {})
    assert await store.get_execution(new.id) == done
    for rows in (await store.list_executions(new.run_id), await store.get_executions([new.id])):
        assert [(row.input, row.output) for row in rows] == [(None, None)]
        assert [dict(row.left_out) for row in rows] == [{"input": SIZE, "output": SIZE + 2}]


async def test_lists_never_read_payloads(store: SqliteStore) -> None:
    """Listing a run, a queue or a status does not read the payloads table; reading one execution does."""
    new = call(input=LONG)
    await store.create_execution(new)
    with tables_read(store) as read:
        await store.list_executions(new.run_id)
        await store.list_executions(new.run_id, after=new.id)
        await store.get_executions([new.id])
        await store.open_executions(run_id=new.run_id)
        await store.queued_executions("node", now=2e9, limit=10)
    assert "executions" in read
    assert "payloads" not in read
    with tables_read(store) as read:
        assert await store.get_execution(new.id) is not None
    assert "payloads" in read


async def test_the_same_value_is_stored_once(store: SqliteStore, tmp_path: Path) -> None:
    """A value of many executions, as input or output, is stored once; a small one is no payload."""
    for _ in range(3):
        new = call(input=LONG)
        await store.create_execution(new, lease_to="i", lease_until=1.0)
        assert await store.complete_execution(new.id, attempt=1, status="succeeded", output=LONG) is not None
    await store.create_execution(call(input={"text": "x" * (LARGE - len('{"text":""}'))}))
    assert payload_count(tmp_path / "a.db") == 1


async def test_a_late_result_stores_no_payload(store: SqliteStore, tmp_path: Path) -> None:
    """The large output of an attempt that is not current is not stored."""
    new = call()
    await store.create_execution(new, lease_to="i", lease_until=1.0)
    assert await store.complete_execution(new.id, attempt=2, status="succeeded", output=LONG) is None
    assert payload_count(tmp_path / "a.db") == 0
