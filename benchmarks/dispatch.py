"""Latency from a tool call to the entry of its reasoner on a node in another process, committed before dispatch."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import apsw
from aiohttp import web

from agentfield.identity import NodeKey
from agentfield.ids import new_id
from agentfield_server.access.browser_tokens import BrowserTokenService
from agentfield_server.access.guard import AuthGuard
from agentfield_server.access.service import access_of
from agentfield_server.api.application import build_application
from agentfield_server.api.resources import nodes
from agentfield_server.bus import Bus
from agentfield_server.engine import Engine
from agentfield_server.nodes import LinkHub
from agentfield_server.settings import Settings
from agentfield_server.store.records import NewExecution
from agentfield_server.store.sqlite.store import SqliteStore
from benchmarks.programs import program
from benchmarks.rows import Row, percentile

WARM, ROUNDS = 50, 1000
_NODE = """
import sys, time
from agentfield import Agent

app = Agent("bench", url=sys.argv[1])

@app.reasoner()
async def entered(asked: float, text: str) -> float:
    # CLOCK_MONOTONIC is shared by all processes of a machine
    return time.monotonic() - asked

app.run()
"""


def measure() -> list[Row]:
    """Call a reasoner repeatedly, one call at a time."""
    with tempfile.TemporaryDirectory() as folder:
        floor = _commit_seconds(Path(folder)) * 1000
        times = asyncio.run(_dispatch(Path(folder)))
    entered, recorded = [1000 * each.entered for each in times], [1000 * each.recorded for each in times]
    goals = (
        ("tool asked for to reasoner entered, p50", percentile(entered, 50), 1.0),
        ("tool asked for to reasoner entered, p99", percentile(entered, 99), 4.0),
        ("tool asked for to result recorded, p50", percentile(recorded, 50), 2.2),
    )
    return [Row(name=name, value=value, unit="ms", floor=floor, goal=goal) for name, value, goal in goals]


class _Times(NamedTuple):
    """Seconds from the request of a tool."""

    entered: float
    recorded: float


def _commit_seconds(folder: Path) -> float:
    """Return the median time of a durable commit of one row on this disk: the floor of a durable call."""
    connection = apsw.Connection(str(folder / "floor.db"))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.execute("CREATE TABLE t (x)")
    times = []
    for _ in range(300):
        begin = time.perf_counter()
        connection.execute("INSERT INTO t VALUES (?)", ("x" * 500,))
        times.append(time.perf_counter() - begin)
    connection.close()
    return percentile(times, 50)


async def _dispatch(folder: Path) -> list[_Times]:
    store = SqliteStore(folder / "a.db", on_commit=lambda _: None, clock=time.time)
    await store.open()
    hub = LinkHub(store, key=NodeKey.generate(), clock=time.time)
    settings = Settings(home=folder)
    access = await access_of(store, settings, clock=time.time)
    async with Engine(store, hub, Bus(), access=access.control, clock=time.time) as engine:
        tokens = BrowserTokenService(store, clock=time.time, code_ttl=60)
        guard = AuthGuard(settings, tokens, access, store)
        runner = web.AppRunner(build_application(nodes.routes(hub), guard))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        async with program(["-c", _NODE, f"http://{host}:{port}"], folder, ready=False):
            async with asyncio.timeout(60):
                while not hub.links():  # noqa: ASYNC110 - the node is another process
                    await asyncio.sleep(0.05)
            turn = NewExecution(
                id=new_id("exe"), run_id=new_id("run"), kind="turn", target="bench.call", input={}, status="running"
            )
            await store.create_execution(turn)
            times = []
            for _ in range(WARM + ROUNDS):
                access.control.policies_were_read()  # nothing here reads them again, as the control plane does
                times.append(await _one(engine, turn))
            await hub.close()
            await runner.cleanup()
    await store.close()
    return times[WARM:]


async def _one(engine: Engine, turn: NewExecution) -> _Times:
    """Run a tool as a live call does: within a turn, with an `op_id`."""
    asked = time.monotonic()
    done = await engine.run(
        NewExecution(
            id=new_id("exe"),
            run_id=turn.run_id,
            parent_id=turn.id,
            op_id=new_id("op"),
            kind="tool",
            target="bench.entered",
            input={"asked": asked, "text": "x" * 500},
        ),
        10,
    )
    if done.status != "succeeded":
        raise RuntimeError(f"the reasoner did not answer: {done.problem}")
    return _Times(float(done.output), time.monotonic() - asked)
