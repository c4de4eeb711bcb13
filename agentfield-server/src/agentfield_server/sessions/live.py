"""The live sessions of this process: one actor each, spawned, found by id, recovered after a restart, released."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from functools import partial
from typing import Any

from agentfield.errors import AgentFieldError, Conflict, NotFound
from agentfield.ids import new_id
from agentfield.plugins import PairSpec, Registry
from agentfield.plugins.hooks.middleware import MiddlewareChain
from agentfield.plugins.registry.session_checks import needs_of
from agentfield.realtime.bridge import EventLoopStallMonitor
from agentfield.realtime.config import SessionConfig
from agentfield_server.bus import Bus
from agentfield_server.nodes import LinkHub
from agentfield_server.sessions.actor.actor import SessionActor
from agentfield_server.sessions.actor.provider_connection import AdapterSource, MediaAdapter
from agentfield_server.sessions.actor.tool_runner import ExecutionEngine
from agentfield_server.sessions.clock import SessionClock
from agentfield_server.sessions.conversation.inputs import EndSession, OfferAccepted, Snapshot
from agentfield_server.sessions.conversation.usage.pricing import PriceOverrides, make_pricer
from agentfield_server.sessions.media_entry import session_ended_error
from agentfield_server.sessions.recovery import end_unrecoverable, read_snapshot
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import SessionRow

__all__ = ["LiveSessions"]

_log = logging.getLogger("agentfield.sessions")


class LiveSessions:
    """The actors of this process by session id, and the background tasks of the sessions.

    Args:
        store: The store.
        engine: Runs tool executions and the handlers' calls.
        hub: The linked nodes.
        bus: Takes live events.
        registry: The installed plugins.
        adapters: The adapter pool.
        prices: Prices that override the published ones.
        clock: The clock of the sessions.

    Raises:
        PluginBroken: A plugin declares an invalid tool middleware.
    """

    def __init__(
        self,
        store: Store,
        engine: ExecutionEngine,
        hub: LinkHub,
        bus: Bus,
        *,
        registry: Registry,
        adapters: AdapterSource,
        prices: PriceOverrides,
        clock: SessionClock,
    ) -> None:
        self.owner = new_id("node")
        """The owner name of this process in the store."""
        self._store = store
        self._engine = engine
        self._hub = hub
        self._bus = bus
        self._registry = registry
        self._adapters = adapters
        self._prices = prices
        self._clock = clock
        self._chain = MiddlewareChain(registry)
        self._stall_monitor = EventLoopStallMonitor()
        self._actors: dict[str, SessionActor] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[SessionActor]:
        return iter(list(self._actors.values()))

    def get(self, session_id: str) -> SessionActor | None:
        """Return the actor of a session; None if it is not live in this process."""
        return self._actors.get(session_id)

    async def find(self, session_id: str) -> SessionActor:
        """Return the actor of a session.

        Raises:
            NotFound: There is no such session.
            SessionEnded: The session is over.
            Conflict: Another control plane owns the session (code `not_ours`).
        """
        actor = self._actors.get(session_id)
        if actor is not None:
            return actor
        raise await self.missing_session_error(session_id)

    async def missing_session_error(self, session_id: str) -> AgentFieldError:
        """Return the error that tells why a session is not live in this process."""
        row = await self._store.get_session(session_id)
        if row is None:
            return NotFound(f"There is no session {session_id!r}.", code="unknown_session", hint="af session list")
        if row.state != "ended":
            return Conflict(f"session {session_id} is driven by another control plane.", code="not_ours")
        return session_ended_error(row, row.end_reason)

    def spawn(
        self,
        row: SessionRow,
        config: SessionConfig,
        pair: PairSpec,
        credential: str,
        snapshot: Snapshot | None = None,
    ) -> SessionActor:
        """Start the actor of a session.

        Args:
            row: The stored session; this process owns it.
            config: The frozen configuration.
            pair: The provider/transport pair of the session.
            credential: Name of the leased key.
            snapshot: State to resume from after a restart; None for a new session.
        """
        actor = SessionActor(
            row,
            config,
            pair,
            adapter=partial(self._adapter, config, pair, credential),
            secrets=partial(self._adapters.secrets, pair),
            credential=credential,
            store=self._store,
            engine=self._engine,
            hub=self._hub,
            bus=self._bus,
            clock=self._clock,
            chain=self._chain,
            stall_monitor=self._stall_monitor,
            snapshot=snapshot,
            price=make_pricer(self._registry.provider(pair.provider), config, self._prices),
            on_ended=partial(self._adapters.release_credential, row.id),
        )
        self._actors[row.id] = actor
        task = self.spawn_task(actor.run())
        task.add_done_callback(lambda _: self._actors.pop(row.id, None))
        return actor

    async def recover(self) -> None:
        """Resume every unfinished session of an earlier control plane process, or end it with a reason."""
        for known in await self._store.unfinished_sessions():
            row = await self._store.take_session(known.id, owner=self.owner)
            if row is not None:
                await self._recover(row)

    async def close(self) -> None:
        """Release all sessions without ending them; idempotent."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._actors.clear()

    def spawn_task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` in a task that `close` cancels; log its failure unless it is an `AgentFieldError`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    # --- inside

    def _resolve_pair(self, config: SessionConfig) -> PairSpec:
        """Return the pair of a session; it must still support everything the session was started with."""
        declared = config.declaration
        return self._registry.resolve(declared.provider, declared.transport, needs_of(declared))

    async def _adapter(self, config: SessionConfig, pair: PairSpec, credential: str) -> MediaAdapter:
        """Return the adapter for another connection of the session, after checking its pair again."""
        self._resolve_pair(config)
        return await self._adapters.get(pair, credential)

    async def _recover(self, row: SessionRow) -> None:
        config = SessionConfig.model_validate(row.config)
        try:
            pair = self._resolve_pair(config)
            credential = self._adapters.lease_credential(pair, row.id, (row.call_ref or {}).get("credential"))
        except AgentFieldError as error:
            await end_unrecoverable(self._store, row, error)
            return
        snapshot = await read_snapshot(self._store, row, now=self._clock.epoch()) if row.live_at is not None else None
        actor = self.spawn(row, config, pair, credential, snapshot)
        if row.state == "ending":
            actor.tell(EndSession(reason=row.end_reason or "control_plane_restart", detail=row.end_detail))
        elif row.call_ref is not None:
            actor.tell(OfferAccepted())
            self.spawn_task(actor.caller_access.resume())

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, AgentFieldError):
            _log.error("a task of the sessions failed", exc_info=error)
