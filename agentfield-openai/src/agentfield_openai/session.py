"""One session at the provider: a codec on a socket, for the sideband of a call as well as for a WebSocket session."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from agentfield.errors import AgentFieldError, NotFound, ProviderError, ProviderUnavailable
from agentfield.realtime.commands import Command, EndCommand
from agentfield.realtime.events import Event, SessionClosed, Warned
from agentfield_openai.codec import Codec
from agentfield_openai.codec.audio_fast_path import encode_append
from agentfield_openai.provider import RealtimeProvider
from agentfield_openai.socket import ConnectionDropped, RealtimeSocket

__all__ = ["CONFIRM_TIMEOUT", "RealtimeSession"]

CONFIRM_TIMEOUT = 5.0
"""Seconds within which the provider must confirm a configuration."""
_MAX_REATTACH = 5
"""Most re-attachments within `_REATTACH_WINDOW` seconds."""
_REATTACH_WINDOW = 60.0


class RealtimeSession:
    """An open session (`agentfield.realtime.provider.ProviderSession`).

    The session has no task of its own: the iteration of `events` reads the socket, runs the codec's timers, and reattaches
    a dropped sideband.

    Args:
        provider: The service.
        codec: The codec of this session.
        socket: The open connection.
        clock: Returns seconds since the epoch.
        hang_up: Ends the session at the provider.
        reattachable: Whether the session continues at the provider after the socket drops (the sideband of a call).
    """

    def __init__(
        self,
        provider: RealtimeProvider,
        codec: Codec,
        socket: RealtimeSocket,
        clock: Callable[[], float],
        hang_up: Callable[[], Awaitable[None]],
        *,
        reattachable: bool,
    ) -> None:
        self._provider = provider
        self._codec = codec
        self._socket = socket
        self._clock = clock
        self._hang_up = hang_up
        self._reattachable = reattachable
        self._send_lock = asyncio.Lock()
        self._received: deque[Event] = deque()
        """Events that `events` has not yielded yet."""
        self._reattach_times: deque[float] = deque(maxlen=_MAX_REATTACH)

    async def configure(self, timeout: float) -> None:  # noqa: ASYNC109 - a timeout is not an error here
        """Send our configuration and wait for its confirmation; events received meanwhile are kept for `events`.

        Args:
            timeout: Seconds to wait; without a confirmation the session continues with a warning.

        Raises:
            ProviderError: The provider refused the configuration.
            ProviderUnavailable: The connection was lost, and the session with it.
        """
        codec = self._codec
        await self._socket.send_now(codec.initial_update())
        try:
            async with asyncio.timeout(timeout):
                while not codec.configured and codec.refused is None and not codec.ended and codec.fatal is None:
                    self._received.extend(self._read(await self._socket.receive()))
                    await self._send_outgoing()
        except TimeoutError:
            message = f"{self._provider.title} did not confirm the configuration within {timeout:g} s."
            self._received.append(Warned(code="configuration_unconfirmed", message=message))
        except ConnectionDropped as dropped:
            if self._reattachable:
                return  # `events` reattaches, or reports the end of the call
            raise self._not_started(dropped) from None
        self._check_refusal()
        if codec.ended:
            self._check_expired()
            return
        self._received.extend(codec.assume_ready())

    async def send(self, command: Command) -> None:
        """Send a command; return once it is written.

        Raises:
            CapabilityMissing: The pair does not support the command.
            InvalidInput: A reply names a tool that the session does not declare.
            ProviderUnavailable: There is no connection to the provider.
        """
        if isinstance(command, EndCommand):
            await self._hang_up()
            return
        async with self._send_lock:
            await self._send_all(self._codec.encode(command))

    def append_audio_nowait(self, data: bytes) -> bool:
        """Send audio of the caller if that needs no waiting (`agentfield.realtime.bridge.uplink.AudioFastPath`)."""
        return not self._send_lock.locked() and self._codec.audio is not None and self._socket.post(encode_append(data))

    def set_audio_sink(self, sink: Callable[[str, bytes], None]) -> None:
        """Pass audio of replies to `sink` on arrival, while the reader of `events` waits (`AudioFastPath`)."""

        def look(frame: bytes) -> bool:
            delta = self._codec.take_audio_delta(frame)
            if delta is not None:
                sink(*delta)
            return delta is not None

        self._socket.look = look

    async def transmit(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Send client events of the codec in order, without other events between them.

        Raises:
            ProviderUnavailable: There is no connection to the provider.
        """
        async with self._send_lock:
            await self._send_all(events)

    async def events(self) -> AsyncIterator[Event]:
        """Yield the events of the session in order; the last one is `SessionClosed`. May be iterated once."""
        try:
            while self._received or not self._codec.ended:
                if not self._received:
                    self._received.extend(await self._next())
                if self._codec.ended:
                    # the reader of these events may stop at the last one
                    self._socket.give_up()
                while self._received:
                    yield self._received.popleft()
        finally:
            self._socket.give_up()
        await self._socket.close()

    async def close(self) -> None:
        """Close the connection; idempotent. This ends a WebSocket session; a call continues."""
        await self._socket.close()

    # ------------------------------------------------------------------------------------------------------------

    async def _send_all(self, events: Iterable[Mapping[str, Any]]) -> None:
        for event in events:
            await self._socket.send(event)

    async def _next(self) -> list[Event]:
        due = self._codec.get_timer()
        wait = None if due is None else max(0.0, due - self._clock())
        try:
            frame = await self._socket.receive(wait)
        except ConnectionDropped as dropped:
            return await self._dropped(dropped)
        events = self._read(frame)
        await self._send_outgoing()
        return events

    def _read(self, frame: str | bytes | None) -> list[Event]:
        now = self._clock()
        return self._codec.handle_timer(now) if frame is None else self._codec.decode(frame, now)

    async def _send_outgoing(self) -> None:
        """Send the client events that received events require; a dropped connection shows at the next read."""
        for event in self._codec.take_outgoing():
            await self._socket.send_now(event)

    def _check_refusal(self) -> None:
        if self._codec.refused is not None:
            code, why, what = self._codec.refused.code, self._codec.refused.message, "the session's configuration"
            hint = "check options=, turn_detection=, transcription= and voice= of the session's declaration"
        elif self._codec.fatal is not None and not self._reattachable:
            code, why, what = self._codec.fatal.code, self._codec.fatal.message, "the session"
            hint = f"check the {self._provider.title} account"
        else:
            return
        raise ProviderError(f"{self._provider.title} refused {what} ({code}): {why}", hint=hint, provider_code=code)

    def _check_expired(self) -> None:
        """Raise for a session that expired while it was configured; the end of a call is left to `events`."""
        if not self._reattachable:
            raise ProviderUnavailable(
                f"{self._provider.title} ended the session before it was configured.",
                hint="try again",
                provider_code="session_expired",
            )

    def _not_started(self, dropped: ConnectionDropped) -> ProviderUnavailable:
        why = f": {dropped.reason}" if dropped.reason else ""
        return ProviderUnavailable(
            f"{self._provider.title} closed the session before it started (code {dropped.code}){why}",
            hint="try again",
            provider_code=f"closed_{dropped.code}",
        )

    async def _dropped(self, dropped: ConnectionDropped) -> list[Event]:
        """Return the events after a lost connection: the end of the session, or those of a re-attachment."""
        if self._socket.closed():
            return self._codec.close(SessionClosed(reason="closed"))
        if self._codec.fatal is not None:
            return self._codec.close(SessionClosed(reason="provider_error", message=self._codec.fatal.message))
        if not self._reattachable:
            await self._socket.close()  # so that no sender waits for a reopened connection
            return self._codec.close(_closed_by_loss(dropped))
        if dropped.is_protocol_error:
            return self._codec.close(_closed_by_loss(dropped))
        if not dropped.can_reattach:
            # some servers report in the close reason that the caller's media never connected
            no_media = dropped.reason == "ice_failed"
            return self._codec.close(SessionClosed(reason="ice_failed" if no_media else "closed"))
        now = self._clock()
        if len(self._reattach_times) == _MAX_REATTACH and now - self._reattach_times[0] < _REATTACH_WINDOW:
            message = f"The sideband was lost {_MAX_REATTACH} times within {_REATTACH_WINDOW:g} s."
            return self._codec.close(SessionClosed(reason="provider_error", message=message))
        self._reattach_times.append(now)
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
        events = self._codec.sideband_reattached(self._clock())
        await self._socket.send_now(self._codec.initial_update())
        await self._send_outgoing()
        return events


def _closed_by_loss(dropped: ConnectionDropped) -> SessionClosed:
    """Return the end event of a session that was lost with its connection."""
    if dropped.code == 1000:
        return SessionClosed(reason="closed", message=dropped.reason or None)
    why = f": {dropped.reason}" if dropped.reason else ""
    message = f"The connection to the provider was lost (code {dropped.code}){why}."
    return SessionClosed(reason="provider_error", message=message, retry=dropped.can_reattach)
