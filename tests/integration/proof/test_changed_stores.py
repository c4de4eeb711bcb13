"""A recorded session whose rows somebody changes in the database: the next export, correctly signed by the control plane, is wrong."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentfield.identity import canonical
from agentfield.proof import Head, Report, parse_head, verify_export
from support.server.engine import Plane, plane
from support.server.store import call, session_pair
from support.waiting import until_async

TOOLS = 4


@dataclass(frozen=True)
class Recorded:
    """A recorded session: its database, the one of an earlier time, and the heads that somebody outside holds."""

    path: Path
    earlier: Path
    run_id: str
    session_id: str
    other_run_id: str
    heads: tuple[Head, ...]


async def _run_tools(cp: Plane, session_id: str, run_id: str, root_id: str, outputs: list[Any]) -> None:
    """Run tools one after the other; a head follows each."""
    for output in outputs:
        tool = call(run_id=run_id, parent_id=root_id, session_id=session_id, kind="tool")
        await cp.store.create_execution(tool, lease_to="i", lease_until=1.0)
        await cp.store.complete_execution(tool.id, attempt=1, status="succeeded", output=output)
        size = await cp.store.log_size(run_id)
        await until_async(
            lambda: cp.store.last_head(run_id), lambda head, size=size: head is not None and head.size == size
        )


@pytest.fixture
async def recorded(tmp_path: Path) -> Recorded:
    """Record two sessions, the first one in two sittings."""
    path, earlier = tmp_path / "a.db", tmp_path / "earlier.db"
    session, root = session_pair()
    other, other_root = session_pair()
    async with plane(path) as cp:
        for each, its_root in ((session, root), (other, other_root)):
            await cp.store.create_session(each, its_root, owner="cp")
            await _run_tools(cp, each.id, each.run_id, its_root.id, list(range(2)))
    shutil.copy(path, earlier)
    async with plane(path) as cp:
        await _run_tools(cp, session.id, session.run_id, root.id, list(range(TOOLS - 2)))
        heads = tuple(parse_head(head.document) for head in await cp.store.heads(session.run_id))
    return Recorded(path, earlier, session.run_id, session.id, other.run_id, heads)


async def _export(recorded: Recorded, held: Head | None) -> Report:
    """Start a control plane on the database, export the session and verify it."""
    async with plane(recorded.path) as cp:
        async with cp.client.get(f"/api/v1/sessions/{recorded.session_id}/export") as response:
            assert response.status == 200
            lines = (await response.read()).splitlines(keepends=True)
        return verify_export(lines, issuer=cp.key.did, heads=[] if held is None else [held])


class Rows:
    """The rows of the log of a run, for somebody who may write to the database and keeps every number and leaf right."""

    def __init__(self, store: sqlite3.Connection, run_id: str) -> None:
        for trigger in ("events_never_change", "events_never_go", "bodies_are_only_erased"):
            store.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        self._store, self._run_id = store, run_id
        columns = [name for _, name, *_ in store.execute("PRAGMA table_info(events)")]
        found = store.execute("SELECT * FROM events WHERE run_id = ? ORDER BY seq", (run_id,))
        self.rows = [dict(zip(columns, row, strict=True)) for row in found]

    def write(self) -> None:
        """Write the rows in their order, numbered anew, with entries and leaves that fit."""
        self._store.execute("DELETE FROM events WHERE run_id = ?", (self._run_id,))
        for seq, row in enumerate(self.rows, start=1):
            entry = canonical({**json.loads(row["entry"]), "seq": seq, "run_id": self._run_id})
            leaf = hashlib.sha256(b"\x00" + entry).digest()
            values = {**row, "seq": seq, "run_id": self._run_id, "entry": entry, "leaf": leaf}
            marks = ", ".join("?" * len(values))
            self._store.execute(f"INSERT INTO events ({', '.join(values)}) VALUES ({marks})", list(values.values()))
        self._store.execute("UPDATE runs SET seq = ? WHERE id = ?", (len(self.rows), self._run_id))


def _edit(rows: Rows, other: Rows) -> None:
    rows.rows[4]["type"] = "execution.retrying"
    rows.rows[4]["entry"] = rows.rows[4]["entry"].replace(b'"type":"', b'"type":"x.')


def _swap(rows: Rows, other: Rows) -> None:
    rows.rows[4], rows.rows[5] = rows.rows[5], rows.rows[4]


def _delete(rows: Rows, other: Rows) -> None:
    del rows.rows[4]


def _duplicate(rows: Rows, other: Rows) -> None:
    rows.rows.insert(4, rows.rows[4])


def _splice(rows: Rows, other: Rows) -> None:
    entry = json.loads(other.rows[4]["entry"])
    entry["session_id"] = json.loads(rows.rows[4]["entry"])["session_id"]
    rows.rows[4] = {**other.rows[4], "entry": canonical(entry)}


def _truncate(rows: Rows, other: Rows) -> None:
    del rows.rows[-2:]


ATTACKS: dict[str, Callable[[Rows, Rows], None]] = {
    "edit": _edit,
    "swap": _swap,
    "delete": _delete,
    "duplicate": _duplicate,
    "splice": _splice,
    "truncate": _truncate,
}


async def test_an_untouched_store_exports_a_prefix(recorded: Recorded) -> None:
    """The session goes on: the export is a prefix, consistent with each head that was given out."""
    for head in recorded.heads:
        assert (await _export(recorded, head)).verdict == "prefix"


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
async def test_changed_rows_are_found(recorded: Recorded, attack: str, held: bool) -> None:
    """Rows that were changed with every number and leaf kept right do not fit the heads; the report names the place."""
    with closing(sqlite3.connect(recorded.path)) as store, store:
        rows, other = Rows(store, recorded.run_id), Rows(store, recorded.other_run_id)
        ATTACKS[attack](rows, other)
        rows.write()
    report = await _export(recorded, recorded.heads[-1] if held else None)
    assert report.verdict == "wrong"
    assert report.problem is not None
    assert report.problem.code in {"events_changed", "events_missing", "bad_sequence", "no_event"}
    assert report.problem.item.startswith("event")


async def test_a_restored_store_is_a_rollback(recorded: Recorded) -> None:
    """An older database in place of the newer one is told apart only by whoever holds a later head."""
    shutil.copy(recorded.earlier, recorded.path)
    assert (await _export(recorded, None)).verdict == "prefix"
    assert (await _export(recorded, recorded.heads[0])).verdict == "prefix"
    report = await _export(recorded, recorded.heads[-1])
    assert report.problem is not None
    assert report.problem.code == "rollback"


async def test_a_restored_store_that_goes_on_is_a_fork(recorded: Recorded) -> None:
    """An older database that goes on otherwise has another history, which a held head shows."""
    shutil.copy(recorded.earlier, recorded.path)
    async with plane(recorded.path) as cp:
        found = await cp.store.get_session(recorded.session_id)
        assert found is not None
        await _run_tools(cp, recorded.session_id, recorded.run_id, found.root_id, ["x"] * TOOLS)
    assert (await _export(recorded, None)).verdict == "prefix"
    report = await _export(recorded, recorded.heads[-1])
    assert report.problem is not None
    assert report.problem.code == "fork"
