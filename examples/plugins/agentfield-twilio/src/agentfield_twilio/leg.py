"""A caller on the telephone, as sessions see callers (`agentfield.realtime.caller.CallerLeg`)."""

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
_QUIET = 20.0
"""Seconds without any message after which the line is dead: Twilio sends silence fifty times a second."""
_MAX_BAD = 20
"""Messages that may not fit before the line is given up."""
_AHEAD_MS = 5000.0
"""Audio that may come ahead of real time."""
_SAVED_MS = 30_000.0
"""Audio that may have waited on the way and comes at once."""
_ON_ITS_WAY = 16 * 1024
"""Bytes that the library never waits for."""


class TwilioLeg:
    """Plays to a call and hears it. Nothing waits in it: who plays too fast waits for the connection.

    Args:
        socket: The connection.
        stream: The protocol, after its `start`.
        logger: Where messages that do not fit are reported.
        transport: What the connection writes to.
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
        self._bad = 0
        self._complained = False

    @property
    def listening(self) -> bool:
        """Whether the connection is there."""
        return not self._socket.closed

    @property
    def writable(self) -> bool:
        """Whether a message goes out without waiting."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and transport.get_write_buffer_size() <= _ON_ITS_WAY

    async def play(self, reply: str, data: bytes) -> None:  # noqa: ARG002 - marks tell replies apart
        """Send audio; whoever plays watches how long it takes.

        Raises:
            Unavailable: The connection is gone.
        """
        await self._send(self._stream.media(data))

    async def mark(self, name: str) -> None:
        """Ask to be told when everything sent so far was heard.

        Raises:
            Unavailable: The connection is gone.
        """
        await self._send(self._stream.mark(name))

    async def clear(self) -> None:
        """Throw away what Twilio has not played.

        Raises:
            Unavailable: The connection is gone.
        """
        await self._send(self._stream.clear())

    async def input(self) -> AsyncIterator[CallerInput]:
        """Yield what the caller does; what does not fit is left out, and too much of it ends the line."""
        while True:
            try:
                async with asyncio.timeout(_QUIET):
                    message = await self._socket.receive()
            except TimeoutError:
                yield CallerGone(f"Twilio sent nothing for {_QUIET:g} s", hung_up=False)
                return
            try:
                heard = self._read(message)
            except BadMessage as error:
                self._complain(str(error))
                self._bad += 1
                heard = CallerGone("too many messages did not fit", hung_up=False) if self._bad > _MAX_BAD else None
            if heard is not None:
                yield heard
            if isinstance(heard, CallerGone):
                return

    async def close(self) -> None:
        """Close the connection, by which Twilio goes on with the call's next instruction or hangs up; idempotent."""
        await self._socket.close()

    # --- inside

    def _read(self, message: WSMessage) -> CallerInput | None:
        if message.type is WSMsgType.BINARY:
            raise BadMessage("a binary message")
        if message.type is not WSMsgType.TEXT:
            return CallerGone("the connection was lost", hung_up=False)
        match self._stream.receive(message.data):
            case Media() as heard:
                return CallerAudio(heard.data) if self._in_time(len(heard.data)) else None
            case Mark() as heard:
                return CallerMark(heard.name)
            case Dtmf() as heard:
                return CallerDtmf(heard.digit)
            case Stopped():
                return CallerGone("", hung_up=True)
            case _:
                return None

    def _in_time(self, size: int) -> bool:
        """Count audio against the time that it takes to say it; tell whether it is not too early."""
        now, length = self._loop.time(), _PCMU.ms(size)
        self._ahead_ms = max(-_SAVED_MS, self._ahead_ms - (now - self._at) * 1000)
        self._at = now
        if self._ahead_ms + length > _AHEAD_MS:
            self._complain("audio faster than it can be said")
            return False
        self._ahead_ms += length
        return True

    def _complain(self, why: str) -> None:
        """Report the first message that is left out."""
        if not self._complained:
            self._complained = True
            self._logger.warning("a message of a media stream is left out: %s", why)

    async def _send(self, text: str) -> None:
        try:
            await self._socket.send_str(text)
        except (ConnectionError, RuntimeError) as error:
            raise Unavailable("the caller's connection is gone", code="caller_gone") from error
