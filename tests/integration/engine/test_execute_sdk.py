"""Executions through the SDK: agents link, call each other, fail and link again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfield import Agent, context
from agentfield_server.engine.results import check_record
from support.server.engine import Plane, plane
from support.waiting import until


@pytest.fixture
async def cp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plane]:
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    monkeypatch.delenv("AGENTFIELD_API_KEY", raising=False)
    async with plane(tmp_path / "a.db") as running:
        yield running


async def test_two_agents_make_one_signed_workflow(cp: Plane) -> None:
    """A reasoner calls another agent; outputs, parents, headers and signatures are right."""
    shop, stock = Agent("shop", url=cp.url), Agent("stock", url=cp.url)
    seen: dict[str, str] = {}

    @stock.reasoner()
    async def count(item: str) -> int:
        current = context.current()
        assert current is not None
        seen.update(current.headers)
        return len(item)

    @shop.reasoner()
    async def answer(item: str, note: str | None = None) -> dict[str, object]:
        return {"count": await shop.call("stock.count", item=item), "note": note}

    async with shop, stock:
        status, body, _ = await cp.execute("shop.answer", item="lamp", note=None)
        assert status == 200, body
        _, dag = await cp.get(f"/workflows/{body['run_id']}/dag")
    assert body["output"] == {"count": 4, "note": None}
    root, child = dag["executions"]
    assert (root["target"], child["target"], child["parent_id"]) == ("shop.answer", "stock.count", root["id"])
    assert (seen["X-Run-ID"], seen["X-Parent-Execution-ID"]) == (body["run_id"], root["id"])
    for execution_id in (root["id"], child["id"]):
        row = await cp.store.get_execution(execution_id)
        assert row is not None
        assert check_record(row)
        assert row.statement is not None
    assert [event["type"] for event in await cp.events(body["run_id"])] == [
        "execution.created",
        "execution.started",
        "execution.created",
        "execution.started",
        "execution.ended",
        "execution.ended",
    ]


async def test_errors_of_a_reasoner_reach_the_caller(cp: Plane) -> None:
    """Invalid input names the field, an exception is a failure, and so is an output that is not JSON; the agent stays linked."""
    agent = Agent("shop", url=cp.url)

    @agent.reasoner()
    async def half(n: int) -> float:
        return n / 2

    @agent.reasoner()
    async def broken() -> None:
        raise RuntimeError("the printer burns")

    @agent.reasoner()
    async def odd() -> object:
        return object()

    async with agent:
        status, body, _ = await cp.execute("shop.half", n="much")
        assert (status, body["code"], body["field"]) == (422, "invalid_input", "n")
        status, body, _ = await cp.execute("shop.broken")
        assert status >= 500
        assert "the printer burns" in body["detail"]
        status, body, _ = await cp.execute("shop.odd")
        assert status >= 400
        status, body, _ = await cp.execute("shop.half", n=3)
    assert (status, body["output"]) == (200, 1.5)


async def test_nodes_lists_linked_agents(cp: Plane) -> None:
    """GET /nodes shows the functions of a node and whether it is connected."""
    agent = Agent("shop", url=cp.url)

    @agent.reasoner()
    async def half(n: int) -> float:
        return n / 2

    async with agent:
        _, views = await cp.get("/nodes")
        assert [(v["node_id"], v["functions"], v["connected"]) for v in views] == [("shop", ["half"], True)]
    await until(lambda: not cp.hub.links())
    _, views = await cp.get("/nodes")
    assert [(v["node_id"], v["connected"]) for v in views] == [("shop", False)]


async def test_agent_survives_a_restart_of_the_control_plane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    """Work that runs during the restart is kept: the agent links again and its result counts."""
    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    agent = Agent("shop", url=f"http://127.0.0.1:{unused_tcp_port}")
    entered, go = asyncio.Event(), asyncio.Event()

    @agent.reasoner()
    async def slow() -> str:
        entered.set()
        await go.wait()
        return "kept"

    async with plane(tmp_path / "a.db", lease=20.0, port=unused_tcp_port) as cp:
        await agent.__aenter__()
        execution_id = await cp.start("shop.slow")
        await asyncio.wait_for(entered.wait(), 60)
    try:
        async with plane(tmp_path / "a.db", lease=20.0, port=unused_tcp_port) as cp:
            await until(cp.hub.links)
            go.set()
            view = await cp.finished(execution_id)
    finally:
        await agent.__aexit__(None, None, None)
    assert (view["status"], view["output"], view["attempt"]) == ("succeeded", "kept", 1)
