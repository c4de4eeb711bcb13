"""An installation in this process with recorded turns and a scripted provider."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import pytest

from agentfield import Agent, Say
from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError
from agentfield.plugins import Registry
from agentfield.sse import EventParser
from agentfield.wire.rest import StartRequest, StartResponse
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from support.audio import tone, wav
from support.providers.scripted_turns import RecordedTurnsPlugin, Scripted, playing

__all__ = ["RECORDING", "Installation", "run_installation", "turns_agent"]

RECORDING = wav(tone(300))


def turns_agent() -> Agent:
    """Return an agent that repeats the caller's words."""
    app = Agent("kiosk", registry=Registry.of([]))

    @app.reasoner()
    async def price(word: str) -> dict[str, str]:
        return {"price": f"{word} is 3 euros"}

    @app.session("counter", provider="kiosk", transport="audio_turns")
    async def counter(session: Any) -> None:
        turn = await session.input()
        await session.say(f"You said {turn.text}.")

    @app.session("prices", provider="kiosk", transport="audio_turns")
    async def prices(session: Any) -> None:
        turn = await session.input()
        found = await session.call("kiosk.price", word=turn.text)
        await session.say(found["price"])

    @app.session("polite", provider="kiosk", transport="audio_turns", greeting="Welcome.")
    async def polite(session: Any) -> None:
        turn = await session.input()
        await session.say(f"You said {turn.text}.")

    @app.session(
        "recorded", provider="kiosk", transport="audio_turns", greeting=Say("We record this.", interruptible=False)
    )
    async def recorded(session: Any) -> None:
        turn = await session.input()
        await session.say(f"You said {turn.text}.")

    @app.session("model", provider="kiosk", transport="audio_turns", floor="model")
    async def model(session: Any) -> None: ...

    for transport in ("webrtc", "websocket"):

        @app.session(transport, provider="kiosk", transport=transport)
        async def other(session: Any) -> None:
            await session.input()

    return app


@dataclass
class Installation:
    """A running installation."""

    plane: ControlPlane
    client: ControlPlaneClient
    script: Scripted
    http: aiohttp.ClientSession

    async def start(self, target: str = "kiosk.counter") -> StartResponse:
        """Start a session."""
        return await self.client.start_session(StartRequest(target=target, details=True))

    async def answer(self, session_id: str, audio: bytes = RECORDING, **how: Any) -> list[dict[str, Any]]:
        """Send a turn and return its whole answer."""
        media_type = how.pop("media_type", "audio/wav")
        return [event async for event in self.client.turn(session_id, audio, media_type, **how)]

    async def refused(self, session_id: str, audio: bytes = RECORDING, **how: Any) -> AgentFieldError:
        """Send a turn that is refused before its answer starts; return the error."""
        with pytest.raises(AgentFieldError) as caught:
            await self.answer(session_id, audio, **how)
        return caught.value

    @asynccontextmanager
    async def following(self, session_id: str, query: str = "?audio=1") -> AsyncIterator[list[dict[str, Any]]]:
        """Follow a session's events into the yielded list."""
        seen: list[dict[str, Any]] = []

        async def read() -> None:
            parser = EventParser()
            async for chunk in response.content.iter_any():
                seen.extend(json.loads(event.data) for event in parser.feed(chunk))

        url = f"{self.plane.url}/api/v1/sessions/{session_id}/events{query}"
        async with self.http.get(url) as response:
            assert response.status == 200, await response.text()
            task = asyncio.create_task(read())
            try:
                yield seen
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def run_installation(
    home: Path,
    script: Scripted | None = None,
    *,
    plugin: object | None = None,
    environ: Mapping[str, str] = MappingProxyType({}),
    concurrency: Mapping[str, int] = MappingProxyType({}),
) -> AsyncIterator[Installation]:
    """Run an installation with the scripted provider, or with another plugin."""
    async with AsyncExitStack() as stack:
        script = await stack.enter_async_context(playing(script or Scripted()))
        settings = Settings(home=home, port=0, provider_concurrency=dict(concurrency))
        registry = Registry.of([plugin or RecordedTurnsPlugin()])
        plane = await stack.enter_async_context(control_plane(settings, registry=registry, environ=environ))
        agent = turns_agent()
        agent._url, agent._api_key = plane.url, None
        await stack.enter_async_context(agent)
        client = await stack.enter_async_context(ControlPlaneClient(plane.url))
        http = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        yield Installation(plane, client, script, http)
