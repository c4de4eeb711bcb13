"""What the contract tests share: one installation with every pair, the local server in the provider's place, and callers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agentfield import Agent
from agentfield.errors import AgentFieldError
from agentfield.plugins import Registry
from agentfield.wire.rest import StartRequest, StartResponse
from agentfield_local.brain.obedient import ObedientBrain
from agentfield_local.brain.protocol import Brain
from agentfield_local.server import LocalServer
from agentfield_local.speech.energy import EnergyVad, FixedStt
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.webrtc.options import MediaOptions
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from contract.brains import Voice
from contract.callers import Carried, Direct, Medium, Recorded
from contract.leftovers import CANARY, Watched, no_key_in, nothing_open
from contract.talk import SECONDS, Outcome, Talk

__all__ = [
    "PAIRS",
    "Installation",
    "Pair",
    "declared",
    "desk",
    "enter",
    "installation",
    "name_of",
    "provider",
    "target",
]

Pair = tuple[str, str]
PAIRS: tuple[Pair, ...] = (
    ("openai", "webrtc"),
    ("openai", "websocket"),
    ("openrouter", "audio_turns"),
    ("local", "webrtc"),
    ("local", "websocket"),
    ("local", "audio_turns"),
)


def name_of(value: object) -> str:
    """Return how a parameter is called in the name of a test."""
    return "/".join(value) if isinstance(value, tuple) else str(value)


def target(pair: Pair) -> str:
    """Return the session of a pair."""
    return f"desk.{'_'.join(pair)}"


def desk() -> Agent:
    """Return an agent with a session for each pair, all with the same handler."""
    app = Agent("desk", registry=Registry.of([]))

    @app.reasoner()
    async def echo(word: str) -> dict[str, str]:
        return {"word": word}

    async def answer(session: Any) -> None:
        turn = await session.input()
        found = await session.call("desk.echo", word=turn.text or "nothing")
        await session.say(found["word"])

    for pair in PAIRS:
        provider, transport = pair
        app.session("_".join(pair), provider=provider, transport=transport)(answer)
    return app


def declared(pair: Pair, handler: Callable[[Any], Awaitable[None]], **declaration: Any) -> Agent:
    """Return an agent with one session for a pair, and with reasoners for its tools.

    `slow` waits for the agent's `release`; what `echo` was called with is in its `echoed`.
    """
    app = Agent("desk", registry=Registry.of([]))
    release, echoed = asyncio.Event(), list[str]()

    @app.reasoner()
    async def echo(word: str) -> dict[str, str]:
        echoed.append(word)
        return {"word": word}

    @app.reasoner()
    async def broken() -> None:
        raise ValueError("out of paper")

    @app.reasoner()
    async def slow() -> str:
        await release.wait()
        return "done at last"

    @app.reasoner(on_interrupt="cancel")
    async def held() -> None:
        await asyncio.Event().wait()

    app.session("_".join(pair), provider=pair[0], transport=pair[1], **declaration)(handler)
    app.release, app.echoed = release, echoed  # type: ignore[attr-defined]
    return app


@dataclass(slots=True)
class Installation:
    """A control plane, an agent and the provider's server, all in this process."""

    server: LocalServer
    plane: ControlPlane
    client: Watched
    http: aiohttp.ClientSession
    voice: Voice

    @asynccontextmanager
    async def talk(self, name: str, query: str = "", **start: Any) -> AsyncIterator[Talk]:
        """Start a session and follow it; at the end of the block hang up, and see that nothing of it is left."""
        started = await self.client.start_session(StartRequest(target=name, **start))
        talk = Talk(self, started, self.medium(started, query))
        try:
            yield talk
            await talk.hang_up()
        finally:
            await talk.close()
        await self.nothing_left(talk)

    async def nothing_left(self, talk: Talk) -> None:
        """Check that an ended session left nothing open: no execution, no session at the provider, no key anywhere."""

        async def open_ones() -> list[str]:
            ran = (await self.client.workflow(talk.id)).executions
            return [f"{each.kind} {each.target}" for each in ran if each.status in ("queued", "running", "waiting")]

        async with asyncio.timeout(SECONDS):
            while left := await open_ones():
                talk.left = left
                await asyncio.sleep(0.02)
        await talk.until(lambda: not self.server.sessions and all(call.legs == 0 for call in self.server.calls))
        assert (await self.client.get_session(talk.id)).state == "ended"
        assert CANARY not in json.dumps(talk.events)
        assert CANARY not in talk.medium.told()

    async def refused(self, name: str) -> AgentFieldError:
        """Start a session that must be refused; return how."""
        with pytest.raises(AgentFieldError) as refused:
            await self.client.start_session(StartRequest(target=name))
        assert await self.client.list_sessions() == []
        assert self.server.requests == []
        return refused.value

    async def call(self, name: str, *, silent: bool = False) -> Outcome:
        """Make a call of one turn and return what it came to; a silent caller waits for the end."""
        async with self.talk(name) as talk:
            if await talk.connect():
                if not silent:
                    await talk.speak()
                await talk.until(lambda: talk.over or (not silent and self._answered(talk)))
        return talk.outcome()

    @staticmethod
    def _answered(talk: Talk) -> bool:
        return bool(talk.of("speech.ended")) or talk.medium.gone

    def medium(self, started: StartResponse, query: str = "") -> Medium:
        """Return how the caller of a session reaches it."""
        if started.media_url is not None:
            return Carried(self.http, started.media_url + query, started.token)
        if started.turns_url is not None:
            return Recorded(partial(self.client.turn, started.session_id, token=started.token))
        return Direct(partial(self.client.offer, started.session_id, token=started.token))


