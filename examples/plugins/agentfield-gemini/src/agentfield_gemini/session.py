"""One session: the connection to the Live API, and the events that it causes.

Some events have no message of the server (a cancelled reply, push to talk), so the connection is read by a task of its own,
which the reader of the events starts and stops.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import aiohttp

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.errors import ProviderUnavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.commands import Command, EndCommand
from agentfield.realtime.events import Event, SessionClosed
from agentfield_gemini.commands import Message
from agentfield_gemini.protocol import LiveProtocol
from agentfield_gemini.replies import OUTPUT

__all__ = ["GeminiSession", "write"]

_MAX_EVENTS = 1000
"""Events that wait for a slow reader; the connection is not read meanwhile."""
_SEND_TIMEOUT = 10.0


async def write(socket: aiohttp.ClientWebSocketResponse, message: Message) -> None:
    """Send a message.

    Raises:
        TimeoutError: The connection accepts nothing.
        ConnectionError: It is closed.
        aiohttp.ClientError: It broke.
    """
    async with asyncio.timeout(_SEND_TIMEOUT):
        await socket.send_str(json.dumps(message, ensure_ascii=False))


class GeminiSession:
    """A session (`agentfield.realtime.provider.ProviderSession`).

    Args:
        socket: The connection; the server has accepted the session.
        endpoint: The provider.
        protocol: The protocol state of the session.
        events: The events so far.
    """

    def __init__(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        endpoint: ProviderEndpoint,
        protocol: LiveProtocol,
        events: Sequence[Event],
    ) -> None:
        self._socket = socket
        self._endpoint = endpoint
        self._protocol = protocol
        self._events = deque(events)
        self._changed = asyncio.Event()
        self._has_space = asyncio.Event()
        self._asked = False

    @property
    def output_format(self) -> AudioFormat:
        """The format of the model's audio (`agentfield.realtime.provider.SeparateOutput`)."""
        return OUTPUT

    async def send(self, command: Command) -> None:
        """Send `command`; return once it is written.

        Raises:
            CapabilityMissing: The Live API does not support it.
            ProviderUnavailable: The connection is closed.
        """
        if self._asked or self._socket.closed:
            if isinstance(command, EndCommand):
                return
            raise self._closed_error()
        messages, events = self._protocol.send(command)
        self._add(events)
        try:
            for message in messages:
                await write(self._socket, message)
        except (OSError, TimeoutError, aiohttp.ClientError):
            raise self._closed_error() from None
        if isinstance(command, EndCommand):
            await self.close()

    async def events(self) -> AsyncIterator[Event]:
        """Yield events in order, the last of which is `SessionClosed`. May be iterated once."""
        reading = asyncio.create_task(self._read(), name="Gemini Live connection")
        try:
            while True:
                while self._events:
                    event = self._events.popleft()
                    self._has_space.set()
                    yield event
                    if isinstance(event, SessionClosed):
                        return
                self._changed.clear()
                await self._changed.wait()
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    async def close(self) -> None:
        """Close the connection, which ends the session at the server after a while; idempotent."""
        self._asked = True
        await self._socket.close()

    async def _read(self) -> None:
        code, reason = None, ""
        while True:
            while len(self._events) >= _MAX_EVENTS:
                self._has_space.clear()
                await self._has_space.wait()
            message = await self._socket.receive()
            match message.type:
                case aiohttp.WSMsgType.TEXT | aiohttp.WSMsgType.BINARY:
                    self._add(self._protocol.receive(message.data))
                case aiohttp.WSMsgType.CLOSE:
                    code, reason = message.data, str(message.extra or "")
                case aiohttp.WSMsgType.CLOSED | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.ERROR:
                    break
        self._add([self._protocol.closed(code, reason, asked=self._asked)])

    def _add(self, events: Sequence[Event]) -> None:
        self._events.extend(events)
        self._changed.set()

    def _closed_error(self) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"The connection to {self._endpoint.title} is closed.", hint="start another session", provider_code="closed"
        )
