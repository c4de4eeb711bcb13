"""A node process whose function blocks the event loop: what the control plane hears meanwhile, and what the log says."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agentfield.wire.frames import (
    Accepted,
    GiveBack,
    GivenBack,
    LoopState,
    Result,
    ResultAck,
    WatchHello,
)
from agentfield.wire.link_protocol import choose_protocol
from support.core.control_plane import Link, Plane, control_plane, invoke

SOURCE = """
import os, time
from pathlib import Path
from agentfield import Agent
app = Agent(node_id="shop")
gate = Path(os.environ["GATE"])
@app.reasoner()
async def block(seconds: float) -> str:
    while gate.exists():
        time.sleep(0.02)  # blocking is what the test is about
    return "done"
@app.reasoner()
async def quick() -> str:
    return "quick"
app.run()
"""


class BlockingNode:
    """The process, and the control plane's end of its link; its function blocks until `gate` is removed."""

    def __init__(self, process: asyncio.subprocess.Process, link: Link, gate: Path, log: Path) -> None:
        self.process = process
        self.link = link
        self.gate = gate
        self.log = log


@asynccontextmanager
async def blocking_node(folder: Path, plane: Plane) -> AsyncIterator[BlockingNode]:
    """Run the process until the block ends."""
    file, gate, log = folder / "shop.py", folder / "gate.closed", folder / "log"
    file.write_text(SOURCE)
    gate.touch()
    env = {**os.environ, "AGENTFIELD_URL": plane.url, "AGENTFIELD_HOME": str(folder), "GATE": str(gate)}
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(sys.executable, str(file), env=env, stderr=stderr)
    try:
        yield BlockingNode(process, await plane.link(), gate, log)
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    """A control plane that nodes can link to."""
    async with control_plane() as running:
        yield running


@pytest.mark.parametrize(
    ("offered", "chosen"), [((1,), 1), ((1, 2), 2), ((1, 2, 3), 2), ((2, 7), 2), ((3, 4), None), ((), None)]
)
def test_the_newest_common_version_is_chosen(offered: tuple[int, ...], chosen: int | None) -> None:
    """Versions that only one side speaks are passed over."""
    assert choose_protocol(offered) == chosen


@pytest.mark.parametrize(("offered", "version"), [((), 1), ((1, 2), 2), ((2, 3), 2)])
async def test_accepted_arrives_while_the_function_blocks(
    tmp_path: Path, plane: Plane, offered: tuple[int, ...], version: int
) -> None:
    """`Accepted` is on the wire before the function runs, with control planes of both versions."""
    plane.offered = offered
    async with blocking_node(tmp_path, plane) as node:
        assert node.link.hello.protocol == version
        await node.link.send(invoke("block", {"seconds": 1}))
        await node.link.expect(Accepted)
        assert node.gate.exists()
        node.gate.unlink()
        assert (await node.link.expect(Result)).output == "done"


async def test_the_watchdog_reports_and_gives_back(tmp_path: Path, plane: Plane) -> None:
    """It names the blocking function with its stack; what was not entered is given back and never started."""
    plane.offered = (1, 2)
    async with blocking_node(tmp_path, plane) as node:
        blocking = invoke("block", {"seconds": 1}, execution_id="exe_block")
        await node.link.send(blocking)
        await node.link.expect(Accepted)
        await node.link.send(invoke("quick", {}, execution_id="exe_unread"))
        watch = await plane.watch()
        assert isinstance(watch.hello, WatchHello)
        assert watch.hello.instance_id == node.link.hello.instance_id
        state = await watch.expect(LoopState)
        assert state.blocked >= 1
        assert "shop.block exe_block at shop.py:" in str(state.function)
        given_back = await watch.until(GiveBack)
        assert (given_back.number, [a.execution_id for a in given_back.entered]) == (1, ["exe_block"])
        node.gate.unlink()
        frames = [await node.link.expect(object) for _ in range(3)]
        assert sorted(type(frame).__name__ for frame in frames) == ["GiveBack", "LoopState", "Result"]
        await node.link.send(ResultAck(execution_id="exe_block", attempt=1))
        await node.link.send(GivenBack(number=1))
        await node.link.send(invoke("quick", {}, execution_id="exe_fresh"))
        assert (await node.link.expect(Accepted)).execution_id == "exe_fresh"
        assert (await node.link.expect(Result)).output == "quick"
        log = node.log.read_text()
    assert "shop.block exe_block blocks the event loop of shop for" in log
    # the stack is that of a moment: in the sleep, or in the look at the file between two of them
    assert re.search(r'shop\.py", line \d+, in block\n\s+(time\.sleep\(0\.02\)|while gate\.exists\(\):)', log), log
    assert "the event loop of shop turns again; shop.block exe_block at shop.py:" in log
