"""The leg of a telephone caller (`agentfield.realtime.caller.CallerLeg`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from aiohttp import WSMessage, WSMsgType, web

from agentfield.errors import Unavailable
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerAudio, CallerDtmf, CallerGone, CallerInput, CallerMark
from agentfield_twilio.protocol import BadMessage, Dtmf, Mark, Media, Stopped, Stream

__all__ = ["TwilioLeg"]

_PCMU = AudioFormat("pcmu", 8000)
_RECEIVE_TIMEOUT = 20.0
"""Seconds without a message after which the connection is lost: Twilio sends silence fifty times a second."""
_MAX_INVALID = 20
"""Invalid messages before the stream is closed."""
_MAX_AHEAD_MS = 5000.0
"""Maximum audio ahead of real time."""
_MAX_LATE_MS = 30_000.0
"""Maximum delayed audio that may arrive at once."""
_MAX_BUFFERED = 16 * 1024
"""Bytes in the write buffer up to which a write does not wait."""


class TwilioLeg:
    """The audio and keys of one call. It has no queue: `play` waits for the connection.

    Args:
        socket: The connection.
        stream: The protocol state, after `start`.
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
        logger: logging.Logger,
        transport: asyncio.Transport | None,
    ) -> None:
        self._socket = socket
        self._stream = stream
        self._logger = logger
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()
        self._ahead_ms = 0.0
        self._invalid = 0
        self._warned = False

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
        await self._send(self._stream.media(data))

    async def mark(self, name: str) -> None:
        """Request a mark after the audio sent so far.

        Raises:
            Unavailable: The connection is closed.
        """
        await self._send(self._stream.mark(name))

    async def clear(self) -> None:
        """Discard the audio that Twilio has not played.

        Raises:
            Unavailable: The connection is closed.
        """
        await self._send(self._stream.clear())

    async def input(self) -> AsyncIterator[CallerInput]:
        """Yield the caller's input; invalid messages are discarded, and too many of them end it."""
        while True:
            try:
                async with asyncio.timeout(_RECEIVE_TIMEOUT):
                    message = await self._socket.receive()
            except TimeoutError:
                yield CallerGone(f"Twilio sent nothing for {_RECEIVE_TIMEOUT:g} s", hung_up=False)
                return
            try:
                event = self._read(message)
            except BadMessage as error:
                self._warn_once(str(error))
                self._invalid += 1
                event = (
                    CallerGone("too many messages did not fit", hung_up=False) if self._invalid > _MAX_INVALID else None
                )
            if event is not None:
                yield event
            if isinstance(event, CallerGone):
                return

    async def close(self) -> None:
        """Close the connection: Twilio executes the next TwiML instruction or hangs up; idempotent."""
        await self._socket.close()

    # --- inside

    def _read(self, message: WSMessage) -> CallerInput | None:
        if message.type is WSMsgType.BINARY:
            raise BadMessage("a binary message")
        if message.type is not WSMsgType.TEXT:
            return CallerGone("the connection was lost", hung_up=False)
        match self._stream.receive(message.data):
            case Media() as event:
                return CallerAudio(event.data) if self._in_time(len(event.data)) else None
            case Mark() as event:
                return CallerMark(event.name)
            case Dtmf() as event:
                return CallerDtmf(event.digit)
            case Stopped():
                return CallerGone("", hung_up=True)
            case _:
                return None

    def _in_time(self, size: int) -> bool:
        """Count audio against real time; return whether it is not too far ahead."""
        now, length = self._loop.time(), _PCMU.ms(size)
        self._ahead_ms = max(-_MAX_LATE_MS, self._ahead_ms - (now - self._at) * 1000)
        self._at = now
        if self._ahead_ms + length > _MAX_AHEAD_MS:
            self._warn_once("audio faster than it can be said")
            return False
        self._ahead_ms += length
        return True

    def _warn_once(self, why: str) -> None:
        """Log the first discarded message."""
        if not self._warned:
            self._warned = True
            self._logger.warning("a message of a media stream is left out: %s", why)

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send_str(text)
        except (ConnectionError, RuntimeError) as error:
            raise Unavailable("the caller's connection is gone", code="caller_gone") from error
