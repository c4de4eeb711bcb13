"""Floor of the bridge benchmark, a bare relay that only parses every event: ``python -m benchmarks.relay PORT PEER``."""

from __future__ import annotations

import asyncio
import base64
import json
import sys

import aiohttp
from aiohttp import WSMsgType, web


async def media(request: web.Request) -> web.WebSocketResponse:
    """Carry binary audio of a caller to a Realtime server and back."""
    caller = web.WebSocketResponse()
    await caller.prepare(request)
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{sys.argv[2]}/v1/realtime?model=m", max_msg_size=2**22) as peer,
    ):
        up = asyncio.create_task(_up(caller, peer))
        try:
            await _down(caller, peer)
        finally:
            up.cancel()
            await asyncio.gather(up, return_exceptions=True)
    return caller


async def _up(caller: web.WebSocketResponse, peer: aiohttp.ClientWebSocketResponse) -> None:
    async for message in caller:
        if message.type is WSMsgType.BINARY:
            audio = base64.b64encode(message.data).decode()
            await peer.send_str(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
    await peer.close()


async def _down(caller: web.WebSocketResponse, peer: aiohttp.ClientWebSocketResponse) -> None:
    async for message in peer:
        event = json.loads(message.data)
        match event["type"]:
            case "response.output_audio.delta":
                await caller.send_bytes(base64.b64decode(event["delta"]))
            case "input_audio_buffer.speech_started":
                await caller.send_str(
                    json.dumps({"type": "event", "event": {"type": "turn.started", "item": event["item_id"]}})
                )
                await caller.send_str('{"type": "clear"}')
                await peer.send_str('{"type": "response.cancel"}')


def main() -> None:
    """Serve until killed."""
    app = web.Application()
    app.router.add_get("/media", media)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
