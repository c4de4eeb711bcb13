"""Draining of a node: on a stop it waits for running work, up to a limit."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agentfield import Agent
from agentfield.errors import InvalidInput
from agentfield.settings import DRAIN_SECONDS, drain_seconds
from agentfield.wire.frames import Accepted, Drain, Drained
from support.core.control_plane import Link, Plane, control_plane, invoke

SOURCE = """
import asyncio
from agentfield import Agent
app = Agent(node_id="shop")
@app.reasoner()
async def wait(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"
app.run()
"""


class BusyNode:
    """A process that runs a reasoner, and the control plane's end of its link."""

    def __init__(self, process: asyncio.subprocess.Process, plane: Plane, link: Link) -> None:
        self.process = process
        self.plane = plane
        self.link = link

    async def wait_for_output(self, words: str) -> None:
        """Wait for a line with these words on stderr."""
        assert self.process.stderr is not None
        async with asyncio.timeout(60):
            while line := (await self.process.stderr.readline()).decode():
                if words in line:
                    return
        raise AssertionError(f"it ended without {words!r}")

    async def wait_for_exit(self) -> int:
        """Wait for the end of the process and return its exit code."""
        async with asyncio.timeout(60):
            return await self.process.wait()


async def busy_node(folder: Path, plane: Plane, drain: str) -> BusyNode:
    """Start the process and let it run a reasoner that does not end by itself."""
    file = folder / "shop.py"
    file.write_text(SOURCE)
    env = {
        **os.environ,
        "AGENTFIELD_URL": plane.url,
        "AGENTFIELD_HOME": str(folder),
        "AGENTFIELD_DRAIN_SECONDS": drain,
    }
    process = await asyncio.create_subprocess_exec(sys.executable, str(file), env=env, stderr=asyncio.subprocess.PIPE)
    link = await plane.link()
    await link.send(invoke("wait", {"seconds": 3600}))
    await link.expect(Accepted)
    return BusyNode(process, plane, link)


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    """A control plane that nodes can link to."""
    async with control_plane() as running:
        yield running


async def test_a_stuck_reasoner_is_abandoned_when_the_drain_time_is_over(tmp_path: Path, plane: Plane) -> None:
    """The node says what it waits for, and exits with 0 when its drain time is over."""
    program = await busy_node(tmp_path, plane, "0.5")
    program.process.send_signal(signal.SIGTERM)
    await program.link.expect(Drain)
    await program.wait_for_output("shop stops once 1 run ended, in 0.5 s at most; a second signal stops it now.")
    assert await program.wait_for_exit() == 0


async def test_a_second_signal_stops_at_once(tmp_path: Path, plane: Plane) -> None:
    """A drain request of the control plane starts draining, and a signal after it stops the node without waiting."""
    program = await busy_node(tmp_path, plane, "3600")
    await program.link.send(Drain())
    await program.link.expect(Drain)
    await program.wait_for_output("in 3600 s at most")
    program.process.send_signal(signal.SIGTERM)
    assert await program.wait_for_exit() == 0


async def test_work_sent_before_the_drain_frame_arrived_still_runs(
    tmp_path: Path, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that crosses `Drain` on the wire runs; the node stops only after `Drained`."""
    app = Agent(node_id="shop")

    @app.reasoner()
    async def hello() -> str:
        return "hello"

    monkeypatch.setenv("AGENTFIELD_HOME", str(tmp_path))
    async with app.linked(url=plane.url):
        link = await plane.link()
        node = app._link
        assert node is not None
        draining = asyncio.create_task(node.drain(30))
        await link.expect(Drain)
        asked = invoke("hello", {})
        await link.send(asked)
        await link.expect(Accepted)
        assert (await link.result(asked)).output == "hello"
        assert not draining.done()
        await link.send(Drained())
        async with asyncio.timeout(60):
            await draining


async def test_a_node_that_links_again_while_draining_announces_it(tmp_path: Path, plane: Plane) -> None:
    """The next `Hello` says that the node drains, and its results are still delivered."""
    program = await busy_node(tmp_path, plane, "3600")
    program.process.send_signal(signal.SIGTERM)
    await program.link.expect(Drain)
    await program.link.drop()
    again = await plane.link()
    assert again.hello.draining
    assert len(again.hello.running) == 1
    program.process.send_signal(signal.SIGTERM)
    assert await program.wait_for_exit() == 0


@pytest.mark.parametrize(
    ("given", "env", "seconds"),
    [
        (None, {}, DRAIN_SECONDS),
        (None, {"AGENTFIELD_DRAIN_SECONDS": "5"}, 5.0),
        (0, {"AGENTFIELD_DRAIN_SECONDS": "5"}, 0),
    ],
)
def test_the_drain_time_comes_from_argument_environment_or_default(
    given: float | None, env: dict[str, str], seconds: float
) -> None:
    """The argument of `run` decides, then the environment, then 30 seconds."""
    assert drain_seconds(given, env) == seconds


@pytest.mark.parametrize(
    ("given", "env", "field"),
    [
        (-1, {}, "drain"),
        (float("nan"), {}, "drain"),
        (None, {"AGENTFIELD_DRAIN_SECONDS": "soon"}, "AGENTFIELD_DRAIN_SECONDS"),
        (None, {"AGENTFIELD_DRAIN_SECONDS": "1e9"}, "AGENTFIELD_DRAIN_SECONDS"),
    ],
)
def test_an_invalid_drain_time_is_refused(given: float | None, env: dict[str, str], field: str) -> None:
    """A value that is not a number of seconds is refused with the name of its source."""
    with pytest.raises(InvalidInput) as refused:
        drain_seconds(given, env)
    assert refused.value.data["field"] == field