def environment(server: LocalServer) -> dict[str, str]:
    """Return the settings of a control plane whose providers are all this server."""
    return {
        "OPENAI_API_KEY": CANARY,
        "OPENAI_BASE_URL": server.base_url,
        "OPENROUTER_API_KEY": CANARY,
        "OPENROUTER_BASE_URL": server.base_url,
        "AGENTFIELD_LOCAL_URL": server.base_url,
        "AGENTFIELD_LOCAL_KEY": CANARY,
    }


@asynccontextmanager
async def provider(
    hears: Iterable[str] = (), brain: Brain | None = None, media: MediaOptions | None = None
) -> AsyncIterator[tuple[LocalServer, Voice]]:
    """Run the server that stands in the place of every provider.

    Args:
        hears: What is heard, turn by turn.
        brain: Its brain; by default it obeys.
        media: How it receives the media of calls.
    """
    voice = Voice()
    engines = SpeechEngines(name="synthetic", vad=EnergyVad, stt=FixedStt(hears), tts=voice)
    async with LocalServer(engines, brain or ObedientBrain(), media=media, key=CANARY) as server:
        yield server, voice


@asynccontextmanager
async def installation(
    home: Path,
    app: Agent | None = None,
    *,
    hears: Iterable[str] = (),
    brain: Brain | None = None,
    prices: Path | None = None,
    registry: Registry | None = None,
    media: MediaOptions | None = None,
    prepare: Callable[[LocalServer], None] | None = None,
) -> AsyncIterator[Installation]:
    """Run an installation whose providers are all one local server; when it is left, nothing of it may be open.

    Args:
        home: The control plane's folder.
        app: The agent; by default the desk.
        hears: What is heard, turn by turn.
        brain: The provider's brain; by default it obeys.
        prices: The operator's prices.
        registry: The control plane's plugins; by default what is installed.
        media: How the provider receives the media of calls.
        prepare: Puts the provider into a position.
    """
    async with provider(hears, brain, media) as (server, voice):
        if prepare is not None:
            prepare(server)
        async with AsyncExitStack() as stack:
            here = await enter(stack, home, app or desk(), server, voice, prices, registry)
            yield here
    nothing_open(home)
    no_key_in(home)
    assert CANARY.encode() not in here.client.told


async def enter(
    stack: AsyncExitStack,
    home: Path,
    app: Agent,
    server: LocalServer,
    voice: Voice,
    prices: Path | None = None,
    registry: Registry | None = None,
) -> Installation:
    """Run a control plane and its agent beside a provider that runs already."""
    environ: Mapping[str, str] = environment(server)
    settings = Settings(home=home, port=0, prices=prices)
    plane = await stack.enter_async_context(control_plane(settings, registry=registry, environ=environ))
    app._url, app._api_key = plane.url, None
    await stack.enter_async_context(app)
    client = await stack.enter_async_context(Watched(plane.url))
    http = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
    return Installation(server, plane, client, http, voice)
