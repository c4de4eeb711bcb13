"""`af dev` and files that change: what runs ends with the old code, what is new gets the new code."""

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
        """Wait for a line with these words and return it."""
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
    """Run `af dev` on a folder; it ends with 0 at a signal."""
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
            async with asyncio.timeout(30):
                await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
    assert process.returncode == 0


async def test_dev_takes_changed_code(tmp_path: Path) -> None:
    """Work under way ends with the old code, what comes next gets the new code; a file with a mistake changes nothing."""
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

            agent.write_text(SOURCE.format(word="new"))
            await running.said("the new code is linked")
            assert (await client.execute("shop.word")).output == "new"
            assert [node.draining for node in await client.nodes() if node.running] == [True]
            (folder / "gate.open").touch()
            ended = await client.wait_execution(held.id)
            assert (ended.status, ended.output, ended.attempt) == ("succeeded", "old", 1)
