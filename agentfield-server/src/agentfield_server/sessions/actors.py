"""The sessions at work in this process: made, taken up after a restart, found by their id, let go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from functools import partial
from typing import Any

from agentfield.errors import AgentFieldError, Conflict, NotFound
from agentfield.ids import new_id
from agentfield.plugins import PairSpec, Registry
from agentfield.plugins.matrix import needs_of
from agentfield.plugins.middleware import Chain
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.stalls import Stalls
from agentfield_server.bus import Bus
from agentfield_server.nodes import LinkHub
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.callline import MediaAdapter
from agentfield_server.sessions.prices import Overrides, pricer
from agentfield_server.sessions.recovery import bury, read_snapshot
from agentfield_server.sessions.runtime import SessionActor
from agentfield_server.sessions.seats import Adapters
from agentfield_server.sessions.times import Timekeeper
from agentfield_server.sessions.tools import Executions
from agentfield_server.sessions.ways import over
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import SessionRow

__all__ = ["Actors"]

_log = logging.getLogger("agentfield.sessions")


class Actors:
    """One actor for each session of this process, and the tasks that are done for them.

    Args:
        store: What is kept.
        engine: Who runs calls.
        hub: The linked nodes.
        bus: Takes live events.
        registry: The pairs that are installed.
        adapters: Where adapters come from.
        prices: Prices that go over the published ones.
        time: The clock.

    Raises:
        PluginBroken: A plugin does not say what its tool middleware is.
    """

    def __init__(
        self,
        store: Store,
        engine: Executions,
        hub: LinkHub,
        bus: Bus,
        *,
        registry: Registry,
        adapters: Adapters,
        prices: Overrides,
        time: Timekeeper,
    ) -> None:
        self.owner = new_id("node")
        """The name under which the store has the sessions of this process."""
        self._store = store
        self._engine = engine
        self._hub = hub
        self._bus = bus
        self._registry = registry
        self._adapters = adapters
        self._prices = prices
        self._time = time
        self._chain = Chain(registry)
        self._stalls = Stalls()
        self._actors: dict[str, SessionActor] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[SessionActor]:
        return iter(list(self._actors.values()))

    def get(self, session_id: str) -> SessionActor | None:
        """Return a session of this process, None when it is none."""
        return self._actors.get(session_id)

    async def find(self, session_id: str) -> SessionActor:
        """Return a session of this process.

        Raises:
            NotFound: There is no such session.
            SessionEnded: It is over.
            Conflict: Another control plane drives it (code `not_ours`).
        """
        actor = self._actors.get(session_id)
        if actor is not None:
            return actor
        raise await self.gone(session_id)

    async def gone(self, session_id: str) -> AgentFieldError:
        """Return why a session is none of this process."""
        row = await self._store.get_session(session_id)
        if row is None:
            return NotFound(f"There is no session {session_id!r}.", code="unknown_session", hint="af session list")
        if row.state != "ended":
            return Conflict(f"session {session_id} is driven by another control plane.", code="not_ours")
        return over(row, row.end_reason)

    def spawn(
        self,
        row: SessionRow,
        config: SessionConfig,
        pair: PairSpec,
        credential: str,
        snapshot: i.Snapshot | None = None,
    ) -> SessionActor:
        """Set a session to work.

        Args:
            row: The session as stored.
            config: Its frozen configuration.
            pair: The row of the matrix that carries it.
            credential: Name of the key that it was given.
            snapshot: What to go on from after a restart, None for a new call.
        """
        actor = SessionActor(
            row,
            config,
            pair,
            adapter=partial(self._adapter, config, pair, credential),
            credential=credential,
            store=self._store,
            engine=self._engine,
            hub=self._hub,
            bus=self._bus,
            time=self._time,
            chain=self._chain,
            stalls=self._stalls,
            snapshot=snapshot,
            price=pricer(self._registry.provider(pair.provider), config, self._prices),
            ended=partial(self._adapters.release, row.id),
        )
        self._actors[row.id] = actor
        task = self.task(actor.run())
        task.add_done_callback(lambda _: self._actors.pop(row.id, None))
        return actor

    async def recover(self) -> None:
        """Take up every session that an earlier control plane left: resume it or end it with a reason."""
        for known in await self._store.unfinished_sessions():
            row = await self._store.take_session(known.id, owner=self.owner)
            if row is not None:
                await self._recover(row)

    async def close(self) -> None:
        """Let go of all sessions without ending them; idempotent."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._actors.clear()

    def task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do something beside, at the latest until `close`; what fails is logged unless it is an `AgentFieldError`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    # --- inside

    def _carried(self, config: SessionConfig) -> PairSpec:
        """Return the pair of a session, which must still do all that the session was started with."""
        declared = config.declaration
        return self._registry.resolve(declared.provider, declared.transport, needs_of(declared))

    async def _adapter(self, config: SessionConfig, pair: PairSpec, credential: str) -> MediaAdapter:
        """Return the adapter for one more connection to the provider: the same pair, which is checked each time."""
        self._carried(config)
        return await self._adapters.get(pair, credential)

    async def _recover(self, row: SessionRow) -> None:
        config = SessionConfig.model_validate(row.config)
        try:
            pair = self._carried(config)
            credential = self._adapters.admit(pair, row.id, (row.call_ref or {}).get("credential"))
        except AgentFieldError as error:
            await bury(self._store, row, error)
            return
        snapshot = await read_snapshot(self._store, row, now=self._time.epoch()) if row.live_at is not None else None
        actor = self.spawn(row, config, pair, credential, snapshot)
        if row.state == "ending":
            actor.tell(i.EndSession(reason=row.end_reason or "control_plane_restart", detail=row.end_detail))
        elif row.call_ref is not None:
            actor.tell(i.OfferAccepted())
            self.task(actor.callers.resume())

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, AgentFieldError):
            _log.error("a task of the sessions failed", exc_info=error)
