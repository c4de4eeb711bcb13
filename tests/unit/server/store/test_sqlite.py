"""The SQLite store itself: its file, its lock, its triggers, a full disk."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentfield.errors import Unavailable
from agentfield_server.store.operations import CreateExecution, Then
from agentfield_server.store.records import EventRow, NewEvent
from agentfield_server.store.sqlite.store import SqliteStore
from support.server.store import Clock, call
from support.waiting import until


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


async def test_recorded_events_cannot_be_changed(tmp_path: Path) -> None:
    """Even with direct access, event rows refuse updates and deletes."""
    async with opened(tmp_path / "a.db") as store:
        await store.create_execution(call())
    with apsw.Connection(str(tmp_path / "a.db")) as connection:
        for sql in ("UPDATE events SET type = 'x'", "DELETE FROM events"):
            with pytest.raises(apsw.ConstraintError):
                connection.execute(sql)
    connection.close()


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """The store belongs to one process, which the error names; once it is closed another may open it."""
    async with opened(tmp_path / "a.db"):
        with pytest.raises(Unavailable) as refused:
            async with opened(tmp_path / "a.db"):
                pass
        assert refused.value.code == "store_locked"
        assert refused.value.data["pid"] == os.getpid()
        assert str(os.getpid()) in refused.value.message
    async with opened(tmp_path / "a.db"):
        pass


async def test_the_files_are_private(tmp_path: Path) -> None:
    """All files of the store have mode 0600."""
    async with opened(tmp_path / "a.db") as store:
        await store.create_execution(call())
        modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(tmp_path)}
    assert modes == dict.fromkeys(("a.db", "a.db-wal", "a.db-shm", "a.db.lock"), 0o600)


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database of a newer schema version is not touched."""
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
    """The error is typed and names the file."""
    (tmp_path / "a.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(Unavailable) as refused:
        async with opened(tmp_path / "a.db"):
            pass
    assert refused.value.code == "store_unusable"
    assert "a.db" in refused.value.message


async def test_a_full_disk_loses_no_acknowledged_write(store: SqliteStore, tmp_path: Path) -> None:
    """On a full disk writes are refused with a reason, and the store works again when there is space."""
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


async def test_what_follows_a_write_is_called_in_order_after_its_commit(tmp_path: Path) -> None:
    """Posted writes are followed by their callbacks in the order of submission; a callback that fails affects no other."""
    seen: list[EventRow] = []
    followed: list[str] = []

    def follow(name: str) -> Then[Any]:
        def then(result: Any, error: BaseException | None) -> None:
            assert error is None
            assert [row.execution_id for row in seen][: len(followed) + 1] == ["one", "two"][: len(followed) + 1]
            followed.append(name)
            if name == "one":
                raise RuntimeError("a defect")

        return then

    async with opened(tmp_path / "a.db", seen=seen) as store:
        for name in ("one", "two"):
            store.post(CreateExecution(call(id=name), lease_to="node_1", lease_until=1.0), follow(name))
        assert not followed
        await until(lambda: followed == ["one", "two"])


async def test_writes_wait_for_a_place_in_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue makes writes wait, in order; one that waits too long is refused, and so are all when the store closes."""
    monkeypatch.setattr("agentfield_server.store.sqlite.writer._CAPACITY", 1)
    outcomes: dict[str, str] = {}

    def post(store: SqliteStore, name: str) -> None:
        def then(_: Any, error: BaseException | None) -> None:
            outcomes[name] = "done" if error is None else getattr(error, "code", "")

        store.post(CreateExecution(call(id=name)), then)

    async with opened(tmp_path / "a.db") as store:
        for number in range(4):
            post(store, str(number))
        await until(lambda: len(outcomes) == 4)
        assert list(outcomes.items()) == [(str(number), "done") for number in range(4)]
        with closing(apsw.Connection(str(tmp_path / "a.db"))) as other:
            other.execute("BEGIN IMMEDIATE")  # the thread of the store waits for it
            monkeypatch.setattr("agentfield_server.store.sqlite.writer._SLOT_TIMEOUT", 0.0)
            post(store, "first")
            post(store, "late")
            await until(lambda: outcomes.get("late") == "store_busy")
            monkeypatch.setattr("agentfield_server.store.sqlite.writer._SLOT_TIMEOUT", 60.0)
            post(store, "last")
            closing_store = asyncio.ensure_future(store.close())
            await until(lambda: outcomes.get("last") == "store_closed")
            other.execute("COMMIT")
            await closing_store
    assert (outcomes["first"], outcomes["last"]) == ("done", "store_closed")
    post(store, "after")
    await until(lambda: outcomes.get("after") == "store_closed")
