"""Connection of a session to its call at the provider: negotiate, attach or open, command, rotate, hang up, detach."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, cast

from agentfield.errors import AgentFieldError, Conflict, NotFound, ProviderError, ProviderUnavailable
from agentfield.ids import new_id
from agentfield.plugins.manifest.spec import PairSpec
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.bridge import Bridge, EventLoopStallMonitor
from agentfield.realtime.caller import CallerInput, CallerLeg, LegEnd
from agentfield.realtime.commands import AppendAudioCommand, Command, EndCommand
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import Event, ProviderFault, ReplyAudio, SessionClosed
from agentfield.realtime.provider import BridgedAdapter, CallRef, DirectAdapter, ProviderSession, ResumableAdapter
from agentfield.realtime.sdp import gate_answer
from agentfield.values import clean_text
from agentfield_server.media.convert import converter
from agentfield_server.sessions.conversation.effects import StoreHandle
from agentfield_server.sessions.conversation.inputs import Input, ProviderFailed, Rotated

__all__ = ["ATTACH_WAIT", "HANDLE_NAMES", "AdapterSource", "ConnectionEvent", "MediaAdapter", "ProviderConnection"]

MediaAdapter = DirectAdapter | BridgedAdapter
"""An adapter of any medium; `PairSpec.media` tells which one."""


class AdapterSource(Protocol):
    """What sessions need from the adapter pool: a credential lease, and the adapter that uses it."""

    def lease_credential(self, pair: PairSpec, session_id: str, credential: str | None = None) -> str:
        """Lease one of the provider's keys to a session and return the key's name.

        Raises:
            LimitExceeded: Every key has reached its session limit (code `provider_busy`).
        """

    def release_credential(self, session_id: str) -> None:
        """End the lease of a session; idempotent."""

    async def get(self, pair: PairSpec, credential: str) -> MediaAdapter:
        """Return the adapter of a pair that uses a key; it is entered on first use."""

    def secrets(self, pair: PairSpec) -> Iterable[str]:
        """Return the keys of a pair's provider."""


_log = logging.getLogger("agentfield.sessions")

ATTACH_WAIT = 10.0
"""Seconds to attach the sideband (5) and to confirm its configuration (5); after that the call is hung up."""
HANDLE_NAMES = frozenset({"handle", "handle_known"})
"""Names under which a reference to a call holds the provider's handle, and how much of the history it covers."""
_NEGOTIATE_WAIT = 20.0
_OPEN_WAIT = 20.0
_END_WAIT = 2.0
_SEND_WAIT = 5.0
_HANG_UP_WAIT = 5.0
_CLOSE_WAIT = 2.0
_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class ConnectionEvent:
    """An event of one connection; the actor drops it if another connection has replaced that one meanwhile."""

    generation: int
    """`ProviderConnection.generation` when the event was received."""
    event: Input


Put = Callable[[ConnectionEvent], Awaitable[None]]
Tell = Callable[[Input], None]


