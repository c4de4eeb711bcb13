"""The line to a session's call at the provider: made from an offer, attached, commanded, hung up, let go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentfield.errors import AgentFieldError, ProviderUnavailable
from agentfield.realtime.commands import Command, Reply, Say
from agentfield.realtime.config import SessionConfig
from agentfield.realtime.events import ProviderFault, SessionClosed
from agentfield.realtime.provider import CallRef, DirectAdapter, ProviderSession
from agentfield_server.sessions import inputs as i

__all__ = ["ATTACH_WAIT", "CallLine", "FromCall"]

_log = logging.getLogger("agentfield.sessions")

ATTACH_WAIT = 10.0
"""Seconds in which the sideband must be attached (5) and its configuration confirmed (5), else the call is hung up."""
_NEGOTIATE_WAIT = 20.0
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

    Args:
        adapter: The pair's adapter; entered on first use.
        config: The frozen configuration.
        put: Takes what the provider tells; waits for room.
        tell: Takes what came of a command; never waits.
    """

    def __init__(
        self, adapter: Callable[[], Awaitable[DirectAdapter]], config: SessionConfig, *, put: Put, tell: Tell
    ) -> None:
        self._adapter = adapter
        self._config = config
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
        adapter = await self._adapter()
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
            adapter = await self._adapter()
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
        self.ref = ref
        self._provider = provider
        self._pump = asyncio.create_task(self._carry(provider), name=f"events of {self._config.session_id}")

    async def send(self, command: Command) -> None:
        """Command the provider; what it cannot do or take becomes an input of the machine."""
        provider = self._provider
        if provider is None:
            return
        try:
            async with asyncio.timeout(_SEND_WAIT):
                await provider.send(command)
        except TimeoutError:
            self._tell(i.ProviderFailed(f"the provider took no command for {_SEND_WAIT:g} s"))
        except ProviderUnavailable as error:
            self._tell(i.ProviderFailed(error.message))
        except AgentFieldError as error:
            name = command.id if isinstance(command, Say | Reply) else None
            self._tell(ProviderFault(code=error.code, message=error.message, command=name))

    async def hang_up(self) -> None:
        """End the call at the provider and let go of it; idempotent."""
        ref, self.ref = self.ref, None
        if ref is not None:
            await self._hang_up(ref)
        await self.let_go()

    async def end(self, ref: CallRef) -> None:
        """End a call at the provider that another one has replaced."""
        await self._hang_up(ref)

    async def let_go(self) -> None:
        """Stop listening without ending the call; idempotent."""
        self.generation += 1
        pump, self._pump = self._pump, None
        provider, self._provider = self._provider, None
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
                if isinstance(event, SessionClosed):
                    return
            await self._put(FromCall(generation, i.ProviderFailed("the provider's events ended")))
        except AgentFieldError as error:
            await self._put(FromCall(generation, i.ProviderFailed(error.message)))
        except Exception as error:  # noqa: BLE001 - an adapter's fault must end this call, and only this one
            _log.exception("the adapter of session %s failed", self._config.session_id)
            await self._put(FromCall(generation, i.ProviderFailed(f"the adapter failed: {type(error).__name__}")))

    async def _hang_up(self, ref: CallRef) -> None:
        try:
            adapter = await self._adapter()
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
