"""Support of the audio turn tests: a provider that plays a script byte by byte and checks what it receives."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from pydantic import SecretStr

from agentfield.adapterkit.endpoint import ProviderEndpoint
from agentfield.adapterkit.http import http_session
from agentfield.realtime.commands import Command
from agentfield.realtime.config import SessionConfig, SessionDeclaration, ToolSpec
from agentfield.realtime.events import Event, SessionClosed
from agentfield_openrouter.adapter import FORMAT, AudioTurnsAdapter
from agentfield_openrouter.http_client import Timeouts
from agentfield_openrouter.session import AudioTurnsSession
from support.providers.openai import misfit
from support.waiting import SECONDS

__all__ = [
    "CANARY",
    "DONE",
    "Peer",
    "Scene",
    "SessionDriver",
    "body_misfit",
    "chunk",
    "config",
    "error",
    "opened",
    "pcm",
    "peer",
    "spoken",
    "tool_chunk",
]

CANARY = "sk-or-v1-canary7f31c9e0b2"
"""A key that must appear nowhere but in the header that carries it."""
FLAGGED = "how do I hotwire the canary car"
"""Words of a caller that a refusal quotes and that must not be passed on."""
DONE = b"data: [DONE]\n\n"
TIMEOUTS = Timeouts(lookups=(0.0, 0.01, 0.01))
USAGE = {
    "prompt_tokens": 120,
    "completion_tokens": 60,
    "total_tokens": 180,
    "prompt_tokens_details": {"audio_tokens": 100, "cached_tokens": 5},
    "completion_tokens_details": {"audio_tokens": 50, "reasoning_tokens": 0},
    "cost": 0.0123,
}


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """Return one event of a stream; without a delta it has no choices."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    head = {"id": "gen-1", "object": "chat.completion.chunk", "created": 1, "model": "openai/gpt-audio"}
    return b"data: " + json.dumps({**head, "provider": "OpenAI", "choices": choices, **more}).encode() + b"\n\n"


def tool_chunk(index: int, call_id: str | None, name: str | None, arguments: str) -> bytes:
    function = {"arguments": arguments, **({} if name is None else {"name": name})}
    call = {"index": index, "type": "function", "function": function, **({} if call_id is None else {"id": call_id})}
    return chunk({"tool_calls": [call]})


def error(code: int, message: str = "no", **metadata: Any) -> bytes:
    return json.dumps({"error": {"code": code, "message": message, "metadata": metadata}}).encode()


def pcm(ms: int, value: int = 7) -> bytes:
    """Return audio that is not silent."""
    return (value.to_bytes(2, "little")) * (24 * ms)


def spoken(text: str = "Hello there.", ms: int = 200, *, finish: str = "stop", usage: Any = None) -> list[bytes]:
    """Return a complete answer: comments, text, audio in padded pieces, usage, end."""
    sound = pcm(ms)
    parts = [sound[at : at + 999] for at in range(0, len(sound), 999)]  # odd on purpose
    half = len(text) // 2
    return [
        b": OPENROUTER PROCESSING\n\n",
        chunk({"role": "assistant", "content": "", "audio": {"id": "audio_1"}}),
        chunk({"audio": {"transcript": text[:half]}}),
        *(chunk({"audio": {"data": base64.b64encode(part).decode()}}) for part in parts),
        b": OPENROUTER PROCESSING\n\n",
        chunk({"content": None, "audio": {"transcript": text[half:]}}),
        chunk({"audio": {"expires_at": 1790000000}}, finish),
        chunk(None, usage=USAGE if usage is None else usage),
        DONE,
    ]


def body_misfit(body: dict[str, Any]) -> str | None:
    """Return where a request differs from the official client's types, except for the router's own fields."""
    known = {key: value for key, value in body.items() if key not in {"provider", "session_id"}}
    if "tools" in known:
        assert all(isinstance(each["function"]["parameters"], dict) for each in known["tools"])
        known["tools"] = [{**each, "function": {**each["function"], "parameters": {}}} for each in known["tools"]]
    return misfit(known, CompletionCreateParamsStreaming)


@dataclass
class Scene:
    """One response of the provider: pieces of its body; a number is a pause, `hold` keeps the stream open at its end."""

    pieces: Sequence[bytes | float] = ()
    status: int = 200
    content_type: str = "text/event-stream"
    headers: dict[str, str] = field(default_factory=dict)
    hold: bool = False
    """Keep the stream open after its last piece, until the other side leaves."""
    keepalive: bool = False
    """Send comments while it is held."""
    drop: bool = False
    """Break the connection after the last piece, without the end of the body."""


