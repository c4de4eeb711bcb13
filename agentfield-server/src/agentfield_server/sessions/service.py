"""Session service: starts, connects and ends the sessions of a control plane for operators, callers and their pages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from msgspec.structs import replace

from agentfield.errors import (
    CapabilityMissing,
    Conflict,
    ProviderUnavailable,
    SessionEnded,
    Unavailable,
)
from agentfield.ids import new_id
from agentfield.plugins import PairSpec, Registry, TransportSpec
from agentfield.plugins.hooks.authorization import SessionAuthorizer
from agentfield.plugins.manifest.spec import Media
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerLeg, LegEnd
from agentfield.realtime.config import SessionConfig
from agentfield.wire.rest import StartRequest
from agentfield_server.access.admission import AccessControl
from agentfield_server.bus import Bus
from agentfield_server.nodes import LinkHub
from agentfield_server.sessions.actor.provider_connection import AdapterSource
from agentfield_server.sessions.actor.tool_runner import ExecutionEngine
from agentfield_server.sessions.clock import SessionClock, SystemClock
from agentfield_server.sessions.conversation.inputs import EndSession, TextInput
from agentfield_server.sessions.conversation.usage.pricing import NO_OVERRIDES, PriceOverrides
from agentfield_server.sessions.handler_router import HandlerRouter
from agentfield_server.sessions.live import LiveSessions
from agentfield_server.sessions.media_entry import (
    GO_LIVE_HINTS,
    entry_hint,
    parse_formats,
    session_ended_error,
    wrong_media_error,
)
from agentfield_server.sessions.start import IncomingCall, admission_request, initial_records, resolve_start
from agentfield_server.store.protocol import Store
from agentfield_server.store.records import IdempotencyKey, SessionRow

__all__ = ["SessionService"]

_END_WAIT = 15.0
_OFFER_WAIT = 60.0
_LIVE_WAIT = 30.0


class SessionService:
    """The sessions of this process.

    Args:
        store: The store.
        engine: Runs tool executions and the handlers' calls.
        hub: The linked nodes; their session frames are routed to the actors.
        bus: Takes live events.
        access: Admits starts.
        registry: The installed plugins.
        adapters: The adapter pool.
        prices: Prices that override the published ones.
        clock: The clock of the sessions; the operating system's by default.

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
        access: AccessControl,
        registry: Registry,
        adapters: AdapterSource,
        prices: PriceOverrides = NO_OVERRIDES,
        clock: SessionClock | None = None,
    ) -> None:
        self._store = store
        self._access = access
        self._hub = hub
        self._registry = registry
        self._authorizer = SessionAuthorizer(registry)
        self._adapters = adapters
        self._live = LiveSessions(
            store,
            engine,
            hub,
            bus,
            registry=registry,
            adapters=adapters,
            prices=prices,
            clock=clock or SystemClock(),
        )
        hub.bind_sessions(HandlerRouter(store, self._live))

    async def start(
        self,
        request: StartRequest,
        *,
        principal: str,
        idempotency: IdempotencyKey | None = None,
        incoming_call: IncomingCall | None = None,
        traceparent: str | None = None,
    ) -> tuple[SessionRow, SessionConfig]:
        """Create a session that waits for its caller.

        Args:
            request: The start request.
            principal: Who starts it.
            idempotency: Key of the request; a repeated request returns the first session.
            incoming_call: The caller whose call over a plugin's transport starts the session; None for an operator.
            traceparent: W3C trace context of the request.

        Raises:
            Forbidden: The rules of access do not allow it (code `access_denied`), or a plugin refuses it (code
                `session_refused`).
            LimitExceeded: Every key of the provider has reached its session limit (code `provider_busy`).
            AgentFieldError: The request cannot be resolved (see `resolve_start`).
        """
        if idempotency is not None and (known := await self._store.session_for_key(idempotency)) is not None:
            return known, SessionConfig.model_validate(known.config)
        resolved = resolve_start(
            request, session_id=new_id("ses"), hub=self._hub, registry=self._registry, incoming_call=incoming_call
        )
        config, pair = resolved.config, resolved.pair
        admitted = self._access.admit_session(principal, request.target)
        await self._authorizer.authorize(admission_request(request, config, principal, incoming_call))
        credential = self._adapters.lease_credential(pair, config.session_id)
        new = False
        try:
            await self._adapters.get(pair, credential)
            session, root, created = initial_records(
                request, resolved, principal, idempotency, incoming_call, traceparent
            )
            root = replace(root, access=admitted)
            row, new = await self._store.create_session(session, root, owner=self._live.owner, events=(created,))
        finally:
            # also after a repeated start, which was given the first session
            if not new:
                self._adapters.release_credential(config.session_id)
        if not new:
            return row, SessionConfig.model_validate(row.config)
        self._live.spawn(row, config, pair, credential)
        return row, config

    async def admit(self, session_id: str) -> None:
        """Check that whoever started a session may still use it.

        Raises:
            NotFound: There is no such session.
            Forbidden: The rules of access do not allow it any more (code `access_denied`).
        """
        row = (await self._live.find(session_id)).row
        self._access.admit_session(row.principal, row.target)

    async def offer(self, session_id: str, sdp: str) -> str:
        """Answer the SDP offer of a caller; a second offer replaces the first call of the session.

        Raises:
            NotFound: There is no such session.
            SessionEnded: The session is over.
            ProviderError: The provider refused the call.
        """
        actor = await self._live.find(session_id)
        if actor.pair.media != "direct":
            raise wrong_media_error(actor.pair)
        # continues if the browser disconnects meanwhile, so that no call is left behind at the provider
        work = self._live.spawn_task(actor.caller_access.offer(sdp))
        try:
            return await asyncio.wait_for(asyncio.shield(work), _OFFER_WAIT)
        except SessionEnded as error:
            raise session_ended_error(actor.row, error.data.get("reason")) from None
        except TimeoutError:
            raise ProviderUnavailable(
                f"the call was not made within {_OFFER_WAIT:g} s.", hint="try the call again"
            ) from None

    async def connect(self, session_id: str, leg: CallerLeg) -> LegEnd:
        """Carry the leg of a caller until it ends; the first leg opens the provider's session, a later one takes over.

        Returns:
            Why the leg ended.

        Raises:
            NotFound: There is no such session.
            SessionEnded: The session is over.
            Conflict: The session's audio does not pass through the control plane (code `wrong_media`).
            ProviderError: The provider refused the session.
            ProviderUnavailable: The provider did not answer in time.
        """
        actor = await self._live.find(session_id)
        if actor.pair.media == "direct":
            raise wrong_media_error(actor.pair)
        try:
            return await actor.caller_access.connect(leg)
        except SessionEnded as error:
            raise session_ended_error(actor.row, error.data.get("reason")) from None

    async def pair(self, session_id: str) -> PairSpec:
        """Return the provider/transport pair of a session.

        Raises:
            NotFound: There is no such session.
            SessionEnded: The session is over.
        """
        actor = await self._live.find(session_id)
        if actor.machine.state.over:
            raise session_ended_error(actor.row, actor.machine.state.reason)
        return actor.pair

    def carrier(self, pair: PairSpec) -> TransportSpec | None:
        """Return the transport of a pair if a plugin carries its callers; None for the transports of core."""
        info = self._registry.transport(pair.transport)
        return info if info.factory is not None else None

    def media(self, config: SessionConfig) -> Media:
        """Return the medium of a session: who carries its audio.

        Raises:
            PluginError: The session's adapter is not installed any more.
        """
        return self._registry.resolve(config.declaration.provider, config.declaration.transport).media

    def formats(self, session_id: str) -> Sequence[AudioFormat]:
        """Return the formats that a session's provider takes without conversion, best first."""
        actor = self._live.get(session_id)
        return parse_formats(actor.pair.capabilities.formats if actor is not None else ())

    async def settled(self, session_id: str) -> SessionRow | None:
        """Return the stored session; if it is ending, wait for the committed end first."""
        actor = self._live.get(session_id)
        if actor is not None and actor.machine.state.over:
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_WAIT):
                    await actor.ended.wait()
        return await self._store.get_session(session_id)

    async def input_text(self, session_id: str, text: str) -> None:
        """Take text that the caller typed; return when the turn is committed.

        In a session of recorded turns the text waits until the call that was opened for it is live.

        Raises:
            Conflict: The call is not live yet (code `not_live`).
            CapabilityMissing: The pair takes no text input.
        """
        actor = await self._live.find(session_id)
        state = actor.machine.state
        if not state.capabilities.text_input:
            raise CapabilityMissing(
                f"{actor.row.target} runs on a pair that takes no typed text.", hint="speak, or declare another pair"
            )
        if actor.pair.media == "turns":
            await actor.wait_until_live(_LIVE_WAIT)
        if state.over:
            raise session_ended_error(actor.row, state.reason)
        if not state.live:
            raise Conflict(
                f"session {session_id} is {state.phase}; text can be typed once the call is live.",
                code="not_live",
                hint=GO_LIVE_HINTS[actor.pair.media]
                if (carrier := self.carrier(actor.pair)) is None
                else entry_hint(carrier),
            )
        await actor.ask(lambda: actor.feed(TextInput(text)))

    async def end(self, session_id: str, reason: str) -> None:
        """End a session; return when the end is committed. Idempotent."""
        row = await self._store.get_session(session_id)
        if row is not None and row.state == "ended":
            return
        actor = await self._live.find(session_id)
        actor.tell(EndSession(reason=reason))
        try:
            async with asyncio.timeout(_END_WAIT):
                await actor.ended.wait()
        except TimeoutError:
            raise Unavailable(
                f"session {session_id} is still ending after {_END_WAIT:g} s.",
                code="still_ending",
                hint=f"look again: af session show {session_id}",
            ) from None

    def end_refused(self, allows: Callable[[str, str], bool]) -> None:
        """End the live sessions that whoever started them may not use any more, by principal and target."""
        for actor in self._live:
            if not actor.machine.state.over and not allows(actor.row.principal, actor.row.target):
                actor.tell(EndSession(reason="operator"))

    @contextmanager
    def caller_attached(self, session_id: str) -> Iterator[None]:
        """Count an event stream of the caller's page as the caller's presence while the context is entered."""
        actor = self._live.get(session_id)
        if actor is None:
            yield
            return
        actor.caller_access.event_stream_opened()
        try:
            yield
        finally:
            actor.caller_access.event_stream_closed()

    def states(self) -> Counter[str]:
        """Return the number of sessions of this process by state."""
        return Counter(actor.machine.state.phase for actor in self._live)

    # --- lifecycle of the process

    async def recover(self) -> None:
        """Resume every unfinished session of an earlier control plane process, or end it with a reason."""
        await self._live.recover()

    async def close(self) -> None:
        """Release all sessions without ending them; idempotent."""
        await self._live.close()
        await self._authorizer.close()
