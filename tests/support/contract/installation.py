"""An installation in this process whose providers are all one local server, with a session for every pair."""

from __future__ import annotations

import asyncio
import json
import os
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
from agentfield.settings import home as agentfield_home
from agentfield.wire.rest import StartRequest, StartResponse
from agentfield_local.brain.obedient import ObedientBrain
from agentfield_local.brain.protocol import Brain
from agentfield_local.server import LocalServer
from agentfield_local.speech.protocols import SpeechEngines
from agentfield_local.speech.synthetic import EnergyVad, FixedStt
from agentfield_local.webrtc.options import MediaOptions
from agentfield_server.app import ControlPlane, control_plane
from agentfield_server.settings import Settings
from support.contract.brains import Voice
from support.contract.callers import Carried, Direct, Medium, Recorded
from support.contract.leaks import CANARY, RecordingClient, no_key_in, nothing_open
from support.contract.session import ObservedSession, Outcome
from support.waiting import until_async

__all__ = [
    "PAIRS",
    "Installation",
    "Pair",
    "declared",
    "enter",
    "installation",
    "name_of",
    "provider",
    "selected",
    "shop_agent",
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


SELECTED = os.environ.get("CONTRACT_PAIR")
"""The one pair that is to be checked, such as `openai/websocket`; all where it is not set."""


def name_of(value: object) -> str:
    """Return the name of a parameter in the id of a test."""
    return "/".join(value) if isinstance(value, tuple) else str(value)


def selected(pair: Pair | str) -> bool:
    """Tell whether this run checks a pair."""
    return SELECTED in (None, name_of(pair))


def target(pair: Pair) -> str:
    """Return the target of a pair's session."""
    return f"shop.{'_'.join(pair)}"


def shop_agent() -> Agent:
    """Return an agent with a session for each pair, all with the same handler."""
    app = Agent("shop", registry=Registry.of([]))

    @app.reasoner()
    async def echo(word: str) -> dict[str, str]:
        return {"word": word}

    async def answer(session: Any) -> None:
        turn = await session.input()
        found = await session.call("shop.echo", word=turn.text or "nothing")
        await session.say(found["word"])

    for pair in PAIRS:
        provider, transport = pair
        app.session("_".join(pair), provider=provider, transport=transport)(answer)
    return app


def declared(pair: Pair, handler: Callable[[Any], Awaitable[None]], **declaration: Any) -> Agent:
    """Return an agent with one session for a pair, and with reasoners for its tools.

    `slow` waits for the agent's `release`; the arguments of `echo` are in its `echoed`.
    """
    app = Agent("shop", registry=Registry.of([]))
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
    """A control plane, an agent and the provider's server in this process."""

    server: LocalServer
    plane: ControlPlane
    client: RecordingClient
    http: aiohttp.ClientSession
    voice: Voice

    @asynccontextmanager
    async def talk(self, name: str, query: str = "", **start: Any) -> AsyncIterator[ObservedSession]:
        """Start a session and follow it; at the end of the block hang up and check that nothing of it is left."""
        started = await self.client.start_session(StartRequest(target=name, details=True, **start))
        talk = ObservedSession(self, started, self.medium(started, query))
        try:
            yield talk
            await talk.hang_up()
        finally:
            await talk.close()
        await self.nothing_left(talk)

    async def nothing_left(self, talk: ObservedSession) -> None:
        """Check that an ended session left nothing open: no execution, no session at the provider, no key anywhere."""

        async def open_ones() -> list[str]:
            ran = (await self.client.workflow(talk.id)).executions
            return [f"{each.kind} {each.target}" for each in ran if each.status in ("queued", "running", "waiting")]

        # the handler first: for a minute after the end it may still call
        await talk.until(lambda: not any(talk.id in link.sessions for link in self.plane.hub.links()))
        await until_async(open_ones, lambda left: not left, what="the end of all executions")
        await talk.until(lambda: not self.server.sessions and all(call.legs == 0 for call in self.server.calls))
        assert (await self.client.get_session(talk.id)).state == "ended"
        assert CANARY not in json.dumps(talk.events)
        assert CANARY not in talk.medium.told()

    async def refused(self, name: str) -> AgentFieldError:
        """Start a session that must be refused; return the error."""
        with pytest.raises(AgentFieldError) as refused:
            await self.client.start_session(StartRequest(target=name))
        assert await self.client.list_sessions() == []
        assert self.server.requests == []
        return refused.value

    async def call(self, name: str, *, silent: bool = False) -> Outcome:
        """Make a call of one turn and return its outcome; a silent caller waits for the end."""
        async with self.talk(name) as talk:
            if await talk.connect():
                if not silent:
                    await talk.speak()
                await talk.until(lambda: talk.over or (not silent and self._answered(talk)))
        return talk.outcome()

    @staticmethod
    def _answered(talk: ObservedSession) -> bool:
        return bool(talk.of("speech.ended")) or talk.medium.gone

    def medium(self, started: StartResponse, query: str = "") -> Medium:
        """Return the caller for a session, by the session's transport."""
        if started.media_url is not None:
            return Carried(self.http, started.media_url + query, started.token)
        if started.turns_url is not None:
            return Recorded(partial(self.client.turn, started.session_id, token=started.token))
        return Direct(partial(self.client.offer, started.session_id, token=started.token))


def environment(server: LocalServer) -> dict[str, str]:
    """Return the settings of a control plane that takes this server for every provider."""
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
    """Run the server that stands for every provider.

    Args:
        hears: The transcripts, turn by turn.
        brain: Its brain; by default the obedient one.
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
    """Run an installation whose providers are all one local server; afterwards nothing of it may be open.

    Args:
        home: The control plane's folder.
        app: The agent; by default `shop_agent`.
        hears: The transcripts, turn by turn.
        brain: The provider's brain; by default the obedient one.
        prices: The operator's price file.
        registry: The control plane's plugins; by default the installed ones.
        media: How the provider receives the media of calls.
        prepare: Gives the provider its behaviour variants.
    """
    async with provider(hears, brain, media) as (server, voice):
        if prepare is not None:
            prepare(server)
        async with AsyncExitStack() as stack:
            here = await enter(stack, home, app or shop_agent(), server, voice, prices, registry)
            yield here
    nothing_open(home)
    no_key_in(home)
    assert CANARY.encode() not in here.client.received


async def enter(
    stack: AsyncExitStack,
    home: Path,
    app: Agent,
    server: LocalServer,
    voice: Voice,
    prices: Path | None = None,
    registry: Registry | None = None,
) -> Installation:
    """Run a control plane and its agent beside a running provider."""
    environ: Mapping[str, str] = environment(server)
    settings = Settings(home=home, port=0, prices=prices)
    plane = await stack.enter_async_context(control_plane(settings, registry=registry, environ=environ))
    app._url, app._api_key = plane.url, None
    # the nodes of a test share a folder, and a port may have belonged to another control plane
    (agentfield_home() / "control_planes" / plane.url.removeprefix("http://")).unlink(missing_ok=True)
    await stack.enter_async_context(app)
    client = await stack.enter_async_context(RecordingClient(plane.url))
    http = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
    return Installation(server, plane, client, http, voice)
