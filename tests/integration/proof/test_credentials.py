"""Credentials of executions: one for each, signed by the issuer, with the proof of the node, in order, and anchored."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from agentfield import Agent
from agentfield.identity import canonical, commitment, leaf_hash, tree_root, unb64url
from agentfield.proof import (
    Credential,
    Report,
    parse_credential,
    parse_head,
    verify_consistency,
    verify_export,
)
from agentfield.wire.frames import Invoke
from agentfield_server.store.records import NewEvent
from agentfield_server.store.sqlite.schema import migrate
from agentfield_server.store.sqlite.store import SqliteStore
from support.server.engine import Plane, RawNode, plane
from support.server.proofs import settled
from support.server.store import call, session_pair
from support.waiting import until_async


@pytest.fixture
async def cp(tmp_path: Path) -> AsyncIterator[Plane]:
    async with plane(tmp_path / "a.db") as running:
        yield running


async def credential(cp: Plane, execution_id: str) -> Credential:
    """Return the credential of an execution once it is there, verified."""
    found = await until_async(lambda: cp.store.credential(execution_id))
    assert found is not None
    parsed = parse_credential(found)
    assert parsed.issuer == cp.key.did
    return parsed


async def verified(cp: Plane, path: str) -> Report:
    """Verify an export against the issuer of the running control plane."""
    async with cp.client.get("/api/v1" + path) as response:
        assert response.status == 200
        assert response.content_type == "application/jsonl"
        lines = (await response.read()).splitlines(keepends=True)
    report = verify_export(lines, issuer=cp.key.did)
    assert report.problem is None, report
    return report


async def row_of(cp: Plane, execution_id: str) -> Any:
    row = await cp.store.get_execution(execution_id)
    assert row is not None
    return row


async def test_a_call_and_what_it_called_have_credentials(
    cp: Plane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both are signed by the issuer, embed the proof of the node, and the last one closes the log of the run; it is anchored."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    app = Agent("shop", url=cp.url)

    @app.reasoner()
    async def price(n: int) -> int:
        return 2 * n

    @app.reasoner()
    async def total(n: int) -> int:
        return int(await app.call("shop.price", n=n)) + 1

    async with app:
        _, done, _ = await cp.execute("shop.total", n=3)
        outer = await credential(cp, done["id"])
    run_id = done["run_id"]
    stored = await cp.store.credentials(run_id)
    inner = parse_credential(stored[0].document)
    assert [each.number for each in stored] == [inner.subject.number, outer.subject.number] == [1, 2]
    assert (inner.subject.parent_id, inner.subject.target) == (done["id"], "shop.price")
    assert inner.subject.verify_node()
    assert outer.subject.verify_node()
    row = await row_of(cp, done["id"])
    assert outer.subject.outcome == commitment(row.output_salt, canonical(7))
    assert outer.subject.input == commitment(row.input_salt, canonical({"n": 3}))
    assert b"shop.total" in stored[1].document
    assert b'{"n":3}' not in stored[1].document

    log = outer.subject.log
    assert log is not None
    assert inner.subject.log is None
    events = await cp.store.read_events(run_id)
    assert (log.size, log.root, log.final) == (len(events), tree_root([event.leaf for event in events]), True)
    assert (log.credentials, log.credentials_root, log.previous) == (1, leaf_hash(stored[0].document), None)
    await settled(cp.issuer, run_id)
    anchor = await cp.store.last_anchor(run_id)
    assert anchor is not None
    assert anchor.entry is not None
    assert anchor.leaf == outer.leaf
    batch = [each.leaf for each in await cp.store.batch(anchor.entry)]
    entry = await cp.issuer.own_log.entry(anchor.entry)
    assert (entry["type"], entry["size"]) == ("anchors", len(batch))
    assert outer.leaf in batch

    report = await verified(cp, f"/workflows/{run_id}/export")
    assert (report.verdict, report.events, report.credentials, report.bodies) == (
        "complete",
        len(events),
        2,
        len(events) + 4,
    )
    assert report.anchored == anchor.entry
    assert report.without_node == 0
    without = await verified(cp, f"/workflows/{run_id}/export?bodies=0")
    assert (without.verdict, without.bodies) == ("complete", 0)
    _, shown = await cp.get(f"/executions/{done['id']}/credentials")
    assert canonical(shown["credentials"][0]) == stored[1].document
    _, page = await cp.get(f"/workflows/{run_id}/credentials?limit=1")
    assert (canonical(page["credentials"][0]), page["next"]) == (stored[0].document, 1)
    assert (await cp.get(f"/workflows/{run_id}/export?bodies=2"))[0] == 422
    async with cp.client.get("/.well-known/did.json") as response:
        assert (await response.json())["alsoKnownAs"] == [outer.issuer]
    assert (await cp.get("/workflows/run_0/export"))[1]["code"] == "unknown_run"


async def test_each_end_has_a_credential(cp: Plane) -> None:
    """Failures of the node are embedded as it signed them; what the control plane closed commits to its own problem."""
    async with RawNode().linked(cp) as node:
        failing = await cp.start("node.fn")
        invoke = await node.next(Invoke)
        await node.accept(invoke)
        await node.send(node.result_of(invoke, status="failed", problem={"code": "odd", "detail": "no"}))
        execution_id = await cp.start("node.fn")
        await cp.post(f"/executions/{execution_id}/cancel")
    failed = (await credential(cp, failing)).subject
    assert (failed.status, failed.verify_node(), failed.outcome_name) == ("failed", True, "problem")
    closed = (await credential(cp, execution_id)).subject
    row = await row_of(cp, execution_id)
    assert (closed.status, closed.node, closed.outcome_name) == ("cancelled", None, "problem")
    assert closed.outcome == commitment(row.output_salt, canonical(row.problem))


async def test_none_is_missing_after_many(cp: Plane, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """300 calls at once have 300 credentials, each anchored, in few entries of the control plane's log."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    app = Agent("shop", url=cp.url)

    @app.reasoner()
    async def double(n: int) -> int:
        return 2 * n

    async with app:
        done = await asyncio.gather(*(cp.execute("shop.double", n=n) for n in range(300)))
        for _, body, _ in done:
            await settled(cp.issuer, body["run_id"])
            assert (await credential(cp, body["id"])).subject.verify_node()
    assert await cp.store.oldest_without_credential() is None
    assert 1 <= cp.issuer.own_log.size < 100


