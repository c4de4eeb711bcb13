"""One session at the provider: a codec on a socket, the same for a call's sideband and for a session of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from agentfield.errors import AgentFieldError, NotFound, ProviderError, ProviderUnavailable
from agentfield.realtime.commands import Command, End
from agentfield.realtime.events import Event, SessionClosed, Warned
from agentfield_openai.account import RealtimeProvider
from agentfield_openai.codec import Codec
from agentfield_openai.codec.sounds import append
from agentfield_openai.socket import Dropped, RealtimeSocket

__all__ = ["CONFIRM_TIMEOUT", "RealtimeSession"]

CONFIRM_TIMEOUT = 5.0
"""Seconds that a provider has to confirm a configuration."""
_MAX_REATTACH = 5
_REATTACH_WINDOW = 60.0


class RealtimeSession:
    """One session, attached (`agentfield.realtime.provider.ProviderSession`).

    It has no task of its own: whoever iterates `events` drives it, a dropped sideband included.

    Args:
        provider: Whom it is with.
        codec: The translation of this session.
        socket: The open connection.
        clock: Seconds since the epoch.
        hang_up: Ends the session at the provider.
        outlives: Whether the session goes on at the provider when the socket drops, so that it is attached to again.
    """

    def __init__(
        self,
        provider: RealtimeProvider,
        codec: Codec,
        socket: RealtimeSocket,
        clock: Callable[[], float],
        hang_up: Callable[[], Awaitable[None]],
        *,
        outlives: bool,
    ) -> None:
        self._provider = provider
        self._codec = codec
        self._socket = socket
        self._clock = clock
        self._hang_up = hang_up
        self._outlives = outlives
        self._sending = asyncio.Lock()
        self._early: deque[Event] = deque()
        self._reattached: deque[float] = deque(maxlen=_MAX_REATTACH)

    async def configure(self, timeout: float) -> None:  # noqa: ASYNC109 - passing it is not a failure
        """Send our configuration and wait for the provider's word on it; what happens meanwhile is kept for `events`.

        Raises:
            ProviderError: The provider refused it.
            ProviderUnavailable: The connection went away, and the session with it.
        """
        codec = self._codec
        await self._socket.send_now(codec.join())
        try:
            async with asyncio.timeout(timeout):
                while not codec.configured and codec.refused is None and not codec.ended and codec.fatal is None:
                    self._early.extend(self._read(await self._socket.receive()))
                    await self._answer()
        except TimeoutError:
            message = f"{self._provider.title} did not confirm the configuration within {timeout:g} s."
            self._early.append(Warned(code="configuration_unconfirmed", message=message))
        except Dropped as dropped:
            if self._outlives:
                return  # `events` attaches again, or says that it is over
            raise self._never_began(dropped) from None
        self._check_refusal()
        self._early.extend(codec.assume_ready())

    async def send(self, command: Command) -> None:
        """Do `command`; returns when it is on its way.

        Raises:
            CapabilityMissing: The pair cannot do it.
            InvalidInput: A reply names a tool that the session does not declare.
            ProviderUnavailable: The provider's end is gone.
        """
        if isinstance(command, End):
            await self._hang_up()
            return
        async with self._sending:
            await self._send_all(self._codec.encode(command))

    def append(self, data: bytes) -> bool:
        """Send audio of the caller if that needs no waiting (`agentfield.realtime.uplink.Immediate`)."""
        return not self._sending.locked() and self._codec.audio is not None and self._socket.post(append(data))

    def hear(self, sink: Callable[[str, bytes], None]) -> None:
        """Give audio of replies to `sink` as it arrives, while the reader of `events` waits (the same)."""

        def look(frame: bytes) -> bool:
            sound = self._codec.sound(frame)
            if sound is not None:
                sink(*sound)
            return sound is not None

        self._socket.look = look

    async def transmit(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Send client events that `codec` made, in order and with nothing between them.

        Raises:
            ProviderUnavailable: The provider's end is gone.
        """
        async with self._sending:
            await self._send_all(events)

    async def events(self) -> AsyncIterator[Event]:
        """Yield what happens, in order; the last one is `SessionClosed`. May be iterated once."""
        while self._early:
            yield self._early.popleft()
        while not self._codec.ended:
            for event in await self._next():
                yield event
        await self._socket.close()

    async def close(self) -> None:
        """Let go of the session; idempotent. One of its own ends by that."""
        await self._socket.close()

    # ------------------------------------------------------------------------------------------------------------

    async def _send_all(self, events: Iterable[Mapping[str, Any]]) -> None:
        for event in events:
            await self._socket.send(event)

    async def _next(self) -> list[Event]:
        due = self._codec.due()
        wait = None if due is None else max(0.0, due - self._clock())
        try:
            frame = await self._socket.receive(wait)
        except Dropped as dropped:
            return await self._dropped(dropped)
        events = self._read(frame)
        await self._answer()
        return events

    def _read(self, frame: str | bytes | None) -> list[Event]:
        now = self._clock()
        return self._codec.tick(now) if frame is None else self._codec.decode(frame, now)

    async def _answer(self) -> None:
        """Send what follows from what was read; if the connection dropped, the next read says so."""
        for event in self._codec.outgoing():
            await self._socket.send_now(event)

    def _check_refusal(self) -> None:
        if self._codec.refused is not None:
            code, why, what = self._codec.refused.code, self._codec.refused.message, "the session's configuration"
            hint = "check options=, turn_detection=, transcription= and voice= of the session's declaration"
        elif self._codec.fatal is not None and not self._outlives:
            code, why, what = self._codec.fatal.code, self._codec.fatal.message, "the session"
            hint = f"check the {self._provider.title} account"
        else:
            return
        raise ProviderError(f"{self._provider.title} refused {what} ({code}): {why}", hint=hint, provider_code=code)

    def _never_began(self, dropped: Dropped) -> ProviderUnavailable:
        why = f": {dropped.reason}" if dropped.reason else ""
        return ProviderUnavailable(
            f"{self._provider.title} closed the session before it began (code {dropped.code}){why}",
            hint="try again",
            provider_code=f"closed_{dropped.code}",
        )

    async def _dropped(self, dropped: Dropped) -> list[Event]:
        if self._socket.closed():
            return self._codec.close(SessionClosed(reason="closed"))
        if self._codec.fatal is not None:
            return self._codec.close(SessionClosed(reason="provider_error", message=self._codec.fatal.message))
        if not self._outlives:
            await self._socket.close()  # so that nothing waits for it to come back
            return self._codec.close(_broken(dropped))
        if dropped.is_fault:
            return self._codec.close(_broken(dropped))
        if not dropped.comes_back:
            # a server that knows says so when the caller's media never found its way
            no_media = dropped.reason == "ice_failed"
            return self._codec.close(SessionClosed(reason="ice_failed" if no_media else "closed"))
        now = self._clock()
        if len(self._reattached) == _MAX_REATTACH and now - self._reattached[0] < _REATTACH_WINDOW:
            message = f"The sideband was lost {_MAX_REATTACH} times within {_REATTACH_WINDOW:g} s."
            return self._codec.close(SessionClosed(reason="provider_error", message=message))
        self._reattached.append(now)
        return await self._reattach()

    async def _reattach(self) -> list[Event]:
        try:
            await self._socket.reopen()
        except NotFound:
            return self._codec.close(SessionClosed(reason="closed"))
        except AgentFieldError as error:
            if self._socket.closed():
                return self._codec.close(SessionClosed(reason="closed"))
            return self._codec.close(SessionClosed(reason="provider_error", message=error.message))
        events = self._codec.reattached(self._clock())
        await self._socket.send_now(self._codec.join())
        await self._answer()
        return events


def _broken(dropped: Dropped) -> SessionClosed:
    """Return the end of a session that went away with its connection."""
    if dropped.code == 1000:
        return SessionClosed(reason="closed", message=dropped.reason or None)
    why = f": {dropped.reason}" if dropped.reason else ""
    message = f"The connection to the provider was lost (code {dropped.code}){why}."
    return SessionClosed(reason="provider_error", message=message, retry=dropped.comes_back)
