"""Databases of every earlier schema version open, keep their rows, and end with the current schema."""

from __future__ import annotations

import json
from pathlib import Path

import apsw
import pytest
from msgspec.structs import replace

from agentfield.errors import Unavailable
from agentfield.identity import NodeKey, b64url, canonical, commitment, digest, result_message
from agentfield.proof import parse_credential
from agentfield_server.engine.results import check_record
from agentfield_server.store.sqlite.migrations.proofs import CREDENTIALS
from agentfield_server.store.sqlite.schema import MIGRATIONS, migrate
from agentfield_server.store.sqlite.store import SqliteStore
from support.server.proofs import issue_all

WAITING = """
INSERT INTO runs (id, seq, created_at) VALUES ('run_1', 0, 1.0);
INSERT INTO executions (id, run_id, kind, target, node_id, status, input, attempt, max_attempts, priority, lease_epoch,
    created_at) VALUES ('exe_1', 'run_1', 'call', 'node.fn', 'node', 'queued', '{"n":1}', 0, 1, 0, 0, 1.0),
    ('exe_2', 'run_1', 'call', 'node.fn', 'node', 'succeeded', '{"n":2}', 1, 1, 0, 0, 1.0);
"""


LONG = json.dumps("long" * 10_000)


def database(path: Path, version: int) -> None:
    """Write a database of an earlier schema version, with a queued execution."""
    connection = apsw.Connection(str(path))
    migrate(connection, version)
    connection.execute(WAITING)
    connection.execute("UPDATE executions SET output = ? WHERE id = 'exe_2'", (LONG,))
    connection.close()


def tables(path: Path) -> list[tuple[str, str]]:
    """Return the schema of a database: the columns of each table, and the SQL of each index and trigger."""
    connection = apsw.Connection(str(path))
    try:
        found = [
            (name, str(connection.execute(f"PRAGMA table_info({name})").fetchall()) if kind == "table" else sql)
            for name, kind, sql in connection.execute("SELECT name, type, sql FROM sqlite_master ORDER BY name")
        ]
    finally:
        connection.close()
    return found


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
async def test_a_database_of_each_version_opens(tmp_path: Path, version: int) -> None:
    """An execution that was queued before the migration is leased and completed after it."""
    path = tmp_path / "a.db"
    database(path, version)
    store = SqliteStore(path, on_commit=lambda _: None, clock=lambda: 100.0)
    await store.open()
    try:
        (row,) = await store.queued_executions("node", now=100.0, limit=10)
        assert (row.id, row.input, row.priority, row.progress) == ("exe_1", {"n": 1}, 0, None)
        leased = await store.lease_execution(row.id, owner="node_1", until=110.0)
        assert leased is not None
        assert await store.complete_execution(row.id, attempt=1, status="succeeded", output=2) is not None
        before = await store.get_execution("exe_2")
        assert before is not None
        assert before.output == json.loads(LONG)
    finally:
        await store.close()
    connection = apsw.Connection(str(path))
    assert connection.pragma("auto_vacuum") == 2
    connection.close()


@pytest.mark.parametrize("version", range(1, MIGRATIONS.index(CREDENTIALS) + 1))
async def test_what_ended_before_gets_its_credential(tmp_path: Path, version: int) -> None:
    """An execution that ended without salts or proofs is queued by the migration; its commitments open with new salts."""
    path = tmp_path / "a.db"
    database(path, version)
    store = SqliteStore(path, on_commit=lambda _: None, clock=lambda: 100.0)
    await store.open()
    try:
        await issue_all(store)
        issued, row = await store.credential("exe_2"), await store.get_execution("exe_2")
        assert issued is not None
        assert row is not None
        assert row.output_salt is not None
        subject = parse_credential(issued).subject
        assert (subject.execution_id, subject.status, subject.log) == ("exe_2", "succeeded", None)
        assert subject.outcome == commitment(row.output_salt, canonical(row.output))
    finally:
        await store.close()


async def test_large_values_of_earlier_versions_become_payloads(tmp_path: Path) -> None:
    """A list of rows from before the migration omits large values and gives their sizes."""
    path = tmp_path / "a.db"
    database(path, 4)
    store = SqliteStore(path, on_commit=lambda _: None, clock=lambda: 100.0)
    await store.open()
    try:
        small, large = await store.list_executions("run_1")
    finally:
        await store.close()
    assert (small.input, small.left_out) == ({"n": 1}, {})
    assert (large.input, large.output, large.left_out) == ({"n": 2}, None, {"output": len(LONG)})


def test_every_migration_path_ends_at_the_same_schema(tmp_path: Path) -> None:
    """A database that was migrated step by step has the same schema as a new one."""
    made = []
    for version in range(len(MIGRATIONS) + 1):
        path = tmp_path / f"{version}.db"
        if version:
            database(path, version)
        connection = apsw.Connection(str(path))
        migrate(connection)
        connection.close()
        made.append(tables(path))
    assert all(each == made[0] for each in made)


async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """A program that does not know the schema version refuses the file and changes nothing."""
    path = tmp_path / "a.db"
    database(path, len(MIGRATIONS))
    connection = apsw.Connection(str(path))
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    before = tables(path)
    with pytest.raises(Unavailable) as caught:
        await SqliteStore(path, on_commit=lambda _: None, clock=lambda: 1.0).open()
    assert caught.value.code == "store_newer"
    assert tables(path) == before


async def test_results_of_earlier_versions_stay_verifiable(tmp_path: Path) -> None:
    """A signature of protocol 1 verifies after the migration, and open executions get salts for protocol 2."""
    path, key = tmp_path / "a.db", NodeKey.generate()
    database(path, 6)
    message = result_message("exe_2", 1, "succeeded", digest({"n": 2}), digest("long"))
    connection = apsw.Connection(str(path))
    connection.execute(
        "UPDATE executions SET input_digest = ?, output_digest = ?, signature = ?, signer = ?, output = '\"long\"' "
        "WHERE id = 'exe_2'",
        (digest({"n": 2}), digest("long"), b64url(key.sign(message)), key.did),
    )
    connection.execute("UPDATE executions SET input_digest = ? WHERE id = 'exe_1'", (digest({"n": 1}),))
    connection.close()
    store = SqliteStore(path, on_commit=lambda _: None, clock=lambda: 100.0)
    await store.open()
    try:
        open_row, ended = await store.get_execution("exe_1"), await store.get_execution("exe_2")
    finally:
        await store.close()
    assert open_row is not None
    assert open_row.input_digest is None  # unsigned: it would confirm a guess of the input after its erasure
    assert ended is not None
    assert check_record(ended)
    assert not check_record(replace(ended, signer=NodeKey.generate().did))
    assert not check_record(replace(ended, output_digest=digest("short")))
    assert (ended.statement, ended.proof, ended.input_salt) == (None, None, None)
    assert [len(salt or b"") for salt in (open_row.input_salt, open_row.output_salt)] == [32, 32]
    assert open_row.input_salt != open_row.output_salt