async def test_a_session_has_heads(cp: Plane) -> None:
    """A head follows a hundred events and each end of a tool; the final one covers everything, and each names the one before."""
    session, root = session_pair()
    await cp.store.create_session(session, root, owner="cp")
    for n in range(150):
        await cp.store.append_events(session.run_id, [NewEvent(type="turn.transcript", body={"n": n})])
    await until_async(lambda: cp.store.last_head(session.run_id))
    tool = call(run_id=session.run_id, parent_id=root.id, session_id=session.id, kind="tool")
    await cp.store.create_execution(tool, lease_to="i", lease_until=1.0)
    await cp.store.complete_execution(tool.id, attempt=1, status="succeeded", output=1)
    size = await cp.store.log_size(session.run_id)
    await until_async(lambda: cp.store.last_head(session.run_id), lambda head: head is not None and head.size == size)
    status, erased, _ = await cp.post(f"/sessions/{session.id}/redact", {"executions": [tool.id]})
    assert (status, erased["events"]) == (200, 2)  # what has ended, while the session goes on
    assert (await cp.post(f"/sessions/{session.id}/redact"))[1]["code"] == "run_open"
    await cp.store.complete_execution(root.id, attempt=None, status="succeeded", output={})
    await cp.store.update_session(session.id, epoch=1, state="ended", end_reason="operator")
    await settled(cp.issuer, session.run_id)
    heads = await cp.store.heads(session.run_id)
    documents = [json.loads(head.document) for head in heads]
    assert [document["final"] for document in documents[:-1]] == [False] * (len(heads) - 1)
    assert (documents[-1]["final"], documents[-1]["credentials"]["size"]) == (True, 2)
    assert documents[-1]["size"] == await cp.store.log_size(session.run_id)
    report = await verified(cp, f"/sessions/{session.id}/export")
    assert (report.verdict, report.heads, report.credentials) == ("complete", len(heads), 2)
    held = parse_head(heads[0].document)
    _, newest = await cp.get(f"/sessions/{session.id}/head?since={held.coverage.size}")
    head = parse_head(newest["head"])
    assert head.coverage.final
    assert verify_consistency(
        held.coverage.size,
        held.coverage.root,
        head.coverage.size,
        head.coverage.root,
        [unb64url(node) for node in newest["consistency"]],
    )
    assert (await cp.get(f"/sessions/{session.id}/head?since=9999"))[1]["code"] == "unknown_size"


async def test_a_restart_continues(tmp_path: Path) -> None:
    """What ended without an issuer gets its credentials, heads and anchors from the next one, in the order of the ends."""
    store = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=time.time)
    await store.open()
    ended = [call() for _ in range(5)]
    for new in ended:
        await store.create_execution(new, lease_to="i", lease_until=1.0)
    for new in reversed(ended):
        await store.complete_execution(new.id, attempt=1, status="succeeded", output=1)
    waiting = [row.id for row in await store.ended_without_credential(limit=10)]
    await store.close()
    assert waiting == [new.id for new in reversed(ended)]
    async with plane(tmp_path / "a.db") as cp:
        for new in ended:
            await settled(cp.issuer, new.run_id)
            assert (await verified(cp, f"/workflows/{new.run_id}/export")).verdict == "complete"


