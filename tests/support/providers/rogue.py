"""A Realtime provider that confirms a session and then sends what it likes, from a seed."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

__all__ = ["RogueProvider", "rogue_provider"]

_KINDS = (
    *(f"session.{step}" for step in ("created", "updated", "odd")),
    *(f"input_audio_buffer.{step}" for step in ("speech_started", "speech_stopped", "committed", "cleared")),
    *(f"conversation.item.{step}" for step in ("added", "done", "created", "truncated", "retrieved")),
    *(f"conversation.item.input_audio_transcription.{step}" for step in ("delta", "completed", "failed")),
    *(f"response.{step}" for step in ("created", "done", "output_item.added", "output_item.done")),
    *(f"response.output_audio.{step}" for step in ("delta", "done")),
    *(f"response.output_audio_transcript.{step}" for step in ("delta", "done")),
    *("response.audio.delta", "rate_limits.updated", "mcp_list_tools.completed", "error", "novelty"),
)
_IDS = ("item_1", "item_2", "resp_1", "resp_2", "call_1", "", "x" * 600, "\ud83d")
_SOUND = base64.b64encode(b"\1\2" * 240).decode()
_ODD = (None, True, [], {}, [[{}]], 2**70, 1e308, float("nan"), float("-inf"), "\udfff", "y" * 9000)
_CODES = ("server_error", "invalid_value", "rate_limit_exceeded", "conversation_already_has_active_response", "odd")


@dataclass
class RogueProvider:
    """The provider: its address, and how its sockets behave.

    Args:
        play: Plays on a socket once its session is confirmed, until it returns.
        confirms: Whether a session is confirmed.
    """

    play: Callable[[web.WebSocketResponse], Any]
    confirms: bool = True
    url: str = ""
    sockets: int = 0
    _app: web.Application = field(default_factory=web.Application)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Serve a socket."""
        self.sockets += 1
        socket = web.WebSocketResponse(protocols=("realtime",), timeout=1.0)
        await socket.prepare(request)
        if self.confirms:
            async for message in socket:
                if message.type is WSMsgType.TEXT and (event := json.loads(message.data))["type"] == "session.update":
                    model = {"model": request.query.get("model")}
                    await socket.send_json({"type": "session.updated", "session": {**event["session"], **model}})
                    break
        await self.play(socket)
        await socket.close()
        return socket


def frame(chance: random.Random) -> str:
    """Return one event: of a known or unknown type, with fields missing, of odd types, or unrepresentable."""

    def some(value: Any) -> Any:
        return chance.choice(_ODD) if chance.random() < 0.15 else value

    def maybe(fields: dict[str, Any]) -> dict[str, Any]:
        return {name: some(value) for name, value in fields.items() if chance.random() < 0.85}

    name = chance.choice
    item = maybe(
        {
            "id": name(_IDS),
            "type": name(("message", "function_call", "function_call_output", "mcp_call")),
            "role": name(("user", "assistant")),
            "status": name(("completed", "incomplete")),
            "call_id": name(_IDS),
            "name": name(("shop__echo", "odd")),
            "arguments": name(('{"word": "x"}', "{", '{"word": 9400111899223100001234}', '{"word": NaN}', "[" * 900)),
            "content": [maybe({"type": name(("output_audio", "input_text")), "text": "words", "transcript": "words"})],
        }
    )
    response = maybe({"id": name(_IDS), "status": name(("completed", "failed", "cancelled")), "output": [item]})
    fields = {
        "response_id": name(_IDS),
        "item_id": name(_IDS),
        "item": item,
        "response": response,
        "delta": _SOUND,
        "transcript": "words",
        "text": "words",
        "session": maybe({"instructions": "odd", "audio": some({}), "tools": some([])}),
        "error": maybe({"code": name(_CODES), "message": "odd", "event_id": name(_IDS)}),
        "rate_limits": [maybe({"name": "tokens", "remaining": 0})],
    }
    return json.dumps({"type": chance.choice(_KINDS), **maybe(fields)})


async def fuzz(socket: web.WebSocketResponse, seed: int, count: int = 150) -> None:
    """Send `count` random frames, some of which are no events at all."""
    chance = random.Random(seed)
    for _ in range(count):
        if socket.closed:
            return
        match chance.random():
            case odds if odds < 0.02:
                await socket.send_bytes(b"\x00\xff\xfe")
            case odds if odds < 0.04:
                await socket.send_str(chance.choice(("", "{", "[]", "[" * 5000, '"text"', '{"type": 7}')))
            case _:
                await socket.send_str(frame(chance))
        if chance.random() < 0.2:
            await asyncio.sleep(0)


@asynccontextmanager
async def rogue_provider(
    play: Callable[[web.WebSocketResponse], Any], *, confirms: bool = True
) -> AsyncIterator[RogueProvider]:
    """Run a provider whose sockets behave as `play` says."""
    it = RogueProvider(play, confirms)
    app = web.Application()
    app.router.add_get("/v1/realtime", it.serve)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    it.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield it
    finally:
        await runner.cleanup()
