"""What the contract tests share: one installation with every pair, the local server in the provider's place, and short calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from agentfield import Agent
from agentfield.client import ControlPlaneClient
from agentfield.errors import AgentFieldError
from agentfield.wire.rest import StartRequest, StartResponse
from agentfield_local.brain import load_brain
from agentfield_local.server import LocalServer
from agentfield_local.speech.energy import EnergyVad, FixedStt, ToneTts
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_server.app import control_plane
from agentfield_server.settings import Settings
from call_kit import calling, tone
from unit.media_kit import Caller
from unit.turns_kit import tone as spoken
from unit.turns_kit import wav
from unit.waiting import until

__all__ = ["CANARY", "PAIRS", "Installation", "Outcome", "installation", "target_of"]

CANARY = "sk-canary-c0ntract-7Jq2Lw9x"
"""A provider key that must be nowhere."""
PAIRS = (
    ("openai", "webrtc"),
    ("openai", "websocket"),
    ("openrouter", "audio_turns"),
    ("local", "webrtc"),
    ("local", "websocket"),
    ("local", "audio_turns"),
)
_SPEECH = spoken(0.6)
_SILENCE = bytes(24_000 * 2)


class _Voice(ToneTts):
    """The voice of the local provider, as tones."""

    @property
    def voices(self) -> tuple[str, ...]:
        return ("joe",)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to."""

    words: tuple[str | None, ...] = ()
    tools: tuple[str, ...] = ()
    said: tuple[tuple[str | None, str, bool | None, str | None], ...] = ()
    """Of each speech what was asked and generated, whether that is the same, and why it failed."""
    reason: str | None = None
    refused: str | None = None
    """Code of the error with which the call was refused."""
    heard: bool = False
    """Whether the caller heard anything."""
    warned: frozenset[str] = field(default=frozenset(), compare=False)


def target_of(provider: str, transport: str, kind: str = "") -> str:
    """Return the session of a pair."""
    return f"desk.{provider}_{transport}{kind}"


def desk() -> Agent:
    """Return an agent with a session for each pair, all with the same handler."""
    app = Agent("desk")

    @app.reasoner()
    async def echo(word: str) -> dict[str, str]:
        return {"word": word}

    async def answer(session: Any) -> None:
        turn = await session.input()
        found = await session.call("desk.echo", word=turn.text or "nothing")
        await session.say(found["word"])

    async def model(session: Any) -> None: ...

    for provider, transport in PAIRS:
        name = target_of(provider, transport).removeprefix("desk.")
        app.session(name, provider=provider, transport=transport, floor="handler")(answer)
        app.session(f"{name}_model", provider=provider, transport=transport, tools=["desk.echo"])(model)
        if transport == "websocket":
            app.session(f"{name}_exact", provider=provider, transport=transport, say="exact")(answer)
        if transport != "audio_turns":
            app.session(f"{name}_push", provider=provider, transport=transport, turn_detection=None)(model)
    return app