@dataclass
class Peer:
    """The provider: received requests, and scripted responses."""

    url: str = ""
    scenes: deque[Scene] = field(default_factory=deque)
    words: deque[tuple[int, bytes]] = field(default_factory=deque)
    costs: deque[tuple[int, bytes]] = field(default_factory=deque)
    asked: list[dict[str, Any]] = field(default_factory=list)
    transcribed: list[dict[str, Any]] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    open_streams: int = 0
    most_streams: int = 0

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        problem = body_misfit(body)
        if problem is not None:
            self.problems.append(problem)
        scene = self.scenes.popleft() if self.scenes else Scene(spoken())
        self.open_streams += 1
        self.most_streams = max(self.most_streams, self.open_streams)
        try:
            return await self._play(request, scene)
        except (asyncio.CancelledError, ConnectionResetError):
            self.aborted.set()
            raise
        finally:
            self.open_streams -= 1

    async def _play(self, request: web.Request, scene: Scene) -> web.StreamResponse:
        response = web.StreamResponse(
            status=scene.status, headers={**scene.headers, "Content-Type": scene.content_type}
        )
        await response.prepare(request)
        for piece in scene.pieces:
            if isinstance(piece, float):
                await asyncio.sleep(piece)  # the script's own pace
            else:
                await response.write(piece)
        while scene.hold:
            await asyncio.sleep(0.02)  # until the other side leaves
            if scene.keepalive:
                await response.write(b": OPENROUTER PROCESSING\n\n")
        if scene.drop and request.transport is not None:
            request.transport.abort()
        else:
            await response.write_eof()
        return response

    async def transcriptions(self, request: web.Request) -> web.Response:
        self.transcribed.append(await request.json())
        self.headers.append(dict(request.headers))
        default = (200, json.dumps({"text": " What time is it? ", "usage": {"seconds": 1.5, "cost": 0.0004}}).encode())
        status, body = self.words.popleft() if self.words else default
        return web.Response(status=status, body=body, content_type="application/json")

    async def generation(self, request: web.Request) -> web.Response:
        self.looked_up.append(request.query["id"])
        status, body = self.costs.popleft() if self.costs else (404, error(404, "not found"))
        return web.Response(status=status, body=body, content_type="application/json")


@asynccontextmanager
async def peer(*scenes: Scene) -> AsyncIterator[Peer]:
    """Run a provider that plays these scenes, one per request."""
    it = Peer(scenes=deque(scenes))
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/api/v1/chat/completions", it.completions)
    app.router.add_post("/api/v1/audio/transcriptions", it.transcriptions)
    app.router.add_get("/api/v1/generation", it.generation)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    it.url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/v1"
    try:
        yield it
    finally:
        await runner.cleanup()
    assert it.problems == []


def tool(target: str) -> ToolSpec:
    parameters = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
    return ToolSpec(target=target, description="A tool.", parameters=parameters)


def config(
    *,
    floor: str = "handler",
    tools: Sequence[str] = (),
    model: str = "openai/gpt-audio",
    transcription: str | None = "openai/gpt-4o-mini-transcribe",
    **declared: Any,
) -> SessionConfig:
    declaration = SessionDeclaration.model_validate(
        {
            "name": "voice",
            "provider": "openrouter",
            "transport": "audio_turns",
            "floor": floor,
            "tools": tuple(tools),
            "instructions": "You help with orders.",
            **declared,
        }
    )
    return SessionConfig(
        session_id="ses_1",
        target="voice-support.voice",
        declaration=declaration,
        model=model,
        voice="alloy",
        transcription=transcription,
        turn_detection=None,
        tools=tuple(tool(target) for target in tools),
        safety_id="hash-of-the-caller",
    )


class SessionDriver:
    """A session with all its events so far."""

    def __init__(self, session: AudioTurnsSession, *, patience: float = SECONDS) -> None:
        self.session = session
        self._patience = patience
        self.events: list[Event] = []
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for event in self.session.events():
            async with self._news:
                self.events.append(event)
                self._news.notify_all()

    async def send(self, *commands: Command) -> None:
        for command in commands:
            await self.session.send(command)

    async def until(self, kind: type[Event] | type, number: int = 1) -> Any:
        """Wait for the n-th event of a kind and return it."""
        async with asyncio.timeout(self._patience), self._news:
            await self._news.wait_for(lambda: len(self.of(kind)) >= number)
        return self.of(kind)[number - 1]

    def of(self, kind: Any) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def close(self) -> None:
        await self.session.close()
        async with asyncio.timeout(60):
            await self._reader
        assert isinstance(self.events[-1], SessionClosed)


@asynccontextmanager
async def opened(
    at: Peer, conf: SessionConfig | None = None, *, timeouts: Timeouts = TIMEOUTS, pinned: bool = True
) -> AsyncIterator[SessionDriver]:
    """Open a session with the provider; afterwards no task of it may be left."""
    before = asyncio.all_tasks()
    provider = ProviderEndpoint(
        "OpenRouter", at.url, SecretStr(CANARY), key_setting="OPENROUTER_API_KEY", url_setting="OPENROUTER_BASE_URL"
    )
    logger = logging.getLogger("agentfield.adapter.openrouter")
    async with http_session() as http:
        adapter = AudioTurnsAdapter(provider, http, logger, lambda: 0.0, pinned=pinned, timeouts=timeouts)
        talk = SessionDriver(await adapter.open(conf or config(), FORMAT))
        try:
            yield talk
        finally:
            await talk.close()
    ours = [task for task in asyncio.all_tasks() - before if "agentfield_openrouter" in repr(task.get_coro())]
    assert ours == []