async def test_redaction_leaves_nothing_but_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No copy of a redacted body is left in any file of the store, and its log, heads and credentials still verify."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path / "node"))
    (tmp_path / "home").mkdir()
    async with plane(tmp_path / "home" / "a.db") as cp:
        app = Agent("shop", url=cp.url)

        @app.reasoner()
        async def inner(text: str) -> str:
            return text.upper()

        @app.reasoner()
        async def outer(text: str) -> dict[str, str]:
            await app.pause("Really?", details={"about": text}, key="k")
            return {"text": await app.call("shop.inner", text=text), "large": text * 10_000}

        async with app:
            started = await cp.start("shop.outer", text="the-secret-word")
            (asked,) = await until_async(lambda: cp.store.list_approvals(status="pending"))
            run_id = asked.run_id
            refused, problem, _ = await cp.post(f"/workflows/{run_id}/redact")
            assert (refused, problem["code"]) == (409, "run_open")
            refused, problem, _ = await cp.post(f"/workflows/{run_id}/redact", {"executions": [started]})
            assert (refused, problem["code"]) == (409, "run_open")
            status, decided, _ = await cp.post(
                f"/approvals/{asked.id}/decision",
                {"decision": "approved", "by": "the-secret-word", "note": "the-secret-word"},
            )
            assert status == 200, decided
            done = await cp.finished(started)
        assert done["status"] == "succeeded", done
        children = [row for row in await cp.store.list_executions(run_id) if row.id != started]
        status, problem, _ = await cp.post(f"/workflows/{run_id}/redact", {"executions": ["exe_0"]})
        assert (status, problem["code"]) == (404, "unknown_execution")
        status, part, _ = await cp.post(f"/workflows/{run_id}/redact", {"executions": [children[0].id]})
        assert (status, part["events"]) == (200, 3)
        status, whole, _ = await cp.post(f"/workflows/{run_id}/redact", {"reason": "request 17"})
        assert status == 200
        events = [json.loads(event.canonical) for event in await cp.store.read_events(run_id)]
        assert whole["events"] == len(events) - 3 - 2
        assert all(event.get("erased") for event in events if event["type"] != "log.redacted")
        first, second = [event["body"] for event in events if event["type"] == "log.redacted"]
        assert (first["events"], first["executions"], len(first["seqs"])) == (3, 1, 1)
        assert (second["reason"], second["by"], second["events"]) == ("request 17", "local", whole["events"])
        row = await row_of(cp, started)
        assert (row.input, row.output, row.input_salt, row.output_salt) == (None, None, None, None)
        await settled(cp.issuer, run_id)
        report = await verified(cp, f"/workflows/{run_id}/export")
        assert (report.verdict, report.credentials, report.bodies, report.heads) == ("complete", 2, 2, 3)
        await cp.store.compact()
        files = [file for file in (tmp_path / "home").iterdir() if file.is_file()]
        assert len(files) > 1
        for file in files:
            found = file.read_bytes().lower()
            assert b"the-secret-word" not in found, file


async def test_a_redaction_that_was_cut_off_gets_its_head(tmp_path: Path) -> None:
    """A control plane that dies between the redaction and its head leaves the head to the next one."""
    async with plane(tmp_path / "a.db") as cp:
        new = call()
        await cp.store.create_execution(new, lease_to="i", lease_until=1.0)
        await cp.store.complete_execution(new.id, attempt=1, status="succeeded", output=1)
        await settled(cp.issuer, new.run_id)
    store = SqliteStore(tmp_path / "a.db", on_commit=lambda _: None, clock=time.time)
    await store.open()
    await store.erase_run(new.run_id, seqs=None, execution_ids=None, reason="", by="local")
    await store.close()
    async with plane(tmp_path / "a.db") as cp:
        head = await until_async(lambda: cp.store.last_head(new.run_id))
        assert head is not None
        assert head.final
        assert head.size == await cp.store.log_size(new.run_id)
        assert (await verified(cp, f"/workflows/{new.run_id}/export")).heads == 2


async def test_a_log_of_format_1_is_not_redacted(tmp_path: Path) -> None:
    """Its entries hold the bodies: the request is refused with another way."""
    path = tmp_path / "a.db"
    connection = apsw.Connection(str(path))
    migrate(connection, 7)
    connection.execute("INSERT INTO runs (id, seq, created_at) VALUES ('run_1', 0, 1.0)")
    connection.close()
    async with plane(path) as cp:
        status, problem, _ = await cp.post("/workflows/run_1/redact")
    assert (status, problem["code"]) == (422, "log_format_1")
    assert "af store prune" in problem["hint"]
