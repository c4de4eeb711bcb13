"""The leg of a telephone caller (`agentfield.realtime.caller.CallerLeg`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from aiohttp import WSMessage, WSMsgType, web

from agentfield.errors import Unavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerAudio, CallerDtmf, CallerGone, CallerInput, CallerMark
from agentfield_telnyx.protocol import BadMessage, Dtmf, Failure, Mark, Media, Stopped, Stream, StreamEvent

__all__ = ["TelnyxLeg"]

_PCMU = AudioFormat("pcmu", 8000)
_MAX_INVALID = 20
"""Invalid messages before the stream is closed."""
_MAX_AHEAD_MS = 5000.0
"""Maximum audio ahead of real time."""
_MAX_LATE_MS = 30_000.0
"""Maximum delayed audio that may arrive at once."""
_MAX_BUFFERED = 16 * 1024
"""Bytes in the write buffer up to which a write does not wait."""


class TelnyxLeg:
    """The audio and keys of one call. It has no queue: `play` waits for the connection.

    Args:
        socket: The connection; its heartbeat notices a lost peer, since Telnyx does not promise to send silence.
        stream: The protocol state, after `start`.
        hang_up: Hangs the call up, without waiting: Telnyx does not promise to do it when the stream is closed.
        logger: Logs discarded messages.
        transport: The transport of the connection.
    """

    format = _PCMU
    marks = True
    paced = True

    def __init__(
        self,
        socket: web.WebSocketResponse,
        stream: Stream,
        *,
        hang_up: Callable[[], None],
        logger: logging.Logger,
        transport: asyncio.Transport | None,
    ) -> None:
        self._socket = socket
        self._stream = stream
        self._hang_up = hang_up
        self._logger = logger
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()
        self._ahead_ms = 0.0
        self._invalid = 0
        self._warned: set[str] = set()

    @property
    def listening(self) -> bool:
        """Whether the connection is open."""
        return not self._socket.closed

    @property
    def writable(self) -> bool:
        """Whether a message can be written without waiting."""
        transport = self._transport
        return (
            transport is not None and not transport.is_closing() and transport.get_write_buffer_size() <= _MAX_BUFFERED
        )

    async def play(self, reply: str, data: bytes) -> None:  # noqa: ARG002 - marks tell replies apart
        """Send audio.

        Raises:
            Unavailable: The connection is closed.
        """
        for message in self._stream.media(data):
            await self._send(message)

    async def mark(self, name: str) -> None:
        """Request a mark after the audio sent so far.

        Raises:
            Unavailable: The connection is closed.
        """
        for message in self._stream.mark(name):
            await self._send(message)

    async def clear(self) -> None:
        """Discard the audio that Telnyx has not played.

        Raises:
            Unavailable: The connection is closed.
        """
        await self._send(self._stream.clear())

    async def input(self) -> AsyncIterator[CallerInput]:
        """Yield the caller's input; invalid messages are discarded, and too many of them end it."""
        while True:
            for each in self._read(await self._socket.receive()):
                yield each
                if isinstance(each, CallerGone):
                    return

    async def close(self) -> None:
        """Hang up and close the connection; idempotent."""
        self._hang_up()
        await self._socket.close()

    # --- inside

    def _read(self, message: WSMessage) -> list[CallerInput]:
        if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
            return [CallerGone("the connection was lost", hung_up=False)]
        try:
            events = self._stream.receive(message.data)
        except BadMessage as error:
            self._warn_once(f"a message of a media stream is left out: {error}")
            self._invalid += 1
            gone = CallerGone("too many messages did not fit", hung_up=False)
            return [gone] if self._invalid > _MAX_INVALID else []
        return [heard for event in events if (heard := self._input_of(event)) is not None]

    def _input_of(self, event: StreamEvent) -> CallerInput | None:
        match event:
            case Media():
                return CallerAudio(event.data) if self._in_time(len(event.data)) else None
            case Mark():
                return CallerMark(event.name)
            case Dtmf():
                return CallerDtmf(event.digit)
            case Stopped():
                return CallerGone("", hung_up=True)
            case Failure():
                self._warn_once(f"Telnyx reports the error {event.code} of a media stream")
        return None

    def _in_time(self, size: int) -> bool:
        """Count audio against real time; return whether it is not too far ahead."""
        now, length = self._loop.time(), _PCMU.ms(size)
        self._ahead_ms = max(-_MAX_LATE_MS, self._ahead_ms - (now - self._at) * 1000)
        self._at = now
        if self._ahead_ms + length > _MAX_AHEAD_MS:
            self._warn_once("a message of a media stream is left out: audio faster than it can be said")
            return False
        self._ahead_ms += length
        return True

    def _warn_once(self, what: str) -> None:
        """Log a fault, the first time that it occurs."""
        if what not in self._warned and len(self._warned) < _MAX_INVALID:
            self._warned.add(what)
            self._logger.warning(what)

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send_str(text)
        except (ConnectionError, RuntimeError) as error:
            raise Unavailable("the caller's connection is gone", code="caller_gone") from error
