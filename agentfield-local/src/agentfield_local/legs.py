"""The legs of a session: a WebSocket or a data channel, each with a bounded way out."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, Protocol

from aiohttp import web
from aiortc import RTCDataChannel
from aiortc.exceptions import InvalidStateError

__all__ = ["ChannelLeg", "Leg", "SocketLeg"]

_log = logging.getLogger(__name__)
_MAX_EVENTS = 20_000
_MAX_BYTES = 128 * 1024 * 1024
_MAX_CHANNEL_BYTES = 16 * 1024 * 1024
_SEND_SECONDS = 30.0


class Leg(Protocol):
    """Somewhere that server events go."""

    @property
    def name(self) -> str:
        """What the conversation calls it."""

    def send(self, event: dict[str, Any]) -> None:
        """Queue an event; never waits."""

    def end(self) -> None:
        """Close it after what is queued."""


class SocketLeg:
    """A WebSocket; `run` writes what is queued until the leg ends.

    Args:
        name: What the conversation calls it.
        socket: The accepted WebSocket.
    """

    def __init__(self, name: str, socket: web.WebSocketResponse) -> None:
        self.name = name
        self._socket = socket
        self._queue: asyncio.Queue[str | None] = asyncio.Queue(_MAX_EVENTS + 1)
        self._bytes = 0
        self._ending = False

    def send(self, event: dict[str, Any]) -> None:
        """Queue an event; a client that does not read is let go."""
        if self._ending:
            return
        text = json.dumps(event, separators=(",", ":"))
        if self._queue.qsize() >= _MAX_EVENTS or self._bytes + len(text) > _MAX_BYTES:
            _log.warning("leg %s does not read its events: closed", self.name)
            self.end()
            return
        self._bytes += len(text)
        self._queue.put_nowait(text)

    def end(self) -> None:
        """Close it after what is queued."""
        if not self._ending:
            self._ending = True
            self._queue.put_nowait(None)

    async def run(self) -> None:
        """Write until the leg ends or the client is gone."""
        try:
            while (text := await self._queue.get()) is not None:
                self._bytes -= len(text)
                async with asyncio.timeout(_SEND_SECONDS):
                    await self._socket.send_str(text)
            await self._socket.close(code=1000)
        except (ConnectionError, TimeoutError):
            self._ending = True


class ChannelLeg:
    """The data channel of a WebRTC call.

    Args:
        name: What the conversation calls it.
        channel: The channel that the caller opened.
    """

    def __init__(self, name: str, channel: RTCDataChannel) -> None:
        self.name = name
        self._channel = channel

    def send(self, event: dict[str, Any]) -> None:
        """Send an event, unless the channel is closed or the caller does not read."""
        if self._channel.bufferedAmount > _MAX_CHANNEL_BYTES:
            self.end()
            return
        try:
            self._channel.send(json.dumps(event, separators=(",", ":")))
        except (InvalidStateError, ConnectionError):
            _log.debug("leg %s is closed", self.name)

    def end(self) -> None:
        """Close the channel."""
        if self._channel.readyState == "open":
            self._channel.close()
