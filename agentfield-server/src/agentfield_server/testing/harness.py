"""The control plane of one test, in the test's process: temporary home, free port, real store and REST, scripted provider."""

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
from agentfield.testing.scripted import ScriptedProvider
from agentfield.wire.rest import StartRequest
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from agentfield_server.testing.agent_files import load_agent, target_of
from agentfield_server.testing.caller import Caller
from agentfield_server.testing.caller_connection import connection_for
from agentfield_server.testing.clock import TimeSkippingClock
from agentfield_server.testing.event_log import SessionEventLog

__all__ = ["SPEED", "ControlPlaneHarness"]

SPEED = 20.0
"""Default speed of the agent's speech in tests, as a multiple of a person's."""


class ControlPlaneHarness:
    """The shared state of one test's fixtures; the control plane starts with its first user and stops with its last.

    Args:
        home: Home folder of the control plane.
        folders: Folders that agent files are resolved against.
    """

    def __init__(self, home: Path, folders: Sequence[Path]) -> None:
        self._home = home
        self._folders = folders
        self._users = 0
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._plane: ControlPlane | None = None
        self._logs: set[SessionEventLog] = set()
        self.provider = ScriptedProvider(speed=SPEED)
        self.provider.on_mismatch = self._wake_all
        self.clock = TimeSkippingClock()

    @asynccontextmanager
    async def plane(self) -> AsyncIterator[ControlPlane]:
        """Yield the running control plane; nested and concurrent users share one."""
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
        """Link agents, start a session and connect a caller; hang up and check at the end, see `plugin.StartCall`."""
        made = [each if isinstance(each, Agent) else load_agent(each, self._folders) for each in agents]
        target = target_of(made, session)
        async with AsyncExitStack() as stack:
            plane = await stack.enter_async_context(self.plane())
            for agent in made:
                await stack.enter_async_context(agent.linked(url=plane.url))
            client = await stack.enter_async_context(ControlPlaneClient(plane.url))
            request = StartRequest(target=target, caller=caller, metadata=dict(metadata), details=True)
            started = await client.start_session(request)
            log = await stack.enter_async_context(SessionEventLog(client, started.session_id))
            self.provider.initial_pauses = [] if pause is None else [pause]
            self._logs.add(log)
            stack.callback(self._logs.discard, log)
            title = self._title(plane, target, started.provider, started.transport, started.floor)
            connection = await stack.enter_async_context(connection_for(started, client, self.provider))
            one = Caller(
                started,
                connection=connection,
                log=log,
                client=client,
                provider=self.provider,
                clock=self.clock,
                title=title,
            )
            await one.connected()
            try:
                yield one
            except AssertionError as error:
                if one.transcript not in str(error):
                    error.add_note(f"\n{one.transcript}")
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
        registry = self.provider.replace_providers(Registry.discover())
        async with control_plane(settings, registry=registry, environ={}, clock=self.clock) as plane:
            yield plane

    def _title(self, plane: ControlPlane, target: str, provider: str, transport: str, floor: str) -> str:
        scripted = "scripted" if provider == "scripted" else f"scripted for {provider}/{transport}"
        notes = plane.registry.resolve(provider, transport).notes
        return f"{target}, {notes if notes.startswith(f'{scripted}, ') else scripted}, {floor} floor"

    def _wake_all(self) -> None:
        """Wake all expectations: after a disagreement with the script they may never hold."""
        for log in self._logs:
            log.wake()
