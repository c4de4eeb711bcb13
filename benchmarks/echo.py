"""A minimal Realtime server that sends every frame back: ``python -m benchmarks.echo PORT``.

A frame is 20 ms of pcm16 at 24 kHz and begins with the time at which it was sent (nanoseconds of the monotonic clock, which all
processes of a machine share) and a flag; with the flag `BARGE` the peer reports that the caller started to speak.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
import time
from typing import Any

from aiohttp import WSMsgType, web

FRAME = 960
STAMP = struct.Struct("<qi")
BARGE = 0x5A17


class Conversation:
    """A connection with one response, which lasts until the caller interrupts it."""

    def __init__(self, socket: web.WebSocketResponse, arrived: list[tuple[int, int]]) -> None:
        self._socket = socket
        self._arrived = arrived
        self._number = 0
        self._open = False
        self._events = 0

    async def run(self, model: str) -> None:
        """Serve the connection until it is closed."""
        await self._send("session.created", session={"id": "sess_1", "type": "realtime", "model": model})
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            match event["type"]:
                case "session.update":
                    session = {"id": "sess_1", "model": model, **event["session"]}
                    await self._send("session.updated", session=session)
                case "input_audio_buffer.append":
                    await self._echo(event["audio"])
                case "response.cancel" if self._open:
                    await self._over("cancelled")

    async def _echo(self, audio: str) -> None:
        data = base64.b64decode(audio)
        for at in range(0, len(data) - FRAME + 1, FRAME):
            sent, flag = STAMP.unpack_from(data, at)
            self._arrived.append((time.monotonic_ns(), sent))
            if flag == BARGE:
                await self._interrupt()
        if not self._open:
            await self._begin()
        part = {
            "response_id": f"resp_{self._number}",
            "item_id": f"msg_{self._number}",
            "output_index": 0,
            "content_index": 0,
        }
        await self._send("response.output_audio.delta", delta=base64.b64encode(data).decode(), **part)

    async def _begin(self) -> None:
        self._number += 1
        self._open = True
        await self._send("response.created", response=self._response("in_progress"))
        item = {
            "id": f"msg_{self._number}",
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        await self._send("response.output_item.added", response_id=f"resp_{self._number}", output_index=0, item=item)

    async def _interrupt(self) -> None:
        item = f"item_{time.monotonic_ns()}"
        await self._send("input_audio_buffer.speech_started", item_id=item, audio_start_ms=0)
        await self._send("input_audio_buffer.speech_stopped", item_id=item, audio_end_ms=20)

    async def _over(self, status: str) -> None:
        self._open = False
        await self._send("response.done", response=self._response(status))

    def _response(self, status: str) -> dict[str, Any]:
        return {"id": f"resp_{self._number}", "object": "realtime.response", "status": status, "output": []}

    async def _send(self, kind: str, **fields: Any) -> None:
        self._events += 1
        await self._socket.send_str(json.dumps({"type": kind, "event_id": f"event_{self._events}", **fields}))


class Peer:
    """The server, with the arrival times of all frames."""

    def __init__(self) -> None:
        self.arrived: list[tuple[int, int]] = []

    async def realtime(self, request: web.Request) -> web.WebSocketResponse:
        """Serve a conversation."""
        socket = web.WebSocketResponse(max_msg_size=2**22)
        await socket.prepare(request)
        await Conversation(socket, self.arrived).run(request.query.get("model", ""))
        return socket

    async def arrivals(self, _: web.Request) -> web.Response:
        """Return and forget the arrival and sending times of the received frames."""
        seen = list(self.arrived)
        self.arrived.clear()
        return web.json_response(seen)


def main() -> None:
    """Serve until killed."""
    app, peer = web.Application(), Peer()
    app.router.add_get("/v1/realtime", peer.realtime)
    app.router.add_get("/arrivals", peer.arrivals)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
