"""A scripted transport of a plugin, in an installation in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from agentfield import Agent
from agentfield.plugins import Manifest, Registry, RouteSpec, TransportSpec, hookimpl
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.caller import CallerAudio, CallerDtmf, CallerGone, CallerInput
from agentfield.realtime.transport import Evidence, TransportRuntime
from support.server.bridged_calls import Caller, Installation, run_installation

__all__ = [
    "BASE",
    "INFO",
    "NUMBER",
    "SECRET",
    "ScriptedLeg",
    "TransportPlugin",
    "TransportScript",
    "ask",
    "installed",
    "line",
    "ring",
    "scripted_transport",
    "transport_agent",
]

BASE = "/api/v1/transports/booth"
NUMBER = {"X-Booth": "7"}
SECRET = "booth-secret-QX71mmLp"
_PCMU = AudioFormat("pcmu", 8000)
_OPEN: list[TransportScript] = []

_RING = RouteSpec(
    method="POST", path="/ring/{target}", handler="ring", access="verified", summary="A caller rings", max_body=1000
)
INFO = TransportSpec(
    name="booth",
    client="server",
    media="bridged",
    summary="a booth",
    factory="support.server.transport_plugin:scripted_transport",
    routes=(
        _RING,
        RouteSpec(
            method="GET",
            path="/line/{session_id}",
            handler="line",
            access="verified",
            summary="The audio of a caller",
            socket=True,
            at_once=2,
        ),
        RouteSpec(method="GET", path="/status", handler="status", access="operator", summary="How it is", at_once=1),
        RouteSpec(
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
class TransportScript:
    """The behaviour of the transport; a test replaces parts of it."""

    verify: Callable[[web.Request], Awaitable[Any]] = _believe
    enter: Callable[[TransportRuntime], Awaitable[Any]] = _nothing
    leave: Callable[[TransportRuntime], Awaitable[Any]] = _nothing
    work: Callable[[web.Request, Evidence | None], Awaitable[Any]] | None = None
    """Replaces the handlers if it is set."""
    start: dict[str, Any] = field(default_factory=dict)
    """Further arguments of `start_session` in `ring`."""
    entered: int = 0
    left: int = 0
    ends: list[Any] = field(default_factory=list)
    """The reasons of ended calls."""
    bodies: list[bytes] = field(default_factory=list)
    runtime: TransportRuntime | None = None


class ScriptedTransport:
    """The transport as the control plane sees it."""

    def __init__(self, runtime: TransportRuntime, played: TransportScript) -> None:
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
            why = await self.runtime.carry(request.match_info["session_id"], ScriptedLeg(socket))
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


class ScriptedLeg:
    """The leg of a caller: binary frames are audio, the text ``key 5`` is a key, ``bye`` hangs up."""

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
async def scripted_transport(runtime: TransportRuntime) -> AsyncIterator[Any]:
    """Enter the transport that the test made last."""
    played = _OPEN[-1]
    played.runtime = runtime
    played.entered += 1
    found = await played.enter(runtime)
    try:
        yield found or ScriptedTransport(runtime, played)
    finally:
        played.left += 1
        await played.leave(runtime)


class TransportPlugin:
    """A plugin with the transport alone.

    Args:
        played: The behaviour.
        changes: Changed fields of the transport's info.
    """

    def __init__(self, played: TransportScript, **changes: Any) -> None:
        _OPEN.append(played)
        self._info = replace(INFO, **changes)

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        return Manifest(api=(2, 0), transports=(self._info,))


def transport_agent() -> Agent:
    """Return an agent with a session over this transport, and one over another."""
    app = Agent("shop", registry=Registry.of([]))

    @app.session("booth", provider="acme", transport="booth")
    async def by_booth(session: Any) -> None:
        async for event in session.events():
            if event.type == "dtmf":
                await session.say(f"Key {event.digit}, {json.dumps(dict(session.metadata), sort_keys=True)}.")

    @app.session("voice", provider="acme", transport="websocket")
    async def by_socket(session: Any) -> None:
        await session.input()

    return app


def installed(home: Path, played: TransportScript, **changes: Any) -> AbstractAsyncContextManager[Installation]:
    """Run an installation with the transport."""
    plugin = TransportPlugin(played, **changes)
    return run_installation(home, plugins=[plugin], agent=transport_agent, environ={"BOOTH_SECRET": SECRET})


async def ask(it: Installation, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
    """Request a route of the transport; return status and JSON."""
    async with it.http.request(method, f"{it.plane.url}{BASE}{path}", **options) as response:
        text = await response.text()
        return response.status, json.loads(text) if text else {}


async def ring(it: Installation, target: str = "shop.booth") -> str:
    """Start a session as the transport's service does; return its id."""
    status, answer = await ask(it, "POST", f"/ring/{target}", headers=NUMBER)
    assert status == 200, answer
    return str(answer["session_id"])


async def line(it: Installation, session_id: str) -> Caller:
    """Connect a caller's audio."""
    caller = Caller(await it.http.ws_connect(f"{it.plane.url}{BASE}/line/{session_id}", headers=NUMBER))
    it.stack.push_async_callback(caller.leave)
    return caller
