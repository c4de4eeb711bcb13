"""A node that is told to stop while something runs: it waits for that, as long as it may and not longer."""

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
from unit.core_plane import Link, Plane, control_plane, invoke

SOURCE = """
import asyncio
from agentfield import Agent
app = Agent(node_id="shop")
@app.reasoner()
async def hold(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"
app.run()
"""


class Held:
    """A program that runs a reasoner, and the control plane's end of its link."""

    def __init__(self, process: asyncio.subprocess.Process, plane: Plane, link: Link) -> None:
        self.process = process
        self.plane = plane
        self.link = link

    async def said(self, words: str) -> None:
        """Wait for a line with these words."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while line := (await self.process.stderr.readline()).decode():
                if words in line:
                    return
        raise AssertionError(f"it ended without {words!r}")

    async def ended(self) -> int:
        """Wait for its end."""
        async with asyncio.timeout(30):
            return await self.process.wait()


async def held(folder: Path, plane: Plane, drain: str) -> Held:
    """Start the program and have it run something that does not end by itself."""
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
    await link.send(invoke("hold", {"seconds": 3600}))
    await link.expect(Accepted)
    return Held(process, plane, link)


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    """A control plane."""
    async with control_plane() as running:
        yield running


async def test_a_stuck_reasoner_is_given_up_when_the_time_is_over(tmp_path: Path, plane: Plane) -> None:
    """The node says what it waits for, and exits with 0 when its time is over."""
    program = await held(tmp_path, plane, "0.5")
    program.process.send_signal(signal.SIGTERM)
    await program.link.expect(Drain)
    await program.said("shop stops once 1 run ended, in 0.5 s at most; a second signal stops it now.")
    assert await program.ended() == 0


async def test_a_second_signal_stops_at_once(tmp_path: Path, plane: Plane) -> None:
    """The control plane's wish begins to drain it, and a signal then does not wait for what runs."""
    program = await held(tmp_path, plane, "3600")
    await program.link.send(Drain())
    await program.link.expect(Drain)
    await program.said("in 3600 s at most")
    program.process.send_signal(signal.SIGTERM)
    assert await program.ended() == 0


async def test_what_was_sent_before_the_control_plane_knew_is_still_run(
    tmp_path: Path, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that crosses the wish to drain is run; the node leaves only when it is told that no more can come."""
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
        async with asyncio.timeout(10):
            await draining


async def test_a_node_that_links_again_while_it_drains_says_so(tmp_path: Path, plane: Plane) -> None:
    """The control plane that answers next is told in the introduction; results are still brought."""
    program = await held(tmp_path, plane, "3600")
    program.process.send_signal(signal.SIGTERM)
    await program.link.expect(Drain)
    await program.link.drop()
    again = await plane.link()
    assert again.hello.draining
    assert len(again.hello.running) == 1
    program.process.send_signal(signal.SIGTERM)
    assert await program.ended() == 0


@pytest.mark.parametrize(
    ("given", "env", "seconds"),
    [
        (None, {}, DRAIN_SECONDS),
        (None, {"AGENTFIELD_DRAIN_SECONDS": "5"}, 5.0),
        (0, {"AGENTFIELD_DRAIN_SECONDS": "5"}, 0),
    ],
)
def test_how_long_to_drain(given: float | None, env: dict[str, str], seconds: float) -> None:
    """What `run` is given decides, then the environment, then 30 seconds."""
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
def test_a_time_to_drain_that_is_none(given: float | None, env: dict[str, str], field: str) -> None:
    """What is no number of seconds is refused by the name of who said it."""
    with pytest.raises(InvalidInput) as refused:
        drain_seconds(given, env)
    assert refused.value.data["field"] == field
