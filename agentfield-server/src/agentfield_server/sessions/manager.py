"""All sessions of a control plane, for those who start, reach and end them: operators, callers and their pages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from agentfield.errors import (
    CapabilityMissing,
    Conflict,
    ProviderUnavailable,
    SessionEnded,
    Unavailable,
)
from agentfield.ids import new_id
from agentfield.plugins import PairSpec, Registry, TransportInfo
from agentfield.plugins.gate import Gate
from agentfield.plugins.spec import Media
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerLeg
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.player import LineEnd
from agentfield.wire.rest import StartRequest
from agentfield_server.bus import Bus
from agentfield_server.nodes import LinkHub
from agentfield_server.sessions import inputs as i
from agentfield_server.sessions.actors import Actors
from agentfield_server.sessions.handlerdesk import HandlerDesk
from agentfield_server.sessions.prices import NO_OVERRIDES, Overrides
from agentfield_server.sessions.seats import Adapters
from agentfield_server.sessions.starting import Arrival, asked_of_plugins, resolve_start, written
from agentfield_server.sessions.times import SystemTime, Timekeeper
from agentfield_server.sessions.tools import Executions
from agentfield_server.sessions.ways import FIRST, formats_of, over, way_in, wrong_media
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import IdempotencyKey, SessionRow

__all__ = ["Sessions"]

_END_WAIT = 15.0
_OFFER_WAIT = 60.0
_LIVE_WAIT = 30.0


class Sessions:
    """The live calls of this process.

    Args:
        store: What is kept.
        engine: Who runs calls.
        hub: The linked nodes; what they bring for sessions is passed on.
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
        self._store = store
        self._hub = hub
        self._registry = registry
        self._gate = Gate(registry)
        self._adapters = adapters
        self._actors = Actors(
            store,
            engine,
            hub,
            bus,
            registry=registry,
            adapters=adapters,
            prices=prices,
            time=time or SystemTime(),
        )
        hub.bind_sessions(HandlerDesk(store, self._actors))

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
            row, new = await self._store.create_session(session, root, owner=self._actors.owner, events=(created,))
        finally:
            if not new:
                self._adapters.release(config.session_id)
        if not new:
            return row, SessionConfig.model_validate(row.config)
        self._actors.spawn(row, config, pair, credential)
        return row, config

    async def offer(self, session_id: str, sdp: str) -> str:
        """Answer the SDP offer of a caller; a second offer ends the first call, the session goes on.

        Raises:
            NotFound: There is no such session.
            SessionEnded: It is over.
            ProviderError: The provider refused the call.
        """
        actor = await self._actors.find(session_id)
        if actor.pair.media != "direct":
            raise wrong_media(actor.pair)
        # the work goes on when the browser goes away in the middle, so that no call is left behind at the provider
        work = self._actors.task(actor.callers.offer(sdp))
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
        actor = await self._actors.find(session_id)
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
        actor = await self._actors.find(session_id)
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
        actor = await self._actors.find(session_id)
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
        actor = await self._actors.find(session_id)
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
        return Counter(actor.machine.board.state for actor in self._actors)

    # --- the life of the process

    async def recover(self) -> None:
        """Take up every session that an earlier control plane left: resume it or end it with a reason."""
        await self._actors.recover()

    async def close(self) -> None:
        """Let go of all sessions without ending them; idempotent."""
        await self._actors.close()
        await self._gate.close()