@dataclass(slots=True)
class Followed:
    """The recorded events of a session, while they come."""

    events: list[dict[str, Any]] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, what: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait for something to be recorded."""
        async with asyncio.timeout(seconds), self.news:
            await self.news.wait_for(what)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event["body"] for event in self.events if event["type"] == kind and "seq" in event]

    @property
    def state(self) -> str:
        return self.of("session.state")[-1]["state"] if self.of("session.state") else "created"

    def outcome(self, *, heard: bool) -> Outcome:
        """Return what the call came to."""
        return Outcome(
            words=tuple(turn["text"] for turn in self.of("turn.committed")),
            tools=tuple(done["status"] for done in self.of("execution.ended") if done["kind"] in ("call", "tool")),
            said=tuple(
                (each["asked"], each["generated"], each["verbatim"], each["failed"]) for each in self.of("speech.ended")
            ),
            reason=self.of("session.state")[-1].get("reason"),
            heard=heard,
            warned=frozenset(each["code"] for each in self.of("warning")),
        )


@dataclass(slots=True)
class Installation:
    """A control plane, an agent and the provider's server, all in this process."""

    server: LocalServer
    client: ControlPlaneClient
    http: aiohttp.ClientSession

    async def call(self, target: str, *, push: bool = False) -> Outcome:
        """Make a call of one turn and return what it came to."""
        try:
            started = await self.client.start_session(StartRequest(target=target))
        except AgentFieldError as error:
            return Outcome(refused=error.code)
        async with self.following(started) as seen:
            if started.media_url is not None:
                heard = await self._over_websocket(started, seen, push=push)
            else:
                heard = await self._in_turns(started, seen)
            if seen.state != "ended":
                await self.client.end_session(started.session_id, reason="caller_hangup")
            await seen.until(lambda: seen.state == "ended")
        left = await self.client.workflow(started.session_id)
        assert all(execution.status not in ("queued", "running", "waiting") for execution in left.executions)
        assert CANARY not in str(seen.events)
        return seen.outcome(heard=heard)

    async def call_by_webrtc(self, target: str) -> Outcome:
        """Make a call of one turn over WebRTC."""
        try:
            async with calling(self.client, target) as live:
                answer = await live.say(tone(0.4))
                heard = len(answer.audio) > 0
                await live.hang_up()
        except AgentFieldError as error:
            return Outcome(refused=error.code)
        assert CANARY not in str(live.events)
        return Followed(live.events).outcome(heard=heard)

    async def _over_websocket(self, started: StartResponse, seen: Followed, *, push: bool) -> bool:
        headers = {"Authorization": f"Bearer {started.token}"}
        async with self.http.ws_connect(started.media_url or "", headers=headers) as socket:
            caller = Caller(socket)
            await until(lambda: seen.state in ("live", "ended") or bool(caller.of("error")))
            if seen.state == "live":
                for at in range(0, len(_SPEECH + _SILENCE), 4800):
                    await socket.send_bytes((_SPEECH + _SILENCE)[at : at + 4800])
                if push:
                    await caller.says(type="commit")
                await seen.until(lambda: bool(seen.of("speech.ended")) or seen.state == "ended")
            if not socket.closed:
                await caller.says(type="hangup")
            await caller.closed()
            return bool(caller.audio)

    async def _in_turns(self, started: StartResponse, seen: Followed) -> bool:
        heard = False
        try:
            async for event in self.client.turn(started.session_id, wav(_SPEECH), "audio/wav"):
                heard = heard or event.get("type") == "reply.audio"
        except AgentFieldError as error:
            seen.events.append({"type": "warning", "seq": 0, "body": {"code": f"turn:{error.code}"}})
        return heard

    @asynccontextmanager
    async def following(self, started: StartResponse) -> AsyncIterator[Followed]:
        """Follow a session."""
        seen = Followed()

        async def read() -> None:
            async for event in self.client.session_events(started.session_id):
                async with seen.news:
                    seen.events.append(event)
                    seen.news.notify_all()

        task = asyncio.create_task(read())
        try:
            yield seen
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def installation(home: Path) -> AsyncIterator[Installation]:
    """Run an installation whose providers are all one local server."""
    engines = SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(()), tts=_Voice())
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(LocalServer(engines, load_brain("obedient")))
        environ = {
            "OPENAI_API_KEY": CANARY,
            "OPENAI_BASE_URL": server.base_url,
            "OPENROUTER_API_KEY": CANARY,
            "OPENROUTER_BASE_URL": server.base_url,
            "AGENTFIELD_LOCAL_URL": server.base_url,
        }
        plane = await stack.enter_async_context(control_plane(Settings(home=home, port=0), environ=environ))
        app = desk()
        app._url, app._api_key = plane.url, None
        await stack.enter_async_context(app)
        client = await stack.enter_async_context(ControlPlaneClient(plane.url))
        http = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
        yield Installation(server, client, http)
