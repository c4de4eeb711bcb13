"""Agent of `af dev`: when a file changes, the process with the new code links first, then the old process drains."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from agentfield.errors import Unavailable
from agentfield_cli.processes.children import start_agent, stop_agent
from agentfield_cli.terminal.output import Output
from agentfield_server.app import ControlPlane

__all__ = ["Reloader", "python_files"]

POLL_INTERVAL = 0.5
"""Seconds between two scans of the folder. A scan costs one `stat` per file and needs no file-watching library."""

LINK_TIMEOUT = 30.0
"""Seconds within which a process with new code must link."""

DRAIN_SECONDS = 1800
"""Drain time of a replaced process: the default maximum length of a call, which finishes with its original code."""

_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "venv", "site-packages"})

Files = Mapping[str, tuple[int, int]]
"""Modification time in nanoseconds and size in bytes, by path."""


class Reloader:
    """Runs an agent file and restarts it when a Python file of its folder changes.

    Args:
        file: The agent file.
        plane: The control plane that the agent links with.
        out: Prints the result of each reload.
    """

    def __init__(self, file: Path, plane: ControlPlane, out: Output) -> None:
        self._file = file
        self._plane = plane
        self._out = out
        self._env = {"AGENTFIELD_DRAIN_SECONDS": str(DRAIN_SECONDS), **os.environ}
        self._running: set[asyncio.subprocess.Process] = set()

    async def run(self) -> None:
        """Run the agent until cancelled, then stop all its processes.

        Raises:
            Unavailable: The agent cannot be started, or ended by itself (code `agent_ended`).
        """
        folder = self._file.parent
        try:
            known = await asyncio.to_thread(python_files, folder)
            current = await self._start()
            while not await _exits_within(current, POLL_INTERVAL):
                files = await asyncio.to_thread(python_files, folder)
                if files != known:
                    known = files
                    current = await self._replace(current)
            raise Unavailable(
                f"The agent ended by itself with exit code {current.returncode}.",
                code="agent_ended",
                hint="see its message above; run the command again once the error is fixed",
            )
        finally:
            await asyncio.gather(*(stop_agent(process) for process in self._running))

    async def _start(self) -> asyncio.subprocess.Process:
        process = await start_agent(self._file, url=self._plane.url, env=self._env)
        self._running = {process, *(other for other in self._running if other.returncode is None)}
        return process

    async def _replace(self, old: asyncio.subprocess.Process) -> asyncio.subprocess.Process:
        """Return the process with the new code once it is linked, or the old process if the new one fails.

        Order matters: the new process links before the old one drains, so that a call always finds a linked node.
        """
        with self._plane.hub.replacing(link.instance_id for link in self._plane.hub.links()):
            return await self._replace_when_linked(old)

    async def _replace_when_linked(self, old: asyncio.subprocess.Process) -> asyncio.subprocess.Process:
        before = {link.instance_id for link in self._plane.hub.links()}
        new = await self._start()
        try:
            async with asyncio.timeout(LINK_TIMEOUT):
                while all(link.instance_id in before for link in self._plane.hub.links()):
                    if await _exits_within(new, 0.05):
                        self._out.line(
                            "changed  the new code did not start (see above); the old code keeps running", "red"
                        )
                        return old
        except TimeoutError:
            self._out.line(
                f"changed  the new code did not link within {LINK_TIMEOUT:g} s; the old code keeps running", "red"
            )
            await stop_agent(new)
            return old
        if old.returncode is None:
            old.terminate()  # it drains: its open calls finish with the old code
        self._out.line("changed  the new code is linked; calls in progress finish with the old code")
        return new


def python_files(folder: Path) -> Files:
    """Return the Python files under a folder with their modification times and sizes."""
    found: dict[str, tuple[int, int]] = {}
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith(".")]
        for path in (Path(where, name) for name in files if name.endswith(".py")):
            try:
                stat = path.stat()
            except OSError:
                continue  # an editor is replacing the file; the next scan finds it
            found[str(path)] = (stat.st_mtime_ns, stat.st_size)
    return found


async def _exits_within(process: asyncio.subprocess.Process, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await process.wait()
    except TimeoutError:
        return False
    return True
