"""`af dev` and changed files: running work finishes with the old code, new work uses the new code."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from agentfield.client import ControlPlaneClient
from support.waiting import until_async

AF = str(Path(sys.executable).with_name("af"))
SOURCE = """
import asyncio
from pathlib import Path
from agentfield import Agent
app = Agent(node_id="shop")
@app.reasoner()
async def word(wait: bool = False) -> str:
    while wait and not Path("gate.open").exists():
        await asyncio.sleep(0.02)
    return "{word}"
app.run()
"""


class Dev:
    """A running `af dev`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def said(self, words: str) -> str:
        """Wait for a line that contains these words and return it."""
        assert self.process.stdout is not None
        said = ""
        async with asyncio.timeout(60):
            while line := (await self.process.stdout.readline()).decode():
                said += line
                if words in line:
                    return line
        raise AssertionError(f"it ended without {words!r}: {said}")


@asynccontextmanager
async def dev(folder: Path, home: Path) -> AsyncIterator[Dev]:
    """Run `af dev` on a folder; a signal ends it with 0."""
    process = await asyncio.create_subprocess_exec(
        AF,
        "dev",
        str(folder),
        "--port",
        "0",
        env={**os.environ, "AGENTFIELD_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Dev(process)
    finally:  # asked first, so that it stops its agent too
        process.send_signal(signal.SIGINT)
        try:
            async with asyncio.timeout(60):
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
    assert process.returncode == 0


async def test_dev_reloads_changed_code(tmp_path: Path) -> None:
    """Running work finishes with the old code, new work uses the new code; a file with a syntax error changes nothing."""
    folder = tmp_path / "project"
    folder.mkdir()
    agent = folder / "agent.py"
    agent.write_text(SOURCE.format(word="old"))
    async with dev(folder, tmp_path / "home") as running:
        address = re.search(r"page +(http://\S+)/", await running.said("page "))
        assert address is not None
        await running.said("shop is linked to")
        async with ControlPlaneClient(address[1]) as client:
            held = await client.execute_async("shop.word", {"wait": True})

            agent.write_text(SOURCE.format(word="broken") + "def (\n")
            await running.said("SyntaxError")
            await running.said("the new code did not start")
            assert (await client.execute("shop.word")).output == "old"

            # all names are new: the process that is replaced does not stand in the way
            agent.write_text(SOURCE.format(word="other").replace("async def word", "async def other"))
            await running.said("the new code is linked")
            assert (await client.execute("shop.other")).output == "other"

            agent.write_text(SOURCE.format(word="new"))
            await running.said("the new code is linked")
            assert (await client.execute("shop.word")).output == "new"
            # the old process is told to stop before the line is printed, and announces later that it drains
            await until_async(client.nodes, lambda nodes: [node.draining for node in nodes if node.running] == [True])
            (folder / "gate.open").touch()
            ended = await client.wait_execution(held.id)
            assert (ended.status, ended.output, ended.attempt) == ("succeeded", "old", 1)
