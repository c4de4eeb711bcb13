"""A whole installation of processes that serves the dictation example."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from support.paths import ROOT
from support.processes.programs import AF, Program, running_program
from support.waiting import until_async

__all__ = ["EXAMPLE", "Installation", "run_dev_installation", "run_installation"]

EXAMPLE = ROOT / "examples" / "voice_dictation"


@dataclass(slots=True)
class Installation:
    """A running installation that serves the dictation page."""

    url: str
    home: Path
    http: aiohttp.ClientSession
    logs: list[Path] = field(default_factory=list)

    @property
    def page(self) -> str:
        """The address that `af dev` prints, of the page with details."""
        return f"{self.url}/#details"

    async def get(self, path: str) -> Any:
        """Return the JSON of a GET request, made with the operator's rights."""
        async with self.http.get(f"{self.url}/api/v1{path}") as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def session(self, session_id: str) -> dict[str, Any]:
        """Return a session."""
        view: dict[str, Any] = await self.get(f"/sessions/{session_id}")
        return view

    async def ended(self, session_id: str) -> dict[str, Any]:
        """Return a session once it has ended."""
        return await until_async(lambda: self.session(session_id), lambda view: view["state"] == "ended")

    async def start(self, target: str = "voice-dictation.dictate") -> dict[str, Any]:
        """Start a session as `af session start` does."""
        async with self.http.post(f"{self.url}/api/v1/sessions", json={"target": target}) as response:
            assert response.status == 201, await response.text()
            body: dict[str, Any] = await response.json()
            return body

    async def events(self, session_id: str) -> list[dict[str, Any]]:
        """Return the recorded events of an ended session."""
        async with self.http.get(f"{self.url}/api/v1/sessions/{session_id}/events") as response:
            text = await response.text()
        return [json.loads(found) for found in re.findall(r"^data: (\{.*\})\r?$", text, re.MULTILINE)]

    async def end_calls(self) -> None:
        """End the sessions that are not over: a node that stops would wait for them."""
        for view in await self.get("/sessions"):
            if view["state"] != "ended":
                async with self.http.post(f"{self.url}/api/v1/sessions/{view['id']}/end", json={}) as response:
                    assert response.status in (200, 409), await response.text()

    async def targets(self) -> set[str]:
        """Return the targets of all sessions of linked nodes."""
        nodes = [node for node in await self.get("/nodes") if node["connected"]]
        return {f"{node['node_id']}.{name}" for node in nodes for name in node["sessions"]}

    def everything(self) -> dict[str, bytes]:
        """Return every file that the installation wrote: logs, store, state files."""
        files = [*self.logs, *(path for path in self.home.rglob("*") if path.is_file())]
        return {str(path): path.read_bytes() for path in files}


@asynccontextmanager
async def run_installation(
    folder: Path, *, env: Mapping[str, str], agent_env: Mapping[str, str]
) -> AsyncIterator[Installation]:
    """Run a control plane that serves the dictation page, and its agent, as two processes.

    Args:
        folder: Where everything is kept.
        env: The control plane's settings; the agent does not see them.
        agent_env: The agent's settings.
    """
    home, plane_log, agent_log = folder / "home", folder / "plane.log", folder / "agent.log"
    where = {"AGENTFIELD_HOME": str(home)}
    settings = {**where, "AGENTFIELD_PORT": "0", "AGENTFIELD_WEB_DIR": str(EXAMPLE / "web"), **env}
    server = [sys.executable, "-m", "agentfield_server"]
    agent = [sys.executable, str(EXAMPLE / "agent.py")]
    async with (
        aiohttp.ClientSession(trust_env=False) as http,
        running_program(server, env=settings, log=plane_log) as plane,
    ):
        it = Installation(await _announced(home, plane), home, http, [plane_log, agent_log])
        async with running_program(agent, env={**where, **agent_env}, log=agent_log) as node:
            await _linked(it, node)
            yield it
            await it.end_calls()


@asynccontextmanager
async def run_dev_installation(folder: Path, *, env: Mapping[str, str]) -> AsyncIterator[Installation]:
    """Run `af dev examples/voice_dictation`, the one command of the example's README."""
    home, log = folder / "home", folder / "dev.log"
    af = [AF, "dev", "examples/voice_dictation", "--port", "0"]
    async with (
        aiohttp.ClientSession(trust_env=False) as http,
        running_program(af, env={"AGENTFIELD_HOME": str(home), **env}, log=log) as dev,
    ):
        it = Installation(await _announced(home, dev), home, http, [log])
        await _linked(it, dev)
        yield it
        await it.end_calls()


async def _announced(home: Path, server: Program) -> str:
    current = home / "current.json"

    async def look() -> str:
        server.check()
        return str(json.loads(current.read_text())["url"]) if current.exists() else ""

    return await until_async(look, what="the control plane")


async def _linked(installation: Installation, program: Program) -> None:
    async def look() -> bool:
        program.check()
        return "voice-dictation.dictate" in await installation.targets()

    await until_async(look, what="the agent")
