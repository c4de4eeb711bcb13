"""Installations for fault tests: every process of them can be killed and started again."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError
from agentfield.wire.node_views import NodeView
from agentfield.wire.rest import SessionView
from support.faults.store_reader import StoreReader
from support.paths import ROOT
from support.processes.programs import Program, free_port
from support.waiting import until_async

__all__ = ["DICTATION", "STEPS", "Installation", "opened"]

STEPS = ROOT / "tests" / "faults" / "programs" / "steps_agent.py"
"""The agent of these tests."""
DICTATION = ROOT / "examples" / "voice_dictation" / "agent.py"


class Installation:
    """A control plane and agents as processes that a test kills and starts again; folder and port outlive them.

    Args:
        folder: Where everything is kept.
        local_url: Address of the local provider; None lets the control plane start its own.
        openai_url: Base URL that stands for OpenAI and OpenRouter.
    """

    def __init__(self, folder: Path, *, local_url: str | None = None, openai_url: str | None = None) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = {"AGENTFIELD_HOME": str(self.home), "AGENTFIELD_PORT": str(self.port)}
        provider_env = {"AGENTFIELD_LOCAL_URL": local_url} if local_url else {}
        if openai_url:
            names = ("OPENAI", "OPENROUTER")
            provider_env |= {f"{name}_BASE_URL": openai_url for name in names}
            provider_env |= {f"{name}_API_KEY": "sk-none-needed" for name in names}
        self._programs: list[Program] = []
        self.plane = self.program("plane", "-m", "agentfield_server", env={**self.env, **provider_env})
        self.client = ControlPlaneClient(self.url)
        self.gate = folder / "gate.closed"

    def program(self, name: str, *arguments: str, env: Mapping[str, str]) -> Program:
        """Return a Python program of this installation, not yet started."""
        program = Program((sys.executable, *arguments), env=env, log=self.folder / f"{name}.log")
        self._programs.append(program)
        return program

    def agent(self, file: Path = STEPS, *, env: Mapping[str, str] = MappingProxyType({})) -> Program:
        """Return an agent of this installation, not yet started."""
        ours = {"AGENTFIELD_HOME": str(self.home), "AGENTFIELD_URL": self.url, "STEPS_FOLDER": str(self.folder)}
        ours["AGENTFIELD_DRAIN_SECONDS"] = (
            "1"  # applies to agents that get SIGTERM; the other tests do not depend on it
        )
        return self.program("agent", str(file), env={**ours, **env})

    def provider(self, port: int) -> Program:
        """Return a local provider on a port, with tones for speech, not yet started."""
        serve = ("-m", "agentfield_local", "--engines", "synthetic", "--port", str(port), "--linger", "0")
        return self.program("provider", *serve, env={})

    async def start_provider(self, server: Program) -> None:
        """Start a provider and wait until it reports its address."""
        before = server.output.count('"url"')
        await server.start()

        async def ready() -> bool:
            server.check()
            return server.output.count('"url"') > before

        await until_async(ready)

    async def start_plane(self) -> None:
        """Start the control plane and wait until it serves."""
        await self.plane.start()

        async def serves() -> bool:
            self.plane.check()
            try:
                return bool(await self.client.health())
            except AgentFieldError:
                return False

        await until_async(serves)

    async def start_agent(self, agent: Program) -> NodeView:
        """Start an agent and wait until a new instance is linked."""
        before = {node.instance_id for node in await self.client.nodes()}
        await agent.start()
        return await self.linked(agent, but=before)

    async def linked(self, agent: Program, *, but: Iterable[str] = ()) -> NodeView:
        """Wait until an instance other than those in `but` is linked, and return it."""
        known = set(but)

        async def look() -> NodeView | None:
            agent.check()
            nodes = [node for node in await self.client.nodes() if node.connected and node.instance_id not in known]
            return nodes[0] if nodes else None

        found = await until_async(look)
        assert found is not None
        return found

    async def ended(self, session_id: str) -> SessionView:
        """Wait for the end of a session and return it."""
        return await until_async(lambda: self.client.get_session(session_id), lambda view: view.state == "ended")

    def stored(self) -> StoreReader:
        """Return a reader of the store."""
        return StoreReader(self.home / "agentfield.db")

    async def close(self) -> None:
        """Kill what still runs."""
        for program in self._programs:
            await program.close()


@asynccontextmanager
async def opened(installation: Installation) -> AsyncIterator[Installation]:
    """Use an installation and kill all its programs afterwards."""
    installation.folder.mkdir(parents=True, exist_ok=True)
    async with installation.client:
        try:
            yield installation
        finally:
            await installation.close()
