"""The event log in every store: commitments in place of bodies, erasure, and runs that began in format 1."""

from __future__ import annotations

import json
from pathlib import Path

import apsw
import pytest

from agentfield.errors import InvalidInput, NotFound
from agentfield.identity import canonical, leaf_hash
from agentfield_server.store.records import NewEvent
from agentfield_server.store.sqlite.schema import LARGE, MIGRATIONS, migrate
from agentfield_server.store.sqlite.store import SqliteStore
from support.server.log_entries import is_intact
from support.server.store import Clock, Opened, call, key

SECRET = "my account number is 4711 0815"
FORMAT_1 = MIGRATIONS.index(next(script for script in MIGRATIONS if "ADD COLUMN format" in script))
"""Schema version of a store whose logs have format 1."""


def files(folder: Path) -> bytes:
    """Return the content of all files of a store."""
    return b"".join(path.read_bytes() for path in folder.iterdir())


async def test_an_erased_body_leaves_a_verifiable_log(opens: Opened) -> None:
    """Entry and leaf of the event stay as they were, the body is gone, the other events are untouched."""
    async with opens() as store:
        new = call(
            events=[NewEvent(type="turn.committed", body={"text": SECRET}), NewEvent(type="note", body={"n": 1})]
        )
        await store.create_execution(new)
        before = await store.read_events(new.run_id)
        assert SECRET.encode() not in b"".join(row.entry for row in before)
        assert await store.erase_bodies(new.run_id, [2, 99]) == 1
        assert await store.erase_bodies(new.run_id, [2]) == 0
        after = await store.read_events(new.run_id)
        assert [(row.entry, row.leaf) for row in after] == [(row.entry, row.leaf) for row in before]
        assert all(leaf_hash(row.entry) == row.leaf for row in after)
        assert (after[1].body, after[1].salt) == (None, None)
        shown = json.loads(after[1].canonical)
        assert (shown["seq"], shown["type"], shown["body"], shown["erased"]) == (2, "turn.committed", {}, True)
        assert [row for row in after if row.seq != 2] == [row for row in before if row.seq != 2]
        with pytest.raises(NotFound):
            await store.erase_bodies("run_0", [1])


async def test_events_are_served_in_the_same_shape(opens: Opened) -> None:
    """Readers get one canonical object with the body in it, in the order of RFC 8785."""
    async with opens() as store:
        new = call(events=[NewEvent(type="turn.committed", body={"text": SECRET}, execution_id=None)])
        await store.create_execution(new)
        row = (await store.read_events(new.run_id))[1]
    event = json.loads(row.canonical)
    assert list(event) == ["at", "body", "execution_id", "id", "run_id", "seq", "session_id", "type"]
    assert event["body"] == {"text": SECRET}
    assert canonical(event) == row.canonical


async def test_equal_bodies_have_different_commitments(opens: Opened) -> None:
    """Each body has its own salt, so that no entry tells that two bodies are equal."""
    async with opens() as store:
        new = call(events=[NewEvent(type="note", body={"n": 1}) for _ in range(20)])
        await store.create_execution(new)
        rows = (await store.read_events(new.run_id))[1:]
    assert len({json.loads(row.entry)["body"] for row in rows}) == len({row.salt for row in rows}) == 20


async def test_nothing_of_an_erased_body_is_left_in_the_files(tmp_path: Path) -> None:
    """After erasure and compaction neither the body nor its salt is anywhere in the store's files."""
    store = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=Clock())
    await store.open()
    new = call(events=[NewEvent(type="turn.committed", body={"text": SECRET})] * 50)
    await store.create_execution(new)
    salt = (await store.read_events(new.run_id))[1].salt
    assert salt is not None
    found = [files(tmp_path)]
    await store.erase_bodies(new.run_id, range(1, 52))
    await store.compact()
    found.append(files(tmp_path))
    await store.close()
    assert [(SECRET.encode() in data, salt in data) for data in found] == [(True, True), (False, False)]


