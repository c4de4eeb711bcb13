"""The line to a session's call at the provider: made from an offer, attached, commanded, hung up, let go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from agentfield.errors import AgentFieldError, Conflict, ProviderUnavailable
from agentfield.plugins.spec import PairSpec
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.bridge import Bridge
from agentfield.realtime.caller import CallerInput, CallerLeg
from agentfield.realtime.commands import Command, End, Reply, Say
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import ProviderFault, SessionClosed
from agentfield.realtime.player import LineEnd
from agentfield.realtime.provider import BridgedAdapter, CallRef, DirectAdapter, ProviderSession
from agentfield.realtime.stalls import Stalls
from agentfield_server.media.convert import converter
from agentfield_server.sessions import inputs as i

__all__ = ["ATTACH_WAIT", "CallLine", "FromCall", "MediaAdapter"]

MediaAdapter = DirectAdapter | BridgedAdapter
"""An adapter of any medium; the pair says which."""

_log = logging.getLogger("agentfield.sessions")

ATTACH_WAIT = 10.0
"""Seconds in which the sideband must be attached (5) and its configuration confirmed (5), else the call is hung up."""
_NEGOTIATE_WAIT = 20.0
_OPEN_WAIT = 20.0
_END_WAIT = 2.0
_SEND_WAIT = 5.0
_HANG_UP_WAIT = 5.0
_CLOSE_WAIT = 2.0


@dataclass(frozen=True, slots=True)
class FromCall:
    """Something that a call at the provider told; of no interest once another call has replaced it."""

    generation: int
    event: i.Input


Put = Callable[[FromCall], Awaitable[None]]
Tell = Callable[[i.Input], None]


class CallLine:
    """The call of one session at its provider.

    On pairs of direct media the call is negotiated and its sideband attached; on the others the provider's session is
    opened, and a bridge carries the audio of the caller's leg.

    Args:
        adapter: The pair's adapter; entered on first use.
        pair: Says who carries the audio.
        config: The frozen configuration.
        put: Takes what the provider tells; waits for room.
        tell: Takes what came of a command; never waits.
        hear: Takes what the caller of a bridge typed, and that it has gone; never waits.
        stalls: Shared by all calls, by the clock of `time.monotonic`.
    """

    def __init__(
        self,
        adapter: Callable[[], Awaitable[MediaAdapter]],
        pair: PairSpec,
        config: SessionConfig,
        *,
        put: Put,
        tell: Tell,
        hear: Callable[[CallerInput], None],
        stalls: Stalls,
    ) -> None:
        self._adapter = adapter
        self._pair = pair
        self._config = config
        self._hear = hear
        self._stalls = stalls
        self._bridge: Bridge | None = None
        self._audio: AudioFormat | None = None
        self._put = put
        self._tell = tell
        self.generation = 0
        self.ref: CallRef | None = None
        self._provider: ProviderSession | None = None
        self._pump: asyncio.Task[None] | None = None

    async def negotiate(self, offer: str) -> tuple[str, CallRef]:
        """Create a call at the provider; returns the answer and how to find the call again.

        Raises:
            ProviderError: It refused.
            ProviderUnavailable: It did not answer in time.
        """
        adapter = await self._direct()
        try:
            async with asyncio.timeout(_NEGOTIATE_WAIT):
                answer = await adapter.negotiate(offer, self._config)
        except TimeoutError:
            raise ProviderUnavailable(
                f"the provider did not answer the offer within {_NEGOTIATE_WAIT:g} s", hint="try the call again"
            ) from None
        return answer.sdp, dict(answer.ref)

    async def attach(self, ref: CallRef) -> None:
        """Attach the sideband to a call and tell the machine what happens there.

        Raises:
            ProviderError: It could not be attached; the call was hung up.
            ProviderUnavailable: The same, for want of an answer in time.
        """
        try:
            adapter = await self._direct()
            async with asyncio.timeout(ATTACH_WAIT):
                provider = await adapter.attach(ref, self._config)
        except BaseException as error:
            self.ref = None if self.ref == ref else self.ref
            await asyncio.shield(self._hang_up(ref))
            if isinstance(error, TimeoutError):
                raise ProviderUnavailable(
                    f"the call could not be attached within {ATTACH_WAIT:g} s, so it was hung up",
                    hint="try the call again",
                ) from None
            raise
        await self.let_go()
        self._begin(ref, provider)

    # --- audio that passes through us

    @property
    def bridged(self) -> bool:
        """Whether there is a bridge that takes a leg."""
        return self._bridge is not None

    async def open(self, ref: CallRef, wanted: AudioFormat | None = None) -> None:
        """Open the provider's session and put the bridge before it.

        Args:
            ref: What is stored of the call.
            wanted: The caller's format, taken where the provider has it and need not speak texts exactly; else the
                provider's first.

        Raises:
            ProviderError: The provider refused.
            ProviderUnavailable: It did not answer in time.
        """
        adapter = await self._open_adapter()
        exact = self._config.declaration.say == "exact"
        audio = wanted if wanted in adapter.formats and wanted is not None and not exact else adapter.formats[0]
        provider = await self._opened(adapter, audio)
        await self.let_go()
        self._audio = audio
        self._bridge = Bridge(
            provider,
            audio=audio,
            convert=converter,
            clock=time.monotonic,
            hear=self._hear,
            patient=self._pair.media == "bridged",
            stalls=self._stalls,
        )
        self._bridge.keep()
        self._begin(ref, self._bridge)

    async def carry(self, leg: CallerLeg) -> LineEnd:
        """Carry a caller's leg until it is over; returns why it is.

        Raises:
            Conflict: There is no session at the provider (code `not_live`).
        """
        if self._bridge is None:
            raise Conflict("there is no session at the provider", code="not_live", hint="connect again")
        return await self._bridge.attach(leg)

    async def rotate(self, rotated: Callable[[], None]) -> None:
        """Open another session at the provider and let it take over.

        Args:
            rotated: Called before anything that the new one tells.

        Raises:
            ProviderError: The provider refused.
            ProviderUnavailable: It did not answer in time.
        """
        bridge, audio = self._bridge, self._audio
        if bridge is None or audio is None:
            raise ProviderUnavailable("there is no call whose session could be opened again")
        bridge.hold()
        provider = await self._opened(await self._open_adapter(), audio)
        if self._bridge is not bridge:
            await self._close(provider)
            return
        rotated()
        await bridge.swap(provider)

    def take_audio(self) -> None:
        """Send on what the caller said since another session was asked for, and all that follows."""
        if self._bridge is not None:
            self._bridge.release()

    # --- either way

    async def send(self, command: Command) -> None:
        """Command the provider; what it cannot do or take becomes an input of the machine."""
        provider = self._provider
        if provider is None:
            return
        try:
            async with asyncio.timeout(_SEND_WAIT):
                await provider.send(command)
        except TimeoutError:
            self._tell(i.ProviderFailed(f"the provider took no command for {_SEND_WAIT:g} s", retry=True))
        except ProviderUnavailable as error:
            self._tell(i.ProviderFailed(error.message, retry=True))
        except AgentFieldError as error:
            name = command.id if isinstance(command, Say | Reply) else None
            self._tell(ProviderFault(code=error.code, message=error.message, command=name))

    async def hang_up(self) -> None:
        """End the call at the provider and let go of it; idempotent."""
        ref, self.ref = self.ref, None
        if self._bridge is not None:
            await self._end_bridged(self._bridge)
        elif ref is not None and self._pair.media == "direct":
            await self._hang_up(ref)
        await self.let_go()

    async def end(self, ref: CallRef) -> None:
        """End a call at the provider that another one has replaced."""
        if self._pair.media == "direct":
            await self._hang_up(ref)

    async def let_go(self) -> None:
        """Stop listening without ending the call; idempotent."""
        self.generation += 1
        pump, self._pump = self._pump, None
        provider, self._provider = self._provider, None
        self._bridge = None
        if pump is not None:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)
        if provider is not None:
            await self._close(provider)

    # --- inside

    async def _carry(self, provider: ProviderSession) -> None:
        """Tell the machine what the provider tells; a stream that ends without a word is a failure."""
        generation = self.generation
        try:
            async for event in provider.events():
                await self._put(FromCall(generation, event))
                if isinstance(event, SessionClosed) and self._pair.media == "direct":
                    return  # behind a bridge another session may take over
            await self._put(FromCall(generation, i.ProviderFailed("the provider's events ended", retry=True)))
        except AgentFieldError as error:
            retry = isinstance(error, ProviderUnavailable)
            await self._put(FromCall(generation, i.ProviderFailed(error.message, retry=retry)))
        except Exception as error:  # noqa: BLE001 - an adapter's fault must end this call, and only this one
            _log.exception("the adapter of session %s failed", self._config.session_id)
            await self._put(FromCall(generation, i.ProviderFailed(f"the adapter failed: {type(error).__name__}")))

    def _begin(self, ref: CallRef, provider: ProviderSession) -> None:
        self.ref = ref
        self._provider = provider
        self._pump = asyncio.create_task(self._carry(provider), name=f"events of {self._config.session_id}")

    async def _direct(self) -> DirectAdapter:
        return cast("DirectAdapter", await self._adapter())

    async def _open_adapter(self) -> BridgedAdapter:
        return cast("BridgedAdapter", await self._adapter())

    async def _opened(self, adapter: BridgedAdapter, audio: AudioFormat) -> ProviderSession:
        try:
            async with asyncio.timeout(_OPEN_WAIT):
                return await adapter.open(self._config, audio)
        except TimeoutError:
            raise ProviderUnavailable(
                f"the provider did not open a session within {_OPEN_WAIT:g} s", hint="try the call again"
            ) from None

    async def _end_bridged(self, bridge: Bridge) -> None:
        try:
            async with asyncio.timeout(_END_WAIT):
                await bridge.send(End())
        except (AgentFieldError, TimeoutError) as error:
            _log.debug("session %s was not ended cleanly: %s", self._config.session_id, error)

    async def _hang_up(self, ref: CallRef) -> None:
        try:
            adapter = await self._direct()
            async with asyncio.timeout(_HANG_UP_WAIT):
                await adapter.hang_up(ref)
        except (AgentFieldError, TimeoutError) as error:
            _log.warning("session %s could not be hung up at the provider: %s", self._config.session_id, error)

    async def _close(self, provider: ProviderSession) -> None:
        try:
            async with asyncio.timeout(_CLOSE_WAIT):
                await provider.close()
        except (AgentFieldError, TimeoutError) as error:
            _log.debug("session %s was not closed cleanly: %s", self._config.session_id, error)
