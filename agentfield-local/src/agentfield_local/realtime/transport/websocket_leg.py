"""WebSocket leg of a session: a bounded queue of server events, with injected connection faults."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from aiohttp import web

from agentfield_local.faults.behaviour import DisconnectFaults

__all__ = ["ABORT", "WebSocketLeg"]

_log = logging.getLogger(__name__)
_MAX_EVENTS = 20_000
_MAX_BYTES = 128 * 1024 * 1024
_SEND_SECONDS = 30.0
ABORT = 1006
"""Close code with which a connection is cut without a close frame (RFC 6455, section 7.4.1)."""
_GARBAGE: dict[str, str | bytes] = {
    "text": '{"type": "response.output_audio.del',
    "binary": b"\x00\xff\xfe",
    "array": '["response.done"]',
    "typeless": '{"event_id": "event_odd", "delta": 7}',
}


class WebSocketLeg:
    """One WebSocket; `run` writes queued events until the leg ends.

    Args:
        name: Name of the leg in the conversation.
        socket: The accepted WebSocket.
        disconnects: Connection faults to inject.
        abort: Cuts the connection without a close frame.
    """

    def __init__(
        self,
        name: str,
        socket: web.WebSocketResponse,
        *,
        disconnects: DisconnectFaults | None = None,
        abort: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._socket = socket
        self._abort = abort
        self._disconnects = disconnects or DisconnectFaults()
        # Two more than events are accepted: garbage and the end marker must always fit.
        self._queue: asyncio.Queue[str | bytes | None] = asyncio.Queue(_MAX_EVENTS + 2)
        self._queued_bytes = 0
        self._sent = 0
        self._closing: tuple[int, str] | None = None

    def send(self, event: dict[str, Any]) -> None:
        """Queue an event; close the socket of a client that does not read."""
        if self._closing is not None:
            return
        text = json.dumps(event, separators=(",", ":"))
        if self._queue.qsize() >= _MAX_EVENTS or self._queued_bytes + len(text) > _MAX_BYTES:
            _log.warning("leg %s does not read its events: closed", self.name)
            self.end(1008, "too slow")
            return
        self._put(text)
        self._sent += 1
        if self._sent == self._disconnects.garbage_after and self._disconnects.garbage != "none":
            self._put(_GARBAGE[self._disconnects.garbage])
        if self._sent == self._disconnects.drop_after:
            self.end(self._disconnects.drop_code, "dropped")

    def _put(self, frame: str | bytes) -> None:
        self._queued_bytes += len(frame)
        self._queue.put_nowait(frame)

    def end(self, code: int = 1000, reason: str = "") -> None:
        """Close the socket after the queued events."""
        if self._closing is None:
            self._closing = (code, reason)
            self._queue.put_nowait(None)

    async def run(self) -> None:
        """Write until the leg ends or the client disconnects."""
        try:
            while (frame := await self._queue.get()) is not None:
                self._queued_bytes -= len(frame)
                async with asyncio.timeout(_SEND_SECONDS):
                    await (self._socket.send_str(frame) if isinstance(frame, str) else self._socket.send_bytes(frame))
            await self._close()
        except (ConnectionError, TimeoutError):
            self._closing = self._closing or (ABORT, "")

    async def _close(self) -> None:
        code, reason = self._closing or (1000, "")
        if code == ABORT:
            self._abort()
            return
        await self._socket.close(code=code, message=reason.encode())
