"""A transport that a plugin brings, whose code the test plays: what it verifies, what it does, how it gets ready."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from agentfield import Agent
from agentfield.plugins import Manifest, Registry, RouteInfo, TransportInfo, hookimpl
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerAudio, CallerDtmf, CallerGone, CallerInput
from agentfield.realtime.transport import Evidence, TransportRuntime
from unit.media_kit import Caller, House, house

__all__ = [
    "BASE",
    "INFO",
    "NUMBER",
    "SECRET",
    "Booth",
    "BoothLeg",
    "BoothPlugin",
    "ask",
    "booth",
    "booth_desk",
    "installed",
    "line",
    "ring",
]

BASE = "/api/v1/transports/booth"
NUMBER = {"X-Booth": "7"}
SECRET = "booth-secret-QX71mmLp"
_PCMU = AudioFormat("pcmu", 8000)
_OPEN: list[Booth] = []

_RING = RouteInfo(
    method="POST", path="/ring/{target}", handler="ring", access="verified", summary="A caller rings", max_body=1000
)
INFO = TransportInfo(
    name="booth",
    client="server",
    media="bridged",
    summary="a booth",
    factory="unit.booth_kit:booth",
    routes=(
        _RING,
        RouteInfo(
            method="GET",
            path="/line/{session_id}",
            handler="line",
            access="verified",
            summary="The audio of a caller",
            socket=True,
            at_once=2,
        ),
        RouteInfo(method="GET", path="/status", handler="status", access="operator", summary="How it is", at_once=1),
        RouteInfo(
            method="POST", path="/hold/{session_id}", handler="hold", access="session", summary="Keep a caller waiting"
        ),
    ),
    formats=frozenset({"pcmu/8000"}),
    dtmf=True,
    settings=("BOOTH_SECRET",),
)


async def _believe(request: web.Request) -> Evidence:
    return Evidence("booth-number", {"number": request.headers["X-Booth"]})


async def _nothing(_: TransportRuntime) -> None:
    return None


@dataclass
class Booth:
    """What the transport does; a test replaces the parts that it is about."""

    verify: Callable[[web.Request], Awaitable[Any]] = _believe
    enter: Callable[[TransportRuntime], Awaitable[Any]] = _nothing
    leave: Callable[[TransportRuntime], Awaitable[Any]] = _nothing
    work: Callable[[web.Request, Evidence | None], Awaitable[Any]] | None = None
    """In the place of the handlers, where it is set."""
    start: dict[str, Any] = field(default_factory=dict)
    """What else `ring` says to start a session."""
    entered: int = 0
    left: int = 0
    ends: list[Any] = field(default_factory=list)
    """Why lines were over."""
    bodies: list[bytes] = field(default_factory=list)
    runtime: TransportRuntime | None = None


class Served:
    """The transport as the control plane sees it."""

    def __init__(self, runtime: TransportRuntime, played: Booth) -> None:
        self.runtime = runtime
        self.played = played

    async def verify(self, request: web.Request) -> Evidence:
        found: Evidence = await self.played.verify(request)
        return found

    async def ring(self, request: web.Request, evidence: Evidence | None) -> web.StreamResponse:
        if self.played.work is not None:
            answer: web.StreamResponse = await self.played.work(request, evidence)
            return answer
        assert evidence is not None
        self.played.bodies.append(await request.read())
        session_id = await self.runtime.start_session(
            request.match_info["target"], evidence=evidence, **self.played.start
        )
        return web.json_response({"session_id": session_id, "line": self.runtime.url(f"/line/{session_id}")})

    async def line(self, request: web.Request, evidence: Evidence | None) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if self.played.work is not None:
            await self.played.work(request, evidence)
        why: object = "cancelled"
        try:
            why = await self.runtime.carry(request.match_info["session_id"], BoothLeg(socket))
        finally:
            self.played.ends.append(why)
        await socket.close()
        return socket

    async def status(self, request: web.Request, evidence: Evidence | None) -> web.StreamResponse:
        if self.played.work is not None:
            answer: web.StreamResponse = await self.played.work(request, evidence)
            return answer
        assert evidence is None
        return web.json_response({"entered": self.played.entered})

    async def hold(self, request: web.Request, evidence: Evidence | None) -> web.StreamResponse:
        await self.runtime.end_session(request.match_info["session_id"], "on_hold")
        return web.Response()


class BoothLeg:
    """Binary frames are audio, the text ``key 5`` is a key, ``bye`` hangs up."""

    marks = False
    paced = True

    def __init__(self, socket: web.WebSocketResponse, audio: AudioFormat = _PCMU) -> None:
        self.socket = socket
        self.format = audio

    @property
    def listening(self) -> bool:
        return not self.socket.closed

    async def play(self, reply: str, data: bytes) -> None:
        await self.socket.send_bytes(data)

    async def mark(self, name: str) -> None:
        raise AssertionError(name)

    async def clear(self) -> None:
        await self.socket.send_json({"type": "clear"})

    async def input(self) -> AsyncIterator[CallerInput]:
        async for message in self.socket:
            if message.type is WSMsgType.BINARY:
                yield CallerAudio(message.data)
            elif message.data == "bye":
                yield CallerGone("", hung_up=True)
                return
            else:
                yield CallerDtmf(str(message.data).removeprefix("key "))
        yield CallerGone("the connection was lost", hung_up=False)

    async def close(self) -> None:
        await self.socket.close()


@asynccontextmanager
async def booth(runtime: TransportRuntime) -> AsyncIterator[Any]:
    """Enter the transport that the test made last."""
    played = _OPEN[-1]
    played.runtime = runtime
    played.entered += 1
    found = await played.enter(runtime)
    try:
        yield found or Served(runtime, played)
    finally:
        played.left += 1
        await played.leave(runtime)


class BoothPlugin:
    """Brings the transport and nothing else.

    Args:
        played: What it does.
        changes: Fields of the transport's info that differ.
    """

    def __init__(self, played: Booth, **changes: Any) -> None:
        _OPEN.append(played)
        self._info = replace(INFO, **changes)

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        return Manifest(api=(1, 0), transports=(self._info,))


def booth_desk() -> Agent:
    """Return an agent that is reached over the booth, and one session that is not."""
    app = Agent("desk", registry=Registry.of([]))

    @app.session("booth", provider="acme", transport="booth")
    async def by_booth(session: Any) -> None:
        async for event in session.events():
            if event.type == "dtmf":
                await session.say(f"Key {event.digit}, {json.dumps(dict(session.metadata), sort_keys=True)}.")

    @app.session("voice", provider="acme", transport="websocket")
    async def by_socket(session: Any) -> None:
        await session.input()

    return app


def installed(home: Path, played: Booth, **changes: Any) -> AbstractAsyncContextManager[House]:
    """Run an installation with the booth."""
    plugin = BoothPlugin(played, **changes)
    return house(home, plugins=[plugin], agent=booth_desk, environ={"BOOTH_SECRET": SECRET})


async def ask(it: House, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """Ask a route of the booth; return the status and the JSON."""
    async with it.http.request(method, f"{it.plane.url}{BASE}{path}", **options) as response:
        text = await response.text()
        return response.status, json.loads(text) if text else {}


async def ring(it: House, target: str = "desk.booth") -> str:
    """Ring at a session; return its id."""
    status, answer = await ask(it, "POST", f"/ring/{target}", headers=NUMBER)
    assert status == 200, answer
    return str(answer["session_id"])


async def line(it: House, session_id: str) -> Caller:
    """Open the line of a caller."""
    caller = Caller(await it.http.ws_connect(f"{it.plane.url}{BASE}/line/{session_id}", headers=NUMBER))
    it.stack.push_async_callback(caller.leave)
    return caller
