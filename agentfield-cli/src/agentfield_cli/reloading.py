"""The agent of `af dev`: when a file changes, the new code is linked first, then the old process is drained."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from agentfield.errors import Unavailable
from agentfield_cli.output import Output
from agentfield_cli.processes import start_agent, stop_agent
from agentfield_server.app import ControlPlane

__all__ = ["Reloader", "python_files"]

EVERY = 0.5
"""Seconds between two looks at the folder. A look costs a `stat` per file, and no watcher of another make."""

LINK_WAIT = 30.0
"""Seconds in which new code must be linked."""

DRAIN_SECONDS = 1800
"""As long as a call may be by default: a call goes on with the code that it began with."""

_FOREIGN = frozenset({"__pycache__", "node_modules", "venv", "site-packages"})

Files = Mapping[str, tuple[int, int]]


class Reloader:
    """Runs an agent file, and runs it anew whenever a Python file of its folder changes.

    Args:
        file: The agent file.
        plane: What it links with.
        out: Where the person at the terminal is told.
    """

    def __init__(self, file: Path, plane: ControlPlane, out: Output) -> None:
        self._file = file
        self._plane = plane
        self._out = out
        self._env = {"AGENTFIELD_DRAIN_SECONDS": str(DRAIN_SECONDS), **os.environ}
        self._running: set[asyncio.subprocess.Process] = set()

    async def run(self) -> None:
        """Run it until cancelled; then all its processes are stopped.

        Raises:
            Unavailable: It cannot be started, or ended by itself (code `agent_ended`).
        """
        folder = self._file.parent
        try:
            seen = await asyncio.to_thread(python_files, folder)
            current = await self._start()
            while not await _ends_within(current, EVERY):
                files = await asyncio.to_thread(python_files, folder)
                if files != seen:
                    seen = files
                    current = await self._replaced(current)
            raise Unavailable(
                f"The agent ended by itself with exit code {current.returncode}.",
                code="agent_ended",
                hint="its message is above; run it again once that is repaired",
            )
        finally:
            await asyncio.gather(*(stop_agent(process) for process in self._running))

    async def _start(self) -> asyncio.subprocess.Process:
        process = await start_agent(self._file, url=self._plane.url, env=self._env)
        self._running = {process, *(other for other in self._running if other.returncode is None)}
        return process

    async def _replaced(self, old: asyncio.subprocess.Process) -> asyncio.subprocess.Process:
        """Return the process of the changed code, once it is linked; or the old one, where the new one does not start."""
        before = {link.instance_id for link in self._plane.hub.links()}
        new = await self._start()
        try:
            async with asyncio.timeout(LINK_WAIT):
                while all(link.instance_id in before for link in self._plane.hub.links()):
                    if await _ends_within(new, 0.05):
                        self._out.line("changed  the new code did not start (see above); the old code goes on", "red")
                        return old
        except TimeoutError:
            self._out.line(f"changed  the new code did not link in {LINK_WAIT:g} s; the old code goes on", "red")
            await stop_agent(new)
            return old
        if old.returncode is None:
            old.terminate()  # it drains: calls that it has go on with the old code
        self._out.line("changed  the new code is linked; calls that are under way end with the old code")
        return new


def python_files(folder: Path) -> Files:
    """Return the Python files under a folder, by path, with when they changed and their size."""
    found: dict[str, tuple[int, int]] = {}
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _FOREIGN and not name.startswith(".")]
        for path in (Path(where, name) for name in files if name.endswith(".py")):
            try:
                stat = path.stat()
            except OSError:
                continue  # it is being replaced: the next look finds it
            found[str(path)] = (stat.st_mtime_ns, stat.st_size)
    return found


async def _ends_within(process: asyncio.subprocess.Process, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        return False
    return True
