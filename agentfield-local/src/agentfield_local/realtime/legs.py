"""The legs of a session: a WebSocket or a data channel, each with a bounded way out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import web
from aiortc import RTCDataChannel
from aiortc.exceptions import InvalidStateError

from agentfield_local.behaviour import Breaks

__all__ = ["ChannelLeg", "Leg", "SocketLeg"]

_log = logging.getLogger(__name__)
_MAX_EVENTS = 20_000
_MAX_BYTES = 128 * 1024 * 1024
_MAX_CHANNEL_BYTES = 16 * 1024 * 1024
_SEND_SECONDS = 30.0
_CUT = 1006
_GARBAGE: dict[str, str | bytes] = {
    "text": '{"type": "response.output_audio.del',
    "binary": b"\x00\xff\xfe",
    "array": '["response.done"]',
    "typeless": '{"event_id": "event_odd", "delta": 7}',
}


class Leg(Protocol):
    """Somewhere that server events go."""

    @property
    def name(self) -> str:
        """What the conversation calls it."""

    def send(self, event: dict[str, Any]) -> None:
        """Queue an event; never waits."""

    def end(self, code: int = 1000, reason: str = "") -> None:
        """Close it after what is queued; a WebSocket with this close code and reason."""


class SocketLeg:
    """A WebSocket; `run` writes what is queued until the leg ends.

    Args:
        name: What the conversation calls it.
        socket: The accepted WebSocket.
        breaks: How the connection breaks.
        abort: Cuts the connection without a close frame.
    """

    def __init__(
        self,
        name: str,
        socket: web.WebSocketResponse,
        *,
        breaks: Breaks | None = None,
        abort: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._socket = socket
        self._abort = abort
        self._breaks = breaks or Breaks()
        self._queue: asyncio.Queue[str | bytes | None] = asyncio.Queue(_MAX_EVENTS + 2)
        self._bytes = 0
        self._sent = 0
        self._ending: tuple[int, str] | None = None

    def send(self, event: dict[str, Any]) -> None:
        """Queue an event; a client that does not read is let go."""
        if self._ending is not None:
            return
        text = json.dumps(event, separators=(",", ":"))
        if self._queue.qsize() >= _MAX_EVENTS or self._bytes + len(text) > _MAX_BYTES:
            _log.warning("leg %s does not read its events: closed", self.name)
            self.end(1008, "too slow")
            return
        self._put(text)
        self._sent += 1
        if self._sent == self._breaks.garbage_after and self._breaks.garbage != "none":
            self._put(_GARBAGE[self._breaks.garbage])
        if self._sent == self._breaks.drop_after:
            self.end(self._breaks.drop_code, "dropped")

    def _put(self, frame: str | bytes) -> None:
        self._bytes += len(frame)
        self._queue.put_nowait(frame)

    def end(self, code: int = 1000, reason: str = "") -> None:
        """Close it after what is queued."""
        if self._ending is None:
            self._ending = (code, reason)
            self._queue.put_nowait(None)

    async def run(self) -> None:
        """Write until the leg ends or the client is gone."""
        try:
            while (frame := await self._queue.get()) is not None:
                self._bytes -= len(frame)
                async with asyncio.timeout(_SEND_SECONDS):
                    await (self._socket.send_str(frame) if isinstance(frame, str) else self._socket.send_bytes(frame))
            await self._close()
        except (ConnectionError, TimeoutError):
            self._ending = self._ending or (1006, "")

    async def _close(self) -> None:
        code, reason = self._ending or (1000, "")
        if code == _CUT:
            self._abort()
            return
        await self._socket.close(code=code, message=reason.encode())


class ChannelLeg:
    """The data channel of a WebRTC call.

    Args:
        name: What the conversation calls it.
        channel: The channel that the caller opened.
        breaks: How the connection breaks.
        vanish: Called when the caller is to be gone.
    """

    def __init__(
        self, name: str, channel: RTCDataChannel, *, breaks: Breaks | None = None, vanish: Callable[[], None]
    ) -> None:
        self.name = name
        self._channel = channel
        self._vanish_after = (breaks or Breaks()).vanish_after
        self._vanish = vanish
        self._sent = 0

    def send(self, event: dict[str, Any]) -> None:
        """Send an event, unless the channel is closed or the caller does not read."""
        if self._channel.bufferedAmount > _MAX_CHANNEL_BYTES:
            self.end()
            return
        self._sent += 1
        if self._sent == self._vanish_after:
            self._vanish()
            return
        try:
            self._channel.send(json.dumps(event, separators=(",", ":")))
        except (InvalidStateError, ConnectionError):
            _log.debug("leg %s is closed", self.name)

    def end(self, code: int = 1000, reason: str = "") -> None:
        """Close the channel; a channel has neither code nor reason."""
        del code, reason
        if self._channel.readyState == "open":
            self._channel.close()