async def test_bodies_can_only_be_erased(tmp_path: Path) -> None:
    """Even with direct access, no body and no salt gets another value, and no run another format."""
    store = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=Clock())
    await store.open()
    await store.create_execution(call())
    await store.close()
    with apsw.Connection(str(tmp_path / "a.db")) as connection:
        for sql in (
            "UPDATE events SET body = x'00'",
            "UPDATE events SET salt = x'00'",
            "UPDATE events SET entry = x'00'",
            "UPDATE runs SET format = 1",
        ):
            with pytest.raises(apsw.ConstraintError):
                connection.execute(sql)
    connection.close()


async def test_a_run_keeps_the_format_that_it_began_with(tmp_path: Path) -> None:
    """A run of an earlier version continues in format 1, stays verifiable, and refuses erasure; new runs have format 2."""
    path = tmp_path / "a.db"
    event = {
        "id": "evt_1",
        "seq": 1,
        "type": "execution.created",
        "at": 1.5,
        "run_id": "run_1",
        "session_id": None,
        "execution_id": "exe_1",
        "body": {"kind": "call", "target": "node.fn", "parent_id": None, "status": "queued"},
    }
    entry = canonical(event)
    connection = apsw.Connection(str(path))
    migrate(connection, FORMAT_1)
    connection.execute("INSERT INTO runs (id, seq, created_at) VALUES ('run_1', 1, 1.0)")
    connection.execute(
        "INSERT INTO events (run_id, seq, id, type, at, execution_id, canonical, leaf) "
        "VALUES ('run_1', 1, 'evt_1', 'execution.created', 1.5, 'exe_1', ?, ?)",
        (entry, leaf_hash(entry)),
    )
    connection.close()
    store = SqliteStore(path, on_commit=lambda _: None, clock=Clock())
    await store.open()
    new = call()
    await store.append_events("run_1", [NewEvent(type="note", body={"text": SECRET})])
    await store.create_execution(new)
    old, fresh = await store.read_events("run_1"), await store.read_events(new.run_id)
    assert await store.erase_bodies("run_1", [1, 2]) is None
    await store.close()
    assert [row.seq for row in old] == [1, 2]
    assert (old[0].entry, old[0].canonical) == (entry, entry)
    assert json.loads(old[1].entry)["body"] == {"text": SECRET}
    assert all(is_intact(row.entry, row.body, row.salt, row.leaf) for row in (*old, *fresh))
    assert all(isinstance(json.loads(row.entry)["body"], str) for row in fresh)


async def test_digests_of_bodies_are_keyed(tmp_path: Path) -> None:
    """Digests of an earlier version are keyed by the migration, and still find their bodies; a guess finds nothing."""
    path, large = tmp_path / "a.db", {"text": "x" * LARGE}
    text = json.dumps(large, separators=(",", ":"))
    connection = apsw.Connection(str(path))
    migrate(connection, FORMAT_1)
    connection.execute("INSERT INTO runs (id, seq, created_at) VALUES ('run_1', 0, 1.0)")
    connection.execute(
        "INSERT INTO executions (id, run_id, kind, target, node_id, status, input, attempt, max_attempts, priority, "
        "lease_epoch, created_at, input_payload, input_size) VALUES ('exe_1', 'run_1', 'call', 'n.f', 'n', 'queued', "
        "'null', 0, 1, 0, 0, 1.0, sha256(?1), length(?1))",
        (text,),
    )
    connection.execute("INSERT INTO payloads SELECT sha256(?1), ?1", (text,))
    connection.execute(
        "INSERT INTO idempotency (principal, route, target, key, body_digest, response, created_at) "
        "VALUES ('operator', 'execute', 'node.fn', 'k', ?, '{\"n\":1}', 1800000000.0)",
        (b"1" * 32,),
    )
    ((plain,),) = connection.execute("SELECT digest FROM payloads").fetchall()
    connection.close()
    store = SqliteStore(path, on_commit=lambda _: None, clock=Clock())
    await store.open()
    row = await store.get_execution("exe_1")
    assert row is not None
    assert row.input == large
    await store.create_execution(call(input=large))
    assert (await store.stats()).payloads == 1
    assert await store.save_response(key(body=b"1" * 32), response=None) == {"n": 1}
    with pytest.raises(InvalidInput):
        await store.save_response(key(body=b"2" * 32), response=None)
    await store.save_response(key("other", body=b"3" * 32), response={"n": 2})
    await store.close()
    data = files(tmp_path)
    assert not [digest for digest in (plain, b"1" * 32, b"3" * 32) if digest in data]
