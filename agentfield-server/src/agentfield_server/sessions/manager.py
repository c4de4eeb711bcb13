"""All sessions of a control plane: started, found again after a restart, reached by pages, operators and nodes."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from agentfield.errors import (
    AgentFieldError,
    CapabilityMissing,
    Conflict,
    LimitExceeded,
    NotFound,
    ProviderUnavailable,
    SessionEnded,
    Unavailable,
)
from agentfield.ids import new_id
from agentfield.plugins import PairSpec, Registry, TransportInfo
from agentfield.plugins.gate import Gate
from agentfield.plugins.matrix import needs_of
from agentfield.plugins.middleware import Chain
from agentfield.plugins.spec import Media
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerLeg
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.player import LineEnd
from agentfield.realtime.stalls import Stalls
from agentfield.wire.frames import SessionCommand, SessionDone, SessionStop
from agentfield.wire.rest import StartRequest
from agentfield_server.bus import Bus
from agentfield_server.nodes import LinkHub, NodeLink
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.callline import MediaAdapter
from agentfield_server.sessions.handlerline import answer_on
from agentfield_server.sessions.prices import NO_OVERRIDES, Overrides, pricer
from agentfield_server.sessions.recovery import bury, read_snapshot
from agentfield_server.sessions.runtime import SessionActor
from agentfield_server.sessions.seats import Adapters
from agentfield_server.sessions.starting import Arrival, asked_of_plugins, resolve_start, written
from agentfield_server.sessions.times import SystemTime, Timekeeper
from agentfield_server.sessions.tools import Executions
from agentfield_server.sessions.ways import FIRST, formats_of, over, way_in, wrong_media
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import IdempotencyKey, SessionRow

__all__ = ["Sessions"]

_log = logging.getLogger("agentfield.sessions")
_END_WAIT = 15.0
_OFFER_WAIT = 60.0
_LIVE_WAIT = 30.0


class Sessions:
    """The live calls of this process.

    Args:
        store: What is kept.
        engine: Who runs calls.
        hub: The linked nodes; the sessions bind themselves to it.
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
        prices: Overrides = NO_OVERRIDES,
        time: Timekeeper | None = None,
    ) -> None:
        self._prices = prices
        self._store = store
        self._engine = engine
        self._hub = hub
        self._bus = bus
        self._registry = registry
        self._gate = Gate(registry)
        self._chain = Chain(registry)
        self._adapters = adapters
        self._time = time or SystemTime()
        self._stalls = Stalls()
        self._owner = new_id("node")
        self._actors: dict[str, SessionActor] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        hub.bind_sessions(self)

    # --- for the REST interface

    async def start(
        self,
        request: StartRequest,
        *,
        principal: str,
        idempotency: IdempotencyKey | None = None,
        arrival: Arrival | None = None,
        traceparent: str | None = None,
    ) -> tuple[SessionRow, SessionConfig]:
        """Start a session that waits for its caller.

        Args:
            request: What was asked.
            principal: Who asks.
            idempotency: The same start twice is one session.
            arrival: The caller of a transport, where that starts the session.
            traceparent: Where who asks is in a trace of their own.

        Raises:
            Forbidden: A plugin does not let it start (code `session_refused`).
            LimitExceeded: The provider's keys have all sessions that they may have (code `provider_busy`).
            AgentFieldError: It may not be started; the class says why (see `resolve_start`).
        """
        if idempotency is not None and (known := await self._store.session_of(idempotency)) is not None:
            return known, SessionConfig.model_validate(known.config)
        resolved = resolve_start(
            request, session_id=new_id("ses"), hub=self._hub, registry=self._registry, arrival=arrival
        )
        config, pair = resolved.config, resolved.pair
        await self._gate.admit(asked_of_plugins(request, config, principal, arrival))
        credential = self._adapters.admit(pair, config.session_id)
        new = False
        try:
            await self._adapters.get(pair, credential)
            session, root, created = written(request, resolved, principal, idempotency, arrival, traceparent)
            row, new = await self._store.create_session(session, root, owner=self._owner, events=(created,))
        finally:
            if not new:
                self._adapters.release(config.session_id)
        if not new:
            return row, SessionConfig.model_validate(row.config)
        self._spawn(row, config, pair, credential)
        return row, config

    async def offer(self, session_id: str, sdp: str) -> str:
        """Answer the SDP offer of a caller; a second offer ends the first call, the session goes on.

        Raises:
            NotFound: There is no such session.
            SessionEnded: It is over.
            ProviderError: The provider refused the call.
        """
        actor = await self._actor(session_id)
        if actor.pair.media != "direct":
            raise wrong_media(actor.pair)
        # the work goes on when the browser goes away in the middle, so that no call is left behind at the provider
        work = self._task(actor.callers.offer(sdp))
        try:
            return await asyncio.wait_for(asyncio.shield(work), _OFFER_WAIT)
        except SessionEnded as error:
            raise over(actor.row, error.data.get("reason")) from None
        except TimeoutError:
            raise ProviderUnavailable(
                f"the call was not made within {_OFFER_WAIT:g} s.", hint="try the call again"
            ) from None

    async def connect(self, session_id: str, leg: CallerLeg) -> LineEnd:
        """Carry the leg of a caller; the first one opens the provider's session, another one takes over.

        Returns:
            Why it is not carried any more, as soon as its input is over or the session has ended.

        Raises:
            NotFound: There is no such session.
            SessionEnded: It is over.
            Conflict: Its audio does not pass through the control plane (code `wrong_media`).
            ProviderError: The provider refused the session.
            ProviderUnavailable: It did not answer in time.
        """
        actor = await self._actor(session_id)
        if actor.pair.media == "direct":
            raise wrong_media(actor.pair)
        try:
            return await actor.callers.connect(leg)
        except SessionEnded as error:
            raise over(actor.row, error.data.get("reason")) from None

    async def pair(self, session_id: str) -> PairSpec:
        """Return what a session runs over.

        Raises:
            NotFound: There is no such session.
            SessionEnded: It is over.
        """
        actor = await self._actor(session_id)
        if actor.machine.board.over:
            raise over(actor.row, actor.machine.board.reason)
        return actor.pair

    def carrier(self, pair: PairSpec) -> TransportInfo | None:
        """Return the transport of a pair where a plugin brings it, and with it the callers; None for those of core."""
        info = self._registry.transport(pair.transport)
        return info if info.factory is not None else None

    def media(self, config: SessionConfig) -> Media:
        """Return who carries the audio of a session.

        Raises:
            PluginError: Its adapter is not installed any more.
        """
        return self._registry.resolve(config.declaration.provider, config.declaration.transport).media

    def formats(self, session_id: str) -> Sequence[AudioFormat]:
        """Return the formats that a session's provider takes without conversion, the best one first."""
        actor = self._actors.get(session_id)
        return formats_of(actor.pair.capabilities.formats if actor is not None else ())

    async def settled(self, session_id: str) -> SessionRow | None:
        """Return a session as stored, after its end was when it is ending."""
        actor = self._actors.get(session_id)
        if actor is not None and actor.machine.board.over:
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_WAIT):
                    await actor.ended.wait()
        return await self._store.get_session(session_id)

    async def input_text(self, session_id: str, text: str) -> None:
        """Take words that the caller typed; returns when they are committed.

        Words for a session of recorded turns wait until the call that was opened for them is live.

        Raises:
            Conflict: The call is not live yet (code `not_live`).
            CapabilityMissing: The pair takes no text.
        """
        actor = await self._actor(session_id)
        board = actor.machine.board
        if not board.capabilities.text_input:
            raise CapabilityMissing(
                f"{actor.row.target} runs on a pair that takes no typed words.", hint="speak, or declare another pair"
            )
        if actor.pair.media == "turns":
            await actor.until_live(_LIVE_WAIT)
        if board.over:
            raise over(actor.row, board.reason)
        if not board.live:
            raise Conflict(
                f"session {session_id} is {board.state}; words can be typed once the call is live.",
                code="not_live",
                hint=FIRST[actor.pair.media] if (carrier := self.carrier(actor.pair)) is None else way_in(carrier),
            )
        await actor.ask(lambda: actor.feed(i.TextInput(text)))

    async def end(self, session_id: str, reason: str) -> None:
        """End a session; returns when that is committed. Ending twice is ending once."""
        row = await self._store.get_session(session_id)
        if row is not None and row.state == "ended":
            return
        actor = await self._actor(session_id)
        actor.tell(i.EndSession(reason=reason))
        try:
            async with asyncio.timeout(_END_WAIT):
                await actor.ended.wait()
        except TimeoutError:
            raise Unavailable(
                f"session {session_id} is still ending after {_END_WAIT:g} s.",
                code="still_ending",
                hint=f"look again: af session show {session_id}",
            ) from None

    @contextmanager
    def caller_attached(self, session_id: str) -> Iterator[None]:
        """The caller's page listens to the session for as long as this is entered."""
        actor = self._actors.get(session_id)
        if actor is None:
            yield
            return
        actor.callers.page_opened()
        try:
            yield
        finally:
            actor.callers.page_closed()

    def states(self) -> Counter[str]:
        """Return how many sessions of this process are in which state."""
        return Counter(actor.machine.board.state for actor in self._actors.values())

    # --- the life of the process

    async def recover(self) -> None:
        """Take up every session that an earlier control plane left: resume it or end it with a reason."""
        for known in await self._store.unfinished_sessions():
            row = await self._store.take_session(known.id, owner=self._owner)
            if row is not None:
                await self._recover(row)

    async def close(self) -> None:
        """Let go of all sessions without ending them; idempotent."""
        self._closing = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._gate.close()
        self._actors.clear()

    # --- for the hub: enqueue and return at once

    async def session_command(self, link: NodeLink, frame: SessionCommand) -> None:
        """A handler asks something of its session."""
        actor = self._actors.get(frame.session_id)
        if actor is None:
            self._task(self._refuse(link, frame))
        elif actor.full:
            error = LimitExceeded("the session has too much to do already", hint="await what you asked for")
            self._task(answer_on(link, frame, error))
        else:
            actor.tell(partial(actor.command, link, frame))

    async def session_done(self, link: NodeLink, frame: SessionDone) -> None:
        """A handler returned or raised."""
        actor = self._actors.get(frame.session_id)
        if actor is None:
            self._task(answer_on(link, frame))
        else:
            actor.tell(partial(actor.done, link, frame))

    async def node_linked(self, link: NodeLink) -> None:
        """A node is there: handlers that wait are opened on it, handlers that are over are stopped."""
        for session_id, epoch in link.hello.open_sessions:
            actor = self._actors.get(session_id)
            if actor is None or actor.machine.handler.epoch != epoch:
                self._task(self._stop_stray(link, session_id, epoch))
        for actor in list(self._actors.values()):
            if actor.row.node_id == link.node_id:
                actor.tell(partial(actor.node_linked, link))

    async def node_lost(self, link: NodeLink) -> None:
        """A node is gone."""
        for actor in list(self._actors.values()):
            if actor.row.node_id == link.node_id:
                actor.tell(partial(actor.node_lost, link))

    # --- inside

    def _spawn(
        self,
        row: SessionRow,
        config: SessionConfig,
        pair: PairSpec,
        credential: str,
        snapshot: i.Snapshot | None = None,
    ) -> SessionActor:
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
        task = self._task(actor.run())
        task.add_done_callback(lambda _: self._actors.pop(row.id, None))
        return actor

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
        actor = self._spawn(row, config, pair, credential, snapshot)
        if row.state == "ending":
            actor.tell(i.EndSession(reason=row.end_reason or "control_plane_restart", detail=row.end_detail))
        elif row.call_ref is not None:
            actor.tell(i.OfferAccepted())
            self._task(actor.callers.resume())

    async def _actor(self, session_id: str) -> SessionActor:
        actor = self._actors.get(session_id)
        if actor is not None:
            return actor
        raise await self._gone(session_id)

    async def _gone(self, session_id: str) -> AgentFieldError:
        row = await self._store.get_session(session_id)
        if row is None:
            return NotFound(f"There is no session {session_id!r}.", code="unknown_session", hint="af session list")
        if row.state != "ended":
            return Conflict(f"session {session_id} is driven by another control plane.", code="not_ours")
        return over(row, row.end_reason)

    async def _refuse(self, link: NodeLink, frame: SessionCommand) -> None:
        await answer_on(link, frame, await self._gone(frame.session_id))

    async def _stop_stray(self, link: NodeLink, session_id: str, epoch: int) -> None:
        """Tell a node that a handler it still runs is not wanted any more."""
        row = await self._store.get_session(session_id)
        over = row is None or row.state == "ended"
        reason = (row.end_reason if row is not None else None) or "ended" if over else "superseded"
        try:
            await link.send(SessionStop(session_id=session_id, epoch=epoch, reason=reason))
        except AgentFieldError:
            _log.debug("the node that runs a stray handler of %s is gone", session_id)

    def _task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, AgentFieldError):
            _log.error("a task of the sessions failed", exc_info=error)
