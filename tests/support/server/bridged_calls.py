"""An installation in this process with a scripted pair whose audio the control plane carries, and callers on real WebSockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.plugins import Catalog, Manifest, ProviderSpec, Registry, hookimpl
from agentfield.realtime.audio import AudioFormat
from agentfield.realtime.events import ReplyAudio, ReplyEnded, ReplyStarted
from agentfield.realtime.provider import AdapterRuntime
from agentfield.wire.rest import StartRequest, StartResponse
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from support.server.sessions import CARRIED, PAIR, Adapter, Provider
from support.waiting import until

__all__ = ["PCM24", "PROTOCOL", "Caller", "Installation", "run_installation", "scripted_adapter"]

PCM24 = AudioFormat("pcm16", 24000)
PROTOCOL = "agentfield.media.v1"
_FACTORY = "support.server.bridged_calls:scripted_adapter"
_SCRIPTS: list[Adapter] = []


@asynccontextmanager
async def scripted_adapter(_: AdapterRuntime) -> AsyncIterator[Adapter]:
    """Enter the adapter that the test made last."""
    yield _SCRIPTS[-1]


class CarriedAudioPlugin:
    """A plugin with one provider: a pair with carried audio and one without."""

    @hookimpl
    def agentfield_manifest(self) -> Manifest:
        names = Catalog(known=("m-1",), closed=True, default="m-1")
        voices = Catalog(known=("v-1",), closed=True, default="v-1")
        info = ProviderSpec(name="acme", title="Acme", models=names, voices=voices, concurrency=4)
        pairs = tuple(replace(pair, factory=_FACTORY) for pair in (PAIR, CARRIED))
        return Manifest(api=(2, 0), providers=(info,), pairs=pairs)


def shop_agent() -> Agent:
    """Return an agent that repeats the caller's words."""
    app = Agent("shop", registry=Registry.of([]))

    @app.session("voice", provider="acme", transport="websocket")
    async def voice(session: Any) -> None:
        turn = await session.input()
        await session.say(f"You said {turn.text}.")

    @app.session("page", provider="acme", transport="webrtc")
    async def page(session: Any) -> None:
        await session.input()

    return app


class Caller:
    """A caller on a WebSocket that keeps what it receives."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.frames: list[dict[str, Any]] = []
        self.audio = bytearray()
        self.heard: list[str] = []
        """The kinds of received messages, in order."""
        self.echo = True
        """Whether it reports played marks."""
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                self.audio += message.data
                self.heard.append("audio")
                continue
            frame = json.loads(message.data)
            self.frames.append(frame)
            self.heard.append(frame["type"])
            if frame["type"] == "mark" and self.echo:
                await self.socket.send_json({"type": "mark", "name": frame["name"]})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == kind]

    async def frame(self, kind: str, count: int = 1) -> dict[str, Any]:
        """Wait for the nth frame of a kind."""
        await until(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    async def says(self, **frame: Any) -> None:
        await self.socket.send_json(frame)

    async def closed(self) -> int | None:
        """Wait until the server has closed the connection; return the code."""
        await asyncio.wait_for(self._reader, 60)
        return self.socket.close_code

    async def leave(self) -> None:
        await self.socket.close()
        await asyncio.gather(self._reader, return_exceptions=True)


@dataclass
class Installation:
    """A running installation."""

    plane: ControlPlane
    client: ControlPlaneClient
    http: aiohttp.ClientSession
    adapter: Adapter
    stack: AsyncExitStack

    async def start(self, target: str = "shop.voice") -> StartResponse:
        return await self.client.start_session(StartRequest(target=target, caller="ann", details=True))

    async def call(self, session: StartResponse, query: str = "", **options: Any) -> Caller:
        """Connect as a caller, with the token in the header unless protocols are given."""
        if "protocols" not in options:
            options["headers"] = {"Authorization": f"Bearer {session.token}", **options.get("headers", {})}
        caller = Caller(await self.http.ws_connect(f"{session.media_url}{query}", **options))
        self.stack.push_async_callback(caller.leave)
        return caller

    async def live(self, session: StartResponse, query: str = "") -> tuple[Caller, Provider]:
        """Connect and wait until the call is live."""
        caller = await self.call(session, query)
        provider = await self.adapter.socket()
        await self.state(session, "live")
        return caller, provider

    async def state(self, session: StartResponse, state: str) -> Any:
        async with asyncio.timeout(60):
            while (view := await self.client.get_session(session.session_id)).state != state:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return view

    async def speaks(self, provider: Provider, command: str, ms: float) -> str:
        """Let the provider speak a reply to a command, completely."""
        reply = f"r-{command}"
        provider.tell(
            ReplyStarted(reply=reply, command=command),
            ReplyAudio(reply=reply, data=b"\1\0" * (PCM24.size(ms) // 2)),
            ReplyEnded(reply=reply, command=command, text="You said hello.", audio=True),
        )
        return reply


@asynccontextmanager
async def run_installation(
    home: Path,
    *,
    plugins: Sequence[object] = (),
    agent: Callable[[], Agent] = shop_agent,
    environ: Mapping[str, str] = MappingProxyType({}),
    **settings: Any,
) -> AsyncIterator[Installation]:
    """Run an installation; afterwards every task that it started must have ended.

    Args:
        home: The data folder; it survives a restart.
        plugins: Plugins besides the provider.
        agent: Returns the agent.
        environ: The settings of plugins.
        settings: The settings of the control plane.
    """
    before = asyncio.all_tasks()
    adapter = Adapter()
    _SCRIPTS.append(adapter)
    try:
        async with AsyncExitStack() as stack:
            plane = await stack.enter_async_context(
                control_plane(
                    Settings(home=home, port=0, **settings),
                    registry=Registry.of([CarriedAudioPlugin(), *plugins]),
                    environ=environ,
                )
            )
            node = agent()
            node._url, node._api_key = plane.url, settings.get("api_key")
            await stack.enter_async_context(node)
            client = await stack.enter_async_context(ControlPlaneClient(plane.url, api_key=settings.get("api_key")))
            http = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
            yield Installation(plane, client, http, adapter, stack)
    finally:
        _SCRIPTS.remove(adapter)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"left behind: {left}"