class ProviderConnection:
    """The call of one session at its provider.

    On pairs of direct media, `negotiate` creates the call and `attach` connects its sideband. On the other pairs, `open`
    opens the provider's session behind a bridge, which carries the audio of the caller's leg.

    Args:
        adapter: Returns the pair's adapter, entered on first use.
        pair: The provider/transport pair; `media` tells who carries the audio.
        config: The frozen configuration.
        put: Takes the provider's events; waits while the inbox is full.
        tell: Takes the failure of a command; never waits.
        on_caller_input: Takes the typed text and the hangup of a bridged caller; never waits.
        stall_monitor: Shared by all calls; it uses `time.monotonic`.
        secrets: Returns the texts that no caller may get.
    """

    def __init__(
        self,
        adapter: Callable[[], Awaitable[MediaAdapter]],
        pair: PairSpec,
        config: SessionConfig,
        *,
        put: Put,
        tell: Tell,
        on_caller_input: Callable[[CallerInput], None],
        stall_monitor: EventLoopStallMonitor,
        secrets: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._adapter = adapter
        self._secrets = secrets
        self._pair = pair
        self._config = config
        self._on_caller_input = on_caller_input
        self._stall_monitor = stall_monitor
        self._bridge: Bridge | None = None
        self._audio: AudioFormat | None = None
        self._put = put
        self._tell = tell
        self.generation = 0
        """Number of detached connections; tags events, so that the actor can drop those of a replaced connection."""
        self.ref: CallRef | None = None
        """Reference to the call at the provider, as stored with the session."""
        self._sent: OrderedDict[str, str] = OrderedDict()
        """Types of the last commands by their id."""
        self._provider: ProviderSession | None = None
        self._session_number = 0
        """Number of provider sessions so far, those behind one bridge included."""
        self._unresponsive: int | None = None
        """Number of the session that did not take a command in time: it counts as lost, and gets no more commands."""
        self._event_task: asyncio.Task[None] | None = None

    async def negotiate(self, offer: str) -> tuple[str, CallRef]:
        """Create a call from an SDP offer; return the SDP answer and the reference to the call.

        Raises:
            ProviderError: The provider refused the offer, or its answer is none that a caller may get; the call was hung up.
            ProviderUnavailable: The provider did not answer in time.
        """
        adapter = await self._direct_adapter()
        try:
            async with asyncio.timeout(_NEGOTIATE_WAIT):
                answer = await adapter.negotiate(offer, self._config)
        except TimeoutError:
            raise ProviderUnavailable(
                f"the provider did not answer the offer within {_NEGOTIATE_WAIT:g} s", hint="try the call again"
            ) from None
        try:
            return gate_answer(answer.sdp, self._secrets(), ref=answer.ref.values()), dict(answer.ref)
        except ProviderError:
            await asyncio.shield(self._hang_up(answer.ref))
            raise

    async def attach(self, ref: CallRef) -> None:
        """Attach the sideband to a call and forward its events to the actor.

        Raises:
            ProviderError: The provider refused; the call was hung up.
            ProviderUnavailable: The provider did not answer in time; the call was hung up.
        """
        try:
            adapter = await self._direct_adapter()
            async with asyncio.timeout(ATTACH_WAIT):
                provider = await adapter.attach(ref, self._config)
        except BaseException as error:
            # also on cancellation: a call without a sideband would run on, and cost, without control
            self.ref = None if self.ref == ref else self.ref
            await asyncio.shield(self._hang_up(ref))
            if isinstance(error, TimeoutError):
                raise ProviderUnavailable(
                    f"the call could not be attached within {ATTACH_WAIT:g} s, so it was hung up",
                    hint="try the call again",
                ) from None
            raise
        await self.detach()
        self._start_events(ref, provider)

    # --- bridged media

    @property
    def bridged(self) -> bool:
        """Whether a bridge is open that can carry a leg."""
        return self._bridge is not None

    async def open(self, ref: CallRef, wanted: AudioFormat | None = None) -> None:
        """Open the provider's session behind a bridge, or resume one by the handle in `ref`.

        Args:
            ref: The reference to store with the session.
            wanted: The caller's format. It is used if the provider supports it and the session does not require exact
                speech; otherwise the provider's first format is used.

        Raises:
            ProviderError: The provider refused.
            ProviderUnavailable: The provider did not answer in time.
        """
        adapter = await self._bridged_adapter()
        exact = self._config.declaration.say == "exact"
        audio = wanted if wanted in adapter.formats and wanted is not None and not exact else adapter.formats[0]
        provider, known = await self._open_session(adapter, audio, ref)
        await self.detach()
        self._audio = audio
        self._bridge = Bridge(
            provider,
            audio=audio,
            convert=converter,
            clock=time.monotonic,
            on_input=self._on_caller_input,
            caller_may_return=self._pair.media == "bridged",
            begins_turns=self._pair.capabilities.begins_turns and self._config.turn_detection is None,
            stall_monitor=self._stall_monitor,
        )
        self._bridge.hold_caller_audio()
        if known is not None:
            self._tell(Rotated(known))
        self._start_events(ref, self._bridge)

    def keep_handle(self, effect: StoreHandle) -> None:
        """Keep the provider's handle of the conversation in the reference to the call."""
        known = {name: value for name, value in (self.ref or {}).items() if name not in HANDLE_NAMES}
        if effect.handle is not None:
            known |= {"handle": effect.handle, "handle_known": str(effect.known)}
        self.ref = known

    async def carry(self, leg: CallerLeg) -> LegEnd:
        """Carry a caller's leg until it ends; return the reason.

        Raises:
            Conflict: No provider session is open (code `not_live`).
        """
        if self._bridge is None:
            raise Conflict("there is no session at the provider", code="not_live", hint="connect again")
        return await self._bridge.attach(leg)

    async def rotate(self, rotated: Callable[[int | None], None]) -> None:
        """Replace the provider's session by a new one under the same leg.

        Args:
            rotated: Called before the first event of the new session, with the number of entries of the history that it
                knows; None if it is empty.

        Raises:
            ProviderError: The provider refused.
            ProviderUnavailable: The provider did not answer in time.
        """
        bridge, audio = self._bridge, self._audio
        if bridge is None or audio is None:
            raise ProviderUnavailable("there is no call whose session could be opened again")
        # the caller's audio is held back until `resume_uplink`: the new session must not miss a word of it
        bridge.begin_rotation()
        provider, known = await self._open_session(await self._bridged_adapter(), audio, self.ref or {})
        if self._bridge is not bridge:
            # detached, or opened anew, while the new session was being opened
            await self._close(provider)
            return
        self._session_number += 1
        rotated(known)
        await bridge.replace_provider(provider)

    def resume_uplink(self) -> None:
        """Release the caller's audio that was held since the rotation began, and send on what follows."""
        if self._bridge is not None:
            self._bridge.release_caller_audio()

    # --- any medium

    async def send(self, command: Command) -> None:
        """Send a command to the provider; a failure becomes an input of the machine.

        A session that does not take a command in time gets no more: each one would be waited for, also at the end of the call.
        """
        provider, number = self._provider, self._session_number
        if provider is None or number == self._unresponsive:
            return
        if not isinstance(command, AppendAudioCommand) and not command.id:
            command = command.model_copy(update={"id": new_id("op")})
            self._remember(command)
        try:
            async with asyncio.timeout(_SEND_WAIT):
                await provider.send(command)
        except TimeoutError:
            if number == self._session_number:  # else a rotation has replaced that session meanwhile
                self._unresponsive = number
                self._tell(ProviderFailed(f"the provider took no command for {_SEND_WAIT:g} s", retry=True))
        except ProviderUnavailable as error:
            self._tell(ProviderFailed(error.message, retry=True))
        except AgentFieldError as error:
            name = None if isinstance(command, AppendAudioCommand) else command.id
            self._tell(ProviderFault(code=error.code, message=error.message, command=name))

    def _remember(self, command: Command) -> None:
        self._sent[getattr(command, "id", "")] = command.type
        while len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)

    def _with_command(self, event: Event) -> Event:
        """Name the refused command in a fault: the handler and the log do not know its id."""
        kind = self._sent.get(event.command or "") if isinstance(event, ProviderFault) else None
        if kind is None or not isinstance(event, ProviderFault):
            return event
        return event.model_copy(update={"message": f"{kind} was refused: {event.message}"})

    async def hang_up(self) -> None:
        """End the call at the provider and detach from it; idempotent.

        It takes `_HANG_UP_WAIT` and twice `_CLOSE_WAIT` at most, whatever the provider and its adapter do.
        """
        ref, self.ref = self.ref, None
        if self._bridge is not None and self._unresponsive != self._session_number:
            await self._end_bridged(self._bridge)
        elif ref is not None and self._pair.media == "direct":
            await self._hang_up(ref)
        await self.detach()

    async def end(self, ref: CallRef) -> None:
        """End a call at the provider that is not the current one: it was replaced, or came too late."""
        if self._pair.media == "direct":
            await self._hang_up(ref)

    async def detach(self) -> None:
        """Close the connection without hanging up a direct call; idempotent."""
        self.generation += 1
        event_task, self._event_task = self._event_task, None
        provider, self._provider = self._provider, None
        self._bridge = None
        if event_task is not None:
            event_task.cancel()
            await asyncio.wait((event_task,), timeout=_CLOSE_WAIT)
        if provider is not None:
            await self._close(provider)

    # --- inside

    async def _forward_events(self, provider: ProviderSession) -> None:
        """Forward the provider's events to the actor; an event stream that ends without `SessionClosed` is a failure."""
        generation = self.generation
        try:
            async for event in provider.events():
                await self._put(ConnectionEvent(generation, _with_clean_texts(self._with_command(event))))
                if isinstance(event, SessionClosed) and self._pair.media == "direct":
                    return  # behind a bridge, a rotation may still replace the closed session
            await self._put(ConnectionEvent(generation, ProviderFailed("the provider's events ended", retry=True)))
        except AgentFieldError as error:
            retry = isinstance(error, ProviderUnavailable)
            await self._put(ConnectionEvent(generation, ProviderFailed(error.message, retry=retry)))
        except Exception as error:  # noqa: BLE001 - a fault of the adapter must end this call, and no other
            _log.exception("the adapter of session %s failed", self._config.session_id)
            await self._put(ConnectionEvent(generation, ProviderFailed(f"the adapter failed: {type(error).__name__}")))

    def _start_events(self, ref: CallRef, provider: ProviderSession) -> None:
        self.ref = ref
        self._provider = provider
        self._session_number += 1
        self._event_task = asyncio.create_task(
            self._forward_events(provider), name=f"events of {self._config.session_id}"
        )

    async def _direct_adapter(self) -> DirectAdapter:
        return cast("DirectAdapter", await self._adapter())

    async def _bridged_adapter(self) -> BridgedAdapter:
        return cast("BridgedAdapter", await self._adapter())

    async def _open_session(
        self, adapter: BridgedAdapter, audio: AudioFormat, ref: CallRef
    ) -> tuple[ProviderSession, int | None]:
        """Open a session; return it, and how many entries of the history it knows: None if it is empty."""
        try:
            async with asyncio.timeout(_OPEN_WAIT):
                if (handle := ref.get("handle")) is not None and isinstance(adapter, ResumableAdapter):
                    with suppress(NotFound):
                        known = int(ref.get("handle_known", "0"))
                        return await adapter.resume(self._config, audio, handle), known
                return await adapter.open(self._config, audio), None
        except TimeoutError:
            raise ProviderUnavailable(
                f"the provider did not open a session within {_OPEN_WAIT:g} s", hint="try the call again"
            ) from None

    async def _end_bridged(self, bridge: Bridge) -> None:
        try:
            async with asyncio.timeout(_END_WAIT):
                await bridge.send(EndCommand(id=new_id("op")))
        except (AgentFieldError, TimeoutError) as error:
            _log.debug("session %s was not ended cleanly: %s", self._config.session_id, error)

    async def _hang_up(self, ref: CallRef) -> None:
        try:
            async with asyncio.timeout(_HANG_UP_WAIT):
                adapter = await self._direct_adapter()
                await adapter.hang_up(ref)
        except (AgentFieldError, TimeoutError) as error:
            _log.warning("session %s could not be hung up at the provider: %s", self._config.session_id, error)

    async def _close(self, provider: ProviderSession) -> None:
        try:
            async with asyncio.timeout(_CLOSE_WAIT):
                await provider.close()
        except (AgentFieldError, TimeoutError) as error:
            _log.debug("session %s was not closed cleanly: %s", self._config.session_id, error)


def _with_clean_texts(event: Event) -> Event:
    """Return an event without lone surrogates in its texts: neither the log nor a provider could take them."""
    if isinstance(event, ReplyAudio):
        return event
    texts = {name: text for name, text in event if isinstance(text, str) and not text.isascii()}
    clean = {name: clean_text(text) for name, text in texts.items()}
    return event if clean == texts else event.model_copy(update=clean)
