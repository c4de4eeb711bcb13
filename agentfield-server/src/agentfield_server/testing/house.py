"""A control plane in the test's own process: a temporary home, a free port, a real store, real REST, a scripted provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agentfield.agent import Agent
from agentfield.client import ControlPlaneClient
from agentfield.plugins import Registry
from agentfield.testing.scripted import Scripted
from agentfield.wire.rest import StartRequest
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from agentfield_server.testing.agentfiles import load_agent, target_of
from agentfield_server.testing.caller import Caller
from agentfield_server.testing.clock import Clock
from agentfield_server.testing.lines import line_for
from agentfield_server.testing.log import Log

__all__ = ["SPEED", "House"]

SPEED = 20.0
"""How many times as fast as a person the agent speaks in tests, where nothing else is said."""


class House:
    """All that one test has; started with the first thing that needs it, and shared by what the test does.

    Args:
        home: The folder of its control plane.
        folders: Where agent files are looked for.
    """

    def __init__(self, home: Path, folders: Sequence[Path]) -> None:
        self._home = home
        self._folders = folders
        self._users = 0
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._plane: ControlPlane | None = None
        self._logs: set[Log] = set()
        self.script = Scripted(speed=SPEED)
        self.script.on_disagree = self._tell_all
        self.clock = Clock()

    @asynccontextmanager
    async def plane(self) -> AsyncIterator[ControlPlane]:
        """Run the control plane as long as anybody is in here."""
        async with self._lock:
            if self._plane is None:
                self._plane = await self._stack.enter_async_context(self._started())
            self._users += 1
            plane = self._plane
        try:
            yield plane
        finally:
            async with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._plane = None
                    await self._stack.aclose()

    @asynccontextmanager
    async def call(
        self,
        *agents: str | Path | Agent,
        session: str | None = None,
        caller: str | None = None,
        metadata: Mapping[str, Any] = MappingProxyType({}),
        pause: str | None = None,
    ) -> AsyncIterator[Caller]:
        """Link agents, start a session and call it; hang up and check at the end. See `agentfield_server.testing.plugin.call`."""
        made = [each if isinstance(each, Agent) else load_agent(each, self._folders) for each in agents]
        target = target_of(made, session)
        async with AsyncExitStack() as stack:
            plane = await stack.enter_async_context(self.plane())
            for agent in made:
                await stack.enter_async_context(agent.linked(url=plane.url))
            client = await stack.enter_async_context(ControlPlaneClient(plane.url))
            request = StartRequest(target=target, caller=caller, metadata=dict(metadata))
            started = await client.start_session(request)
            log = await stack.enter_async_context(Log(client, started.session_id))
            self.script.pauses = [] if pause is None else [pause]
            self._logs.add(log)
            stack.callback(self._logs.discard, log)
            title = self._title(plane, target, started.provider, started.transport, started.floor)
            line = await stack.enter_async_context(line_for(started, client, self.script))
            one = Caller(started, line=line, log=log, client=client, script=self.script, clock=self.clock, title=title)
            await one.connected()
            try:
                yield one
            except AssertionError as error:
                if one.story not in str(error):
                    error.add_note(f"\n{one.story}")
                raise
            if log.end is None:
                await one.hangs_up()
            one.check()

    # --- inside

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[ControlPlane]:
        settings = Settings(
            host="127.0.0.1",
            port=0,
            home=self._home,
            api_key=None,
            public_url=None,
            web_dir=None,
            allowed_origins=(),
            provider_concurrency={},
            prices=None,
        )
        registry = self.script.stand_in(Registry.discover())
        async with control_plane(settings, registry=registry, environ={}, clock=self.clock) as plane:
            yield plane

    def _title(self, plane: ControlPlane, target: str, provider: str, transport: str, floor: str) -> str:
        scripted = "scripted" if provider == "scripted" else f"scripted for {provider}/{transport}"
        notes = plane.registry.resolve(provider, transport).notes
        return f"{target}, {notes if notes.startswith(f'{scripted}, ') else scripted}, {floor} floor"

    def _tell_all(self) -> None:
        """Let everybody who waits look again: what they wait for may never come."""
        for log in self._logs:
            log.poke()
